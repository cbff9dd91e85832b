//! A set of processes that is being killed must not outrun the killer: who is born into it is marked at
//! the fork and dies on its way to its first instruction. The daemon kills those that live already.

use crate::maps::{DOOMED, config};
use crate::share;
use aya_ebpf::helpers::bpf_send_signal;
use core::hint::black_box;
use monitor_common::lineage::{self, LINEAGE};
use monitor_common::state::{HOST, RESPONSE_DOOM, TASK_DOOMED, Task};

const SIGKILL: u32 = 9;

/// Depth of a line that is full.
const MOST: u32 = LINEAGE as u32;
const _: () = assert!((MOST + 1).is_power_of_two());

/// A process begins a line of its own: it comes into the container from outside, or is older than the
/// monitor.
#[inline(always)]
pub fn found_line(task: &mut Task, tgid: u32) {
    task.lineage[0] = lineage::id(tgid, task.start_ns);
    task.depth = 1;
}

/// A copy of its parent's entry becomes the child's.
#[inline(always)]
pub fn continue_line(child: &mut Task, tgid: u32) {
    let id = lineage::id(tgid, child.start_ns);
    // Masked right where it is used: kernels before 5.16 forget the bounds of a number that was spilled.
    let depth = black_box(child.depth) & MOST;
    if let Some(slot) = child.lineage.get_mut(depth as usize) {
        *slot = id;
        child.depth = depth + 1;
    }
}

/// Is a set being killed anywhere?
#[inline(always)]
pub fn is_on() -> bool {
    config().is_some_and(|config| config.responses & RESPONSE_DOOM != 0)
}

/// Marks a process that is born into a doomed set, and kills the parent, which runs now.
#[inline(always)]
pub fn at_fork(child: &mut Task) {
    if !is_on() || child.container == HOST {
        return;
    }
    for i in 0..LINEAGE {
        if i >= child.depth as usize {
            return;
        }
        let id = child.lineage[i];
        let Some(set) = DOOMED.get_ptr_mut(&id) else { continue };
        // SAFETY: a live map value; only its number changes, by atomic addition.
        unsafe {
            if (*set).container != child.container {
                continue;
            }
            share::add(&raw mut (*set).born, 1);
        }
        child.flags |= TASK_DOOMED;
        kill_current();
        return;
    }
}

/// Kills the running task's process before it returns to user space.
#[inline(always)]
pub fn kill_current() {
    // SAFETY: acts on the current task only.
    let _ = unsafe { bpf_send_signal(SIGKILL) };
}
