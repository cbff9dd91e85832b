//! Process end.

use crate::kernel::Object;
use crate::kernel::task::Task;
use crate::maps::TASKS;
use crate::record::{self, Judgement, Subject};
use crate::reflex::{held, provenance};
use crate::share;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use monitor_common::exec::Exit;
use monitor_common::header::Kind;
use monitor_common::state::UNTOLD_FORK;

/// match-proto: sched_process_exit(struct task_struct *p)
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    let _ = try_exit(&ctx);
    0
}

#[inline(always)]
fn try_exit(ctx: &BtfTracePointContext) -> Option<()> {
    let task = Task(Object::new(ctx.arg::<*const u8>(0))?);
    let tgid = task.tgid()?;
    let entry = provenance::entry(tgid)?;
    // do_exit() drops `live` before the tracepoint (kernel/exit.c): 0 = the last thread.
    if task.live_threads()? > 0 {
        return None;
    }
    if let Some(parent) = provenance::entry(entry.parent_tgid)
        && parent.start_ns == entry.parent_start_ns
    {
        share::add(&raw mut parent.children, u64::MAX);
    }
    if entry.untold & UNTOLD_FORK != 0 && entry.children == 0 {
        // Nobody knows of it, nobody is left who descends from it.
        held::count_exit(entry.container);
        let _ = TASKS.remove(&tgid);
        return None;
    }
    let subject = Subject::running(entry);
    if entry.untold != 0 {
        record::tell(tgid, record::now());
    }
    let _ = TASKS.remove(&tgid);
    let mut reserved = record::begin::<Exit>(Kind::Exit, &subject, &Judgement::NOTHING, record::now())?;
    let out = reserved.as_mut_ptr();
    // SAFETY: the reservation is an Exit.
    unsafe {
        (*out).code = task.exit_code().unwrap_or(0);
        (*out).reserved = 0;
    }
    record::submit_quietly(reserved);
    Some(())
}
