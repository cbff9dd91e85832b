//! Descriptors moved while a program runs: a shell or interpreter that puts an outbound socket on
//! its own standard input and output (`exec 0<&5 1>&5`, `os.dup2`, `fcntl(F_DUPFD)`).
//!
//! The system calls' exit: by their own functions where fentry works, else by tracepoints, the last door.
//! Descriptors that come over a socket are noted where LSM or fentry works.

use crate::kernel::Object;
use crate::kernel::file::File;
use crate::kernel::task::{Descriptors, Task};
use crate::record::{self, Judgement, Subject};
use crate::reflex::{guard, provenance, stdio};
use aya_ebpf::macros::{fentry, fexit, lsm, tracepoint};
use aya_ebpf::programs::{FEntryContext, FExitContext, LsmContext, TracePointContext};
use bytemuck::Zeroable;
use monitor_common::exec::{Moved, STDIO_INET_OUT, Stdio};
use monitor_common::header::{Kind, Reason};
use monitor_common::state::{self, TASK_INTERPRETER, TASK_NET_OUT, TASK_SHELL, TASK_STDIN_INET, TASK_STDOUT_INET};

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
    moved(unsafe { ctx.read_at::<i64>(RET) }.ok()?)
}

/// One door a system call, since a program has one place: its argument is the saved registers, then
/// comes the result.
macro_rules! exits {
    ($($name:ident = $function:literal),+) => {
        $(
            #[fexit(function = $function)]
            #[doc = concat!("Exit of ", $function, ".")]
            pub fn $name(ctx: FExitContext) -> i32 {
                let _ = moved(ctx.arg::<i64>(1));
                0
            }
        )+
    };
}

exits! {
    fexit_dup = "__x64_sys_dup",
    fexit_dup2 = "__x64_sys_dup2",
    fexit_dup3 = "__x64_sys_dup3",
    fexit_fcntl = "__x64_sys_fcntl"
}

/// A descriptor arrives over a socket or out of another process (SCM_RIGHTS, pidfd_getfd).
///
/// match-proto: file_receive(struct file *file)
#[lsm(hook = "file_receive")]
pub fn lsm_received(ctx: LsmContext) -> i32 {
    let _ = received(ctx.arg(0));
    0
}

/// The same place where LSM is not active.
///
/// match-proto: security_file_receive(struct file *file)
#[fentry(function = "security_file_receive")]
pub fn fentry_received(ctx: FEntryContext) -> i32 {
    let _ = received(ctx.arg(0));
    0
}

/// Who is handed a connection has one.
#[inline(always)]
fn received(file: *const u8) -> Option<()> {
    let tgid = Task::running()?.1;
    let entry = provenance::entry(tgid)?;
    if entry.flags & TASK_NET_OUT != 0 {
        return None;
    }
    let mut stdio = Stdio::zeroed();
    stdio::look(Some(File(Object::new(file)?)), &mut stdio);
    if stdio.kind == STDIO_INET_OUT {
        entry.flags |= TASK_NET_OUT;
        let start_ns = entry.start_ns;
        provenance::set_origin(&mut entry.origin, tgid, start_ns, &stdio.peer, record::now());
    }
    Some(())
}

#[inline(always)]
fn moved(fd: i64) -> Option<()> {
    if !(0..=2).contains(&fd) {
        return None;
    }
    let (task, tgid) = Task::running()?;
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
    emit(entry, fd as u32, descriptors, &judgement)
}

#[inline(always)]
fn outbound(descriptors: Descriptors, fd: u32) -> bool {
    descriptors.file(fd).is_some_and(stdio::is_outbound)
}

#[inline(always)]
fn emit(entry: &state::Task, fd: u32, descriptors: Descriptors, judgement: &Judgement) -> Option<()> {
    let subject = Subject::running(entry);
    let mut reserved = record::begin::<Moved>(Kind::Moved, &subject, judgement, record::now())?;
    let out = reserved.as_mut_ptr();
    // SAFETY: the reservation is a Moved.
    unsafe {
        for i in 0..3 {
            stdio::look(descriptors.file(i), &mut (*out).stdio[i as usize]);
        }
        (*out).task_flags = entry.flags;
        (*out).fd = fd;
    }
    record::submit(reserved, judgement);
    Some(())
}
