//! Attempts upon the daemon's process: signals, tracing, its scheduling and limits.

use crate::kernel::Object;
use crate::kernel::task::{Task, argument};
use crate::reflex::guard::{self, Means};
use crate::reflex::own;
use aya_ebpf::macros::{btf_tracepoint, fentry, lsm, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, LsmContext, TracePointContext};
use monitor_common::field::Field;
use monitor_common::header::Rung;
use monitor_common::own::Attempt;

const DENY: Means = Means::Deny(Rung::Lsm);
/// As in `descriptor`.
const RET: usize = 16;
/// include/linux/ptrace.h: the other modes are those of readers, such as `ps`.
const PTRACE_MODE_ATTACH: u32 = 2;
/// include/uapi/linux/ptrace.h
const PTRACE_ATTACH: u64 = 16;
/// See above.
const PTRACE_SEIZE: u64 = 0x4206;
/// include/linux/sched/signal.h: in place of a pointer, from a system call's caller and from the kernel itself.
const SEND_SIG_NOINFO: u64 = 0;
/// See above.
const SEND_SIG_PRIV: u64 = 1;
const SIGSTOP: u32 = 19;
const SIGCHLD: u32 = 17;
/// include/uapi/linux/resource.h
const PRIO_PROCESS: u32 = 0;

/// A signal has been queued, by the running task: by kill(2) and its kin, pidfd_send_signal(2), ptrace(2) or a
/// write to cgroup.kill. Told on every kernel; it comes too late to keep the signal from the daemon.
///
/// match-proto: signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)
#[btf_tracepoint(function = "signal_generate")]
pub fn signal_sent(ctx: BtfTracePointContext) -> i32 {
    let _ = try_sent(&ctx);
    0
}

#[inline(always)]
fn try_sent(ctx: &BtfTracePointContext) -> Option<()> {
    let signal = ctx.arg::<u32>(0);
    // Every process that ends sends one, and nobody is harmed by it.
    if signal == SIGCHLD {
        return None;
    }
    let target = Task(Object::new(ctx.arg::<*const u8>(2))?);
    if !own::is_daemon(target) {
        return None;
    }
    let info = ctx.arg::<u64>(1);
    // The kernel's own (out of memory, a timer's) interrupt whoever runs; ptrace(2) stops in its own name.
    let meant = match info {
        SEND_SIG_NOINFO => true,
        SEND_SIG_PRIV => signal == SIGSTOP,
        // SI_FROMUSER (include/linux/signal.h)
        _ => Object::new(info as *const u8)?.get::<i32>(Field::SiginfoCode)? <= 0,
    };
    if meant {
        own::attempt(&own::intruder()?, Attempt::Signal, signal, 0, Means::Kill, false)?;
    }
    Some(())
}

/// Before a signal is sent. What is only watched is told by the signal itself.
///
/// match-proto: task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)
#[lsm(hook = "task_kill")]
pub fn lsm_signal(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(4) != 0 {
        return 0;
    }
    let signal = ctx.arg::<u32>(2);
    // 0 asks whether the process is there.
    if signal == 0 {
        return 0;
    }
    guard::errno(upon(ctx.arg(0), Attempt::Signal, signal, DENY, true))
}

/// Before ptrace(2) attaches, /proc/PID/mem is opened, and the like.
///
/// match-proto: ptrace_access_check(struct task_struct *child, unsigned int mode)
#[lsm(hook = "ptrace_access_check")]
pub fn lsm_trace(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(2) != 0 || ctx.arg::<u32>(1) & PTRACE_MODE_ATTACH == 0 {
        return 0;
    }
    guard::errno(upon(ctx.arg(0), Attempt::Trace, 0, DENY, false))
}

/// The same place without the power to refuse.
///
/// match-proto: security_ptrace_access_check(struct task_struct *child, unsigned int mode)
#[fentry(function = "security_ptrace_access_check")]
pub fn fentry_trace(ctx: FEntryContext) -> i32 {
    if ctx.arg::<u32>(1) & PTRACE_MODE_ATTACH != 0 {
        let _ = upon(ctx.arg(0), Attempt::Trace, 0, Means::Kill, false);
    }
    0
}

/// Before scheduling class or processors change.
///
/// match-proto: task_setscheduler(struct task_struct *p)
#[lsm(hook = "task_setscheduler")]
pub fn lsm_scheduler(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(1) != 0 {
        return 0;
    }
    guard::errno(upon(ctx.arg(0), Attempt::Resources, 0, DENY, false))
}

/// Before the nice value changes.
///
/// match-proto: task_setnice(struct task_struct *p, int nice)
#[lsm(hook = "task_setnice")]
pub fn lsm_nice(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    guard::errno(upon(ctx.arg(0), Attempt::Resources, 0, DENY, false))
}

/// Before a resource limit changes.
///
/// match-proto: task_setrlimit(struct task_struct *p, unsigned int resource, struct rlimit *new_rlim)
#[lsm(hook = "task_setrlimit")]
pub fn lsm_limit(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(3) != 0 {
        return 0;
    }
    guard::errno(upon(ctx.arg(0), Attempt::Resources, 0, DENY, false))
}

/// As [`lsm_scheduler`], without the power to refuse.
///
/// match-proto: security_task_setscheduler(struct task_struct *p)
#[fentry(function = "security_task_setscheduler")]
pub fn fentry_scheduler(ctx: FEntryContext) -> i32 {
    let _ = upon(ctx.arg(0), Attempt::Resources, 0, Means::Kill, false);
    0
}

/// As [`lsm_nice`], likewise.
///
/// match-proto: security_task_setnice(struct task_struct *p, int nice)
#[fentry(function = "security_task_setnice")]
pub fn fentry_nice(ctx: FEntryContext) -> i32 {
    let _ = upon(ctx.arg(0), Attempt::Resources, 0, Means::Kill, false);
    0
}

/// As [`lsm_limit`], likewise.
///
/// match-proto: security_task_setrlimit(struct task_struct *p, unsigned int resource, struct rlimit *new_rlim)
#[fentry(function = "security_task_setrlimit")]
pub fn fentry_limit(ctx: FEntryContext) -> i32 {
    let _ = upon(ctx.arg(0), Attempt::Resources, 0, Means::Kill, false);
    0
}

#[inline(always)]
fn upon(target: *const u8, attempt: Attempt, detail: u32, means: Means, quietly: bool) -> Option<bool> {
    if !own::is_daemon(Task(Object::new(target)?)) {
        return None;
    }
    own::attempt(&own::intruder()?, attempt, detail, 0, means, quietly)
}

/// Exit of ptrace(2), where neither LSM nor fentry shows it coming.
#[tracepoint]
pub fn traced(ctx: TracePointContext) -> u32 {
    let _ = try_traced(&ctx);
    0
}

#[inline(always)]
fn try_traced(ctx: &TracePointContext) -> Option<()> {
    let request = argument(Field::RegsFirstArg)?;
    if result(ctx)? != 0 || request != PTRACE_ATTACH && request != PTRACE_SEIZE {
        return None;
    }
    let who = own::intruder()?;
    if own::is_daemon(own::newest_tracee(who.task)?) {
        own::attempt(&who, Attempt::Trace, 0, 0, Means::Kill, false)?;
    }
    Some(())
}

/// Exit of process_vm_readv(2) and process_vm_writev(2): the process is the first argument. What the kernel did
/// not let through was tried all the same.
#[tracepoint]
pub fn memory_reached(_ctx: TracePointContext) -> u32 {
    let _ = called(Field::RegsFirstArg, Attempt::Trace);
    0
}

/// Exit of sched_setaffinity, sched_setscheduler, sched_setparam and sched_setattr: likewise.
#[tracepoint]
pub fn rescheduled(_ctx: TracePointContext) -> u32 {
    let _ = called(Field::RegsFirstArg, Attempt::Resources);
    0
}

/// Exit of setpriority(2) of a process.
#[tracepoint]
pub fn reniced(_ctx: TracePointContext) -> u32 {
    if argument(Field::RegsFirstArg).is_some_and(|which| which as u32 == PRIO_PROCESS) {
        let _ = called(Field::RegsSecondArg, Attempt::Resources);
    }
    0
}

/// Exit of prlimit64(2), which without new limits only reads.
#[tracepoint]
pub fn limited(_ctx: TracePointContext) -> u32 {
    if argument(Field::RegsThirdArg).is_some_and(|limits| limits != 0) {
        let _ = called(Field::RegsFirstArg, Attempt::Resources);
    }
    0
}

#[inline(always)]
fn called(process: Field, attempt: Attempt) -> Option<()> {
    let who = own::intruder()?;
    if own::is_called(who.task, argument(process)? as u32) {
        own::attempt(&who, attempt, 0, 0, Means::Kill, false)?;
    }
    Some(())
}

/// Exit of pidfd_getfd(2).
#[tracepoint]
pub fn descriptor_taken(ctx: TracePointContext) -> u32 {
    let _ = try_taken(&ctx);
    0
}

#[inline(always)]
fn try_taken(ctx: &TracePointContext) -> Option<()> {
    if result(ctx)? < 0 {
        return None;
    }
    let who = own::intruder()?;
    let pidfd = who.task.file(argument(Field::RegsFirstArg)? as u32)?;
    if own::is_daemon(own::of_pidfd(pidfd)?) {
        own::attempt(&who, Attempt::Trace, 0, 0, Means::Kill, false)?;
    }
    Some(())
}

#[inline(always)]
fn result(ctx: &TracePointContext) -> Option<i64> {
    // SAFETY: within the tracepoint's record.
    unsafe { ctx.read_at::<i64>(RET) }.ok()
}
