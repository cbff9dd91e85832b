//! Process creation.

use crate::kernel::Object;
use crate::kernel::task::Task;
use crate::maps::TASKS;
use crate::record::{self, Judgement, Subject};
use crate::reflex::{doom, held, provenance};
use crate::share;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use monitor_common::exec::Fork;
use monitor_common::header::Kind;
use monitor_common::state::{HOST, TASK_BEGINS, TASK_DOOMED, TASK_ENTERED, TASK_ENTERING, UNTOLD_EXEC, UNTOLD_FORK};

/// Offset of `ret` in every `syscalls:sys_exit_*` record; see `descriptor`.
const RET: usize = 16;

/// match-proto: sched_process_fork(struct task_struct *parent, struct task_struct *child)
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> i32 {
    let _ = try_fork(&ctx);
    0
}

#[inline(always)]
fn try_fork(ctx: &BtfTracePointContext) -> Option<()> {
    let parent = Task(Object::new(ctx.arg::<*const u8>(0))?);
    let child = Task(Object::new(ctx.arg::<*const u8>(1))?);
    forked(parent, child)
}

#[inline(always)]
fn forked(parent: Task, child: Task) -> Option<()> {
    let tgid = child.tgid()?;
    let parent_tgid = parent.tgid()?;
    if tgid == parent_tgid {
        return None; // a thread
    }
    let (made, parent_start_ns) = match provenance::entry(parent_tgid) {
        // The child is a copy of its parent until it execs: same program, same descriptors.
        Some(known) => {
            TASKS.insert(&tgid, &*known, 0).ok()?;
            let made = provenance::entry(tgid)?;
            made.start_ns = child.start_ns()?;
            made.parent_tgid = parent_tgid;
            made.parent_start_ns = known.start_ns;
            made.children = 0;
            share::add(&raw mut known.children, 1);
            made.flags &= !TASK_ENTERED;
            made.unix_peer = 0;
            // clone3(CLONE_INTO_CGROUP) makes the child in another cgroup, without an attach.
            if made.container == HOST && parent.css_set() != child.css_set() {
                made.container = provenance::container_of(child)?;
                made.flags = made.flags & !TASK_BEGINS | provenance::begins(made.container);
                doom::found_line(made, tgid);
            } else {
                doom::continue_line(made, tgid);
            }
            doom::at_fork(made);
            if held::is_expected_of(made) {
                made.untold = UNTOLD_FORK | (known.untold & UNTOLD_EXEC);
                held::count_fork(made.container);
                return None;
            }
            if known.untold != 0 {
                record::tell(parent_tgid, record::now());
            }
            made.untold = 0;
            (made, known.start_ns)
        }
        None => {
            if parent.css_set() == child.css_set() {
                return None;
            }
            let container = provenance::container_of(child)?;
            if container == HOST {
                return None;
            }
            let made = provenance::create(tgid, child, container, parent_tgid)?;
            made.flags |= TASK_ENTERING | provenance::begins(container);
            made.last_open = provenance::program_of(child);
            (made, parent.start_ns().unwrap_or(0))
        }
    };
    let subject = Subject { tgid, tid: tgid, ..Subject::running(made) };
    let mut entry = record::begin::<Fork>(Kind::Fork, &subject, &Judgement::NOTHING, record::now())?;
    let out = entry.as_mut_ptr();
    // SAFETY: the reservation is a Fork.
    unsafe {
        (*out).parent_tgid = parent_tgid;
        (*out).reserved = 0;
        (*out).parent_start_ns = parent_start_ns;
        child.comm(&mut (*out).comm);
    }
    record::submit_quietly(entry);
    Some(())
}

/// A child on its way to its first instruction: clone and fork return 0 there. Signals are looked at
/// after the system call's exit (kernel/entry/common.c), so that one sent here comes first.
///
/// What [`process_fork`] has missed is made up for: kernels that preempt programs at BTF tracepoints skip them
/// meanwhile for everybody else on that CPU, but not those at system calls, which perf runs with preemption off.
#[tracepoint]
pub fn child_born(ctx: TracePointContext) -> u32 {
    let _ = try_born(&ctx);
    0
}

#[inline(always)]
fn try_born(ctx: &TracePointContext) -> Option<()> {
    // SAFETY: within the tracepoint's record.
    if unsafe { ctx.read_at::<i64>(RET) }.ok()? != 0 {
        return None;
    }
    let (child, tgid) = Task::running()?;
    let known = provenance::entry(tgid);
    if known.is_none_or(|entry| child.start_ns() != Some(entry.start_ns)) {
        return forked(child.parent()?, child);
    }
    let entry = provenance::entry(tgid)?;
    if doom::is_on() && entry.flags & TASK_DOOMED != 0 && entry.container != HOST {
        doom::kill_current();
    }
    Some(())
}
