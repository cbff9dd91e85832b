//! What the daemon has not been told of a process, because the container's baseline expects it (docs/adr/0016): that it was
//! forked, and what it runs. It is told as soon as something else is told of it, its ancestors' first, so that a finding
//! never stands without the line that leads to it.

use super::{Judgement, Subject, begin_alone, submit_quietly};
use crate::kernel::{clear_words, copy_words};
use crate::maps::TASKS;
use monitor_common::exec::{Again, Fork};
use monitor_common::header::Kind;
use monitor_common::state::{Task, UNTOLD_EXEC, UNTOLD_FORK};

/// Generations that are told of at once. What is further up is for the daemon to find in /proc.
const LINE: u32 = 8;

/// Tells what was held back of a process and its ancestors, as of a moment before `time_ns`: the two rings are merged by
/// time.
#[inline(always)]
pub fn tell(tgid: u32, time_ns: u64) {
    tell_line(tgid, time_ns.wrapping_sub(1));
}

/// A function of its own (see [`crate::reflex`]), as are the others here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_line(tgid: u32, time_ns: u64) -> u32 {
    for _ in 0..LINE {
        let top = topmost(tgid);
        if top == 0 {
            break;
        }
        tell_one(top, time_ns);
    }
    0
}

/// The outermost of those above a process, and itself, of which something is still to be told; 0 if nothing is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn topmost(tgid: u32) -> u32 {
    let (mut at, mut top) = (tgid, 0);
    for _ in 0..LINE {
        let Some(task) = task(at) else { break };
        if task.untold == 0 {
            break;
        }
        top = at;
        let Some(parent) = parent(task) else { break };
        if parent.untold == 0 {
            break;
        }
        at = task.parent_tgid;
    }
    top
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_one(tgid: u32, time_ns: u64) -> u32 {
    let Some(task) = task(tgid) else { return 0 };
    let untold = task.untold;
    task.untold = 0;
    let subject = Subject { tgid, tid: tgid, ..Subject::running(task) };
    if untold & UNTOLD_FORK != 0 {
        forked(task, &subject, time_ns);
    }
    if untold & UNTOLD_EXEC != 0 && !(untold & UNTOLD_FORK != 0 && inherits(task)) {
        runs(task, &subject, time_ns);
    }
    0
}

#[inline(always)]
fn task<'a>(tgid: u32) -> Option<&'a mut Task> {
    // SAFETY: as in `provenance::entry`.
    TASKS.get_ptr_mut(&tgid).map(|task| unsafe { &mut *task })
}

/// The process that forked it, if that lives.
#[inline(always)]
fn parent<'a>(of: &Task) -> Option<&'a mut Task> {
    task(of.parent_tgid).filter(|parent| parent.start_ns == of.parent_start_ns)
}

/// Neither it nor its parent has started a program since the fork: the daemon knows what it runs.
#[inline(always)]
fn inherits(task: &Task) -> bool {
    parent(task).is_some_and(|parent| parent.exec_id == task.exec_id && parent.shape == task.shape)
}

#[inline(always)]
fn forked(task: &Task, subject: &Subject, time_ns: u64) {
    let begun = begin_alone::<Fork>(subject.container, Kind::Fork, subject, &Judgement::NOTHING, time_ns);
    let Some(mut entry) = begun else { return };
    let out = entry.as_mut_ptr();
    // SAFETY: the reservation is a Fork.
    unsafe {
        (*out).parent_tgid = task.parent_tgid;
        (*out).reserved = 0;
        (*out).parent_start_ns = task.parent_start_ns;
        // Its parent's, as far as anybody knows.
        clear_words(&mut (*out).comm);
    }
    submit_quietly(entry);
}

#[inline(always)]
fn runs(task: &Task, subject: &Subject, time_ns: u64) {
    let begun = begin_alone::<Again>(subject.container, Kind::Again, subject, &Judgement::NOTHING, time_ns);
    let Some(mut entry) = begun else { return };
    let out = entry.as_mut_ptr();
    // SAFETY: the reservation is an Again.
    unsafe {
        (*out).parent_tgid = task.parent_tgid;
        (*out).task_flags = task.flags;
        (*out).parent_start_ns = task.parent_start_ns;
        (*out).shape = task.shape;
        copy_words(&task.stdin, &mut (*out).stdin);
        copy_words(&task.stdout, &mut (*out).stdout);
    }
    submit_quietly(entry);
}
