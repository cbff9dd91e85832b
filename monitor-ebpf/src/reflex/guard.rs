//! Verdicts: from a reason and the container's policy bits to a deny or a kill.

use crate::maps::{CONTAINERS, config};
use crate::record::{Judgement, now};
use aya_ebpf::helpers::bpf_send_signal;
use monitor_common::header::{Reason, Rung, Verdict};
use monitor_common::policy::POLICY_OFF;
use monitor_common::state::HOST;

const SIGKILL: u32 = 9;
/// include/uapi/asm-generic/errno-base.h
const EPERM: i32 = 1;

/// Must this container's task be stopped for this reason?
#[inline(always)]
pub fn enforced(container: u64, tgid: u32, reason: Reason) -> bool {
    if reason as u8 == Reason::None as u8 || container == HOST || tgid <= 1 {
        return false;
    }
    // SAFETY: the value is read at once; a concurrent policy change makes it the old or the new one.
    match unsafe { CONTAINERS.get(&container) } {
        Some(policy) => policy.flags & POLICY_OFF == 0 && policy.enforce & (1 << reason as u32) != 0 && !exempt(tgid),
        None => false,
    }
}

/// Is the task the daemon itself, or is the daemon gone and was to take enforcement along? Asked
/// last, of acts that would be stopped.
#[inline(always)]
fn exempt(tgid: u32) -> bool {
    let Some(config) = config() else { return true };
    // A heartbeat that is written at this moment may be ahead of the clock just read.
    let silent = (now().wrapping_sub(config.heartbeat_ns) as i64) > config.limit_ns as i64;
    if silent { config.release != 0 } else { tgid == config.self_tgid }
}

/// What a hook can do about an act.
#[derive(Clone, Copy)]
pub enum Means {
    /// Kill the task; the act itself has happened.
    Kill,
    /// Refuse the act, on this rung.
    Deny(Rung),
}

/// Stops the running task by whatever the hook can do, if the policy says so.
#[inline(always)]
pub fn act(means: Means, container: u64, tgid: u32, reason: Reason, peer_tgid: u32) -> Judgement {
    match means {
        Means::Kill => kill(container, tgid, reason, peer_tgid),
        Means::Deny(rung) => deny(container, tgid, reason, peer_tgid, rung),
    }
}

/// What an LSM hook answers: EPERM if the act is refused.
#[inline(always)]
pub fn errno(refused: Option<bool>) -> i32 {
    if refused == Some(true) {
        // Keeps the branch: of a computed value the verifier does not know that it is 0 or -EPERM.
        // SAFETY: an empty instruction.
        unsafe { core::arch::asm!("") };
        return -EPERM;
    }
    0
}

/// Kills the running task's process if the policy says so: it does not return to user space.
#[inline(always)]
pub fn kill(container: u64, tgid: u32, reason: Reason, peer_tgid: u32) -> Judgement {
    let judgement = Judgement::told(reason, peer_tgid);
    // SAFETY: acts on the current task only.
    if enforced(container, tgid, reason) && unsafe { bpf_send_signal(SIGKILL) } == 0 {
        return judgement.acted(Verdict::Killed, Rung::Signal);
    }
    judgement
}

/// For hooks that can refuse: EPERM on `rung` if the policy says so.
#[inline(always)]
pub fn deny(container: u64, tgid: u32, reason: Reason, peer_tgid: u32, rung: Rung) -> Judgement {
    let judgement = Judgement::told(reason, peer_tgid);
    if enforced(container, tgid, reason) { judgement.acted(Verdict::Denied, rung) } else { judgement }
}
