//! Writing records: header, choice of ring, loss accounting. What was held back of a process until something is told of it is
//! told first.

mod untold;

use crate::kernel::copy_words;
use crate::kernel::file::{self, Dentry, Inode};
use crate::kernel::task::Task;
use crate::maps::{EVENTS, EVENTS_BYTES, LOSS, LOST, SEQUENCE, VERDICTS, VERDICTS_BYTES};
use crate::share::{self, Ring};
use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use core::hint::black_box;
use monitor_common::ABI_VERSION;
use monitor_common::file::Open;
use monitor_common::header::{Header, Kind, Reason, Rung, Verdict};
use monitor_common::state::{self, LossKey, Origin};
pub use untold::tell;

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: usize = 1 << 10;

/// Does the reader look by itself, at short intervals, or is on its way? The daemon clears it, in its own memory, before it
/// sleeps.
#[btf_map]
static READER_LOOKS: Array<u32, 1, MMAPABLE> = Array::new();

/// What a handler found, besides the fact.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Judgement {
    /// Reason, verdict and rung, a byte each from the lowest.
    word: u32,
    peer_tgid: u32,
}

impl Judgement {
    /// Nothing special.
    pub const NOTHING: Self = Self { word: 0, peer_tgid: 0 };

    /// A reason, not acted on.
    #[inline(always)]
    pub const fn told(reason: Reason, peer_tgid: u32) -> Self {
        Self { word: reason as u32, peer_tgid }
    }

    /// A reason that was acted on.
    #[inline(always)]
    pub const fn acted(self, verdict: Verdict, rung: Rung) -> Self {
        Self { word: self.word | (verdict as u32) << 8 | (rung as u32) << 16, peer_tgid: self.peer_tgid }
    }

    /// Is there a reason?
    #[inline(always)]
    pub const fn tells(&self) -> bool {
        self.word & 0xff != 0
    }

    /// Was anything done about it?
    #[inline(always)]
    pub const fn stops(&self) -> bool {
        self.word >> 8 != 0
    }

    /// Was the act refused?
    #[inline(always)]
    pub fn denied(&self) -> bool {
        // Opaque, so that it is not asked of a judgement that was never made: where there is none the compiler would test
        // whatever the register holds and throw the answer away, and kernels up to 6.1 refuse the program for it.
        (black_box(self.word) >> 8) & 0xff == Verdict::Denied as u32
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
    /// The running task, of the process that has this entry.
    #[inline(always)]
    pub fn running(entry: &state::Task) -> Self {
        let (ids, user) = (bpf_get_current_pid_tgid(), bpf_get_current_uid_gid());
        Self {
            tgid: (ids >> 32) as u32,
            tid: ids as u32,
            uid: user as u32,
            start_ns: entry.start_ns,
            container: entry.container,
        }
    }

    /// Any task.
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

/// Reserves room for a record, with the header filled in. What finds none is a counted loss.
#[inline(always)]
pub fn begin<T: 'static>(
    kind: Kind,
    subject: &Subject,
    judgement: &Judgement,
    time_ns: u64,
) -> Option<RingBufEntry<T>> {
    begin_for(subject.container, kind, subject, judgement, time_ns)
}

/// As [`begin`], at the expense of another container than the record is about.
#[inline(always)]
pub fn begin_for<T: 'static>(
    payer: u64,
    kind: Kind,
    subject: &Subject,
    judgement: &Judgement,
    time_ns: u64,
) -> Option<RingBufEntry<T>> {
    // Neither a packet nor a cgroup is something that a process does: what it did before is told, or it did nothing.
    // Whose process it is is not asked: what follows would be verified once for each answer.
    if !matches!(kind, Kind::Payload | Kind::Cgroup) {
        tell(subject.tgid, time_ns);
    }
    begin_alone(payer, kind, subject, judgement, time_ns)
}

/// The record by itself.
#[inline(always)]
fn begin_alone<T: 'static>(
    payer: u64,
    kind: Kind,
    subject: &Subject,
    judgement: &Judgement,
    time_ns: u64,
) -> Option<RingBufEntry<T>> {
    let sequence = next();
    let Some(mut entry) = reserve::<T>(judgement.tells(), payer) else {
        lost(payer, kind);
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
        (*header).reason = judgement.word as u8;
        (*header).verdict = (judgement.word >> 8) as u8;
        (*header).rung = (judgement.word >> 16) as u8;
        (*header).reserved = 0;
        (*header).peer_tgid = judgement.peer_tgid;
    }
    Some(entry)
}

/// Hands a record over. It wakes the reader if that sleeps: an interrupt, in a virtual machine one that costs more than
/// all the rest of the handler.
///
/// Left to itself the kernel wakes a reader that has read all there was before (kernel/bpf/ringbuf.c). A record that was
/// handed over quietly keeps it from that, so there it is said; verdicts have a ring without such records.
#[inline(always)]
pub fn submit<T>(record: RingBufEntry<T>, judgement: &Judgement) {
    let flags = if judgement.tells() {
        0
    } else if sleeps() {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    record.submit(flags.into());
}

/// The same for records that nobody waits for (fork, exit): they are read with the next that wakes the reader, or at
/// its next look.
#[inline(always)]
pub fn submit_quietly<T>(record: RingBufEntry<T>) {
    record.submit(BPF_RB_NO_WAKEUP.into());
}

/// The same for records that are waited for though they have no reason.
#[inline(always)]
pub fn submit_at_once<T>(record: RingBufEntry<T>) {
    record.submit(BPF_RB_FORCE_WAKEUP.into());
}

/// Does the reader sleep? Only the first who asks hears so.
#[inline(always)]
fn sleeps() -> bool {
    let Some(looks) = READER_LOOKS.get_ptr_mut(0) else { return true };
    // SAFETY: a word; two processors that read it at once both wake the reader.
    unsafe {
        if looks.read_volatile() != 0 {
            return false;
        }
        looks.write_volatile(1);
    }
    true
}

/// Room in the ring that the record belongs into, if the payer may have it.
#[inline(always)]
fn reserve<T: 'static>(tells: bool, payer: u64) -> Option<RingBufEntry<T>> {
    let length = size_of::<T>() as u64;
    if tells {
        let ring = Ring { map: (&raw const VERDICTS).cast_mut().cast(), bytes: VERDICTS_BYTES as u64, id: 1 };
        if share::admits(&ring, payer, length) { VERDICTS.reserve_untyped::<T>(0) } else { None }
    } else {
        let ring = Ring { map: (&raw const EVENTS).cast_mut().cast(), bytes: EVENTS_BYTES as u64, id: 0 };
        if share::admits(&ring, payer, length) { EVENTS.reserve_untyped::<T>(0) } else { None }
    }
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

/// Tells of a file: opened, or about to be executed, mapped or named. `inode` is `None` for a name that
/// has no file yet.
#[expect(clippy::too_many_arguments, reason = "everything an open record is made of")]
#[inline(always)]
pub fn open(
    task: Task,
    entry: &state::Task,
    inode: Option<Inode>,
    dentry: Dentry,
    bits: u32,
    sensitive: Reason,
    origin: &Origin,
    judgement: &Judgement,
) {
    let subject = Subject::running(entry);
    let Some(mut reserved) = begin::<Open>(Kind::Open, &subject, judgement, now()) else { return };
    let out = reserved.as_mut_ptr();
    // SAFETY: the reservation is an Open.
    unsafe {
        file::describe(inode, dentry, &mut (*out).file, task.root_sb());
        (*out).file.flags |= bits;
        copy_words(origin, &mut (*out).origin);
        (*out).sensitive = sensitive as u32;
        (*out).task_flags = entry.flags;
    }
    submit(reserved, judgement);
}

/// Counts a record that found no room in its ring.
#[inline(always)]
pub fn lost(container: u64, kind: Kind) {
    if let Some(count) = LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot.
        unsafe { *count = (*count).wrapping_add(1) };
    }
    let key = LossKey { container, kind: kind as u32, reserved: 0 };
    match LOSS.get_ptr_mut(&key) {
        // SAFETY: the slot lives as long as this program run; a lost update is a count off by one.
        Some(count) => unsafe { *count = (*count).wrapping_add(1) },
        None => {
            let _ = LOSS.insert(&key, &1, 0);
        }
    }
}
