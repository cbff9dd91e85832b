//! Writing records: header, choice of ring, loss accounting.

use crate::kernel::task::Task;
use crate::maps::{ERRORS, EVENTS, LOSS, SEQUENCE, VERDICTS};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use monitor_common::ABI_VERSION;
use monitor_common::header::{Header, Kind, Reason, Rung, Verdict};
use monitor_common::state::{ErrorKey, LossKey};

/// What a handler found, besides the fact.
#[derive(Clone, Copy)]
pub struct Judgement {
    pub reason: Reason,
    pub verdict: Verdict,
    pub rung: Rung,
    pub peer_tgid: u32,
}

impl Judgement {
    /// Nothing special.
    pub const NOTHING: Self = Self {
        reason: Reason::None,
        verdict: Verdict::Observed,
        rung: Rung::None,
        peer_tgid: 0,
    };

    /// A reason, not acted on.
    pub const fn told(reason: Reason, peer_tgid: u32) -> Self {
        Self { reason, verdict: Verdict::Observed, rung: Rung::None, peer_tgid }
    }
}

/// Who the record is about.
#[derive(Clone, Copy)]
pub struct Subject {
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    pub start_ns: u64,
    pub container: u64,
}

impl Subject {
    /// A running task.
    #[inline(always)]
    pub fn of(task: Task, container: u64) -> Self {
        Self {
            tgid: task.tgid().unwrap_or(0),
            tid: task.tid().unwrap_or(0),
            uid: task.uid().unwrap_or(u32::MAX),
            start_ns: task.start_ns().unwrap_or(0),
            container,
        }
    }
}

/// Now, ns since boot.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Reserves room for a record, with the header filled in. A full ring is a counted loss.
#[inline(always)]
pub fn begin<T: 'static>(
    kind: Kind,
    subject: &Subject,
    judgement: &Judgement,
    time_ns: u64,
) -> Option<RingBufEntry<T>> {
    let sequence = next();
    let entry = if judgement.reason as u8 != Reason::None as u8 {
        VERDICTS.reserve_untyped::<T>(0)
    } else {
        EVENTS.reserve_untyped::<T>(0)
    };
    let Some(mut entry) = entry else {
        lost(subject.container, kind);
        return None;
    };
    let header = entry.as_mut_ptr().cast::<Header>();
    // SAFETY: every record starts with a Header, and the reservation is at least that large.
    unsafe {
        (*header).abi = ABI_VERSION;
        (*header).kind = kind as u16;
        (*header).len = size_of::<T>() as u32;
        (*header).seq = sequence;
        (*header).time_ns = time_ns;
        (*header).tgid = subject.tgid;
        (*header).tid = subject.tid;
        (*header).start_ns = subject.start_ns;
        (*header).container = subject.container;
        (*header).cpu = bpf_get_smp_processor_id() as u32;
        (*header).uid = subject.uid;
        (*header).verdict = judgement.verdict as u8;
        (*header).reason = judgement.reason as u8;
        (*header).rung = judgement.rung as u8;
        (*header).reserved = 0;
        (*header).peer_tgid = judgement.peer_tgid;
    }
    Some(entry)
}

#[inline(always)]
fn next() -> u64 {
    match SEQUENCE.get_ptr_mut(0) {
        Some(counter) => {
            // SAFETY: this CPU's own slot; an interrupt that nests here makes a duplicate at worst.
            unsafe {
                let value = *counter;
                *counter = value.wrapping_add(1);
                value
            }
        }
        None => 0,
    }
}

/// Counts a record that found its ring full.
#[inline(always)]
pub fn lost(container: u64, kind: Kind) {
    let key = LossKey { container, kind: kind as u32, reserved: 0 };
    match LOSS.get_ptr_mut(&key) {
        // SAFETY: the slot lives as long as this program run; a lost update is a count off by one.
        Some(count) => unsafe { *count = (*count).wrapping_add(1) },
        None => {
            let _ = LOSS.insert(&key, &1, 0);
        }
    }
}

/// Counts a handler that failed. `probe` is the handler's place in the daemon's table of hooks.
#[inline(always)]
pub fn failed(probe: u32, line: u32) {
    let key = ErrorKey { probe, line };
    match ERRORS.get_ptr_mut(&key) {
        // SAFETY: as in `lost`.
        Some(count) => unsafe { *count = (*count).wrapping_add(1) },
        None => {
            let _ = ERRORS.insert(&key, &1, 0);
        }
    }
}
