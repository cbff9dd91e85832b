//! Descriptors moved while a program runs: a shell or interpreter that puts an outbound socket on
//! its own standard input and output (`exec 0<&5 1>&5`, `os.dup2`, `fcntl(F_DUPFD)`).
//!
//! The last door, the system calls' exit: without LSM or fentry nothing else sees a dup.

use crate::kernel::task::{Descriptors, Task};
use crate::record::{self, Judgement, Subject};
use crate::reflex::{guard, provenance, stdio};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use monitor_common::exec::Moved;
use monitor_common::header::{Kind, Reason};
use monitor_common::state::{TASK_INTERPRETER, TASK_NET_OUT, TASK_SHELL, TASK_STDIN_INET, TASK_STDOUT_INET};

/// Offset of `ret` in every `syscalls:sys_exit_*` record: 8 bytes of common fields, 8 of the
/// system call's number (`/sys/kernel/tracing/events/syscalls/sys_exit_dup2/format`).
const RET: usize = 16;

/// Exit of dup, dup2, dup3 and fcntl: the new descriptor is the result. For other fcntl commands
/// the result is some small number; then the descriptors just are looked at once more.
#[tracepoint]
pub fn descriptor_moved(ctx: TracePointContext) -> u32 {
    let _ = try_moved(&ctx);
    0
}

#[inline(always)]
fn try_moved(ctx: &TracePointContext) -> Option<()> {
    // SAFETY: within the tracepoint's record.
    let fd = unsafe { ctx.read_at::<i64>(RET) }.ok()?;
    if !(0..=2).contains(&fd) {
        return None;
    }
    let task = Task::current()?;
    let tgid = task.tgid()?;
    let entry = provenance::entry(tgid)?;
    if entry.flags & TASK_NET_OUT == 0 || entry.flags & (TASK_SHELL | TASK_INTERPRETER) == 0 {
        return None;
    }
    let descriptors = task.descriptors()?;
    let stdin = outbound(descriptors, 0);
    let stdout = outbound(descriptors, 1) || outbound(descriptors, 2);
    let mut flags = entry.flags & !(TASK_STDIN_INET | TASK_STDOUT_INET);
    if stdin {
        flags |= TASK_STDIN_INET;
    }
    if stdout {
        flags |= TASK_STDOUT_INET;
    }
    let before = entry.flags;
    entry.flags = flags;
    if !(stdin && stdout) || before & TASK_STDIN_INET != 0 && before & TASK_STDOUT_INET != 0 {
        return None;
    }
    let judgement = guard::kill(entry.container, tgid, Reason::ReverseShell, 0);
    emit(task, entry.container, flags, fd as u32, descriptors, &judgement)
}

#[inline(always)]
fn outbound(descriptors: Descriptors, fd: u32) -> bool {
    descriptors.file(fd).is_some_and(stdio::is_outbound)
}

#[inline(always)]
fn emit(
    task: Task,
    container: u64,
    flags: u32,
    fd: u32,
    descriptors: Descriptors,
    judgement: &Judgement,
) -> Option<()> {
    let subject = Subject::of(task, container);
    let mut reserved = record::begin::<Moved>(Kind::Moved, &subject, judgement, record::now())?;
    let out = reserved.as_mut_ptr();
    // SAFETY: the reservation is a Moved.
    unsafe {
        for i in 0..3 {
            stdio::look(descriptors.file(i), &mut (*out).stdio[i as usize]);
        }
        (*out).task_flags = flags;
        (*out).fd = fd;
    }
    reserved.submit(0);
    Some(())
}
