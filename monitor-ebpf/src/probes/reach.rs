//! System calls that reach for what lies outside of a container: namespaces, roots, mounts, kernel code,
//! other containers' processes. Honest containers make them rarely, so each is told; what of it is an
//! escape is for judgement, except that the host's own mount namespace is no container's business.

use crate::kernel::file::string_from_user;
use crate::kernel::task::{Task, argument};
use crate::maps::TASKS;
use crate::record::{self, Judgement, Subject};
use crate::reflex::{guard, provenance};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::macros::{btf_map, tracepoint};
use aya_ebpf::programs::TracePointContext;
use bytemuck::Zeroable;
use monitor_common::field::Field;
use monitor_common::file::{FILE_FOREIGN_SB, FILE_ROOT};
use monitor_common::header::{Kind, Reason};
use monitor_common::reach::{REACH_BPF, REACH_MODULE, REACH_MOUNT, REACH_SETNS, REACH_TRACE, Reach};
use monitor_common::state::{self, HOST, Origin, TASK_ENTERING};

const RET: usize = 16;
/// include/uapi/linux/ptrace.h
const PTRACE_ATTACH: u64 = 16;
/// As above.
const PTRACE_SEIZE: u64 = 0x4206;
/// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: u64 = 5;

/// Inode number of the host's mount namespace; 0 until the daemon has told.
#[btf_map]
static HOST_MOUNTS: Array<u64, 1> = Array::new();

/// The caller, if it is a container's and not the runtime on its way into one.
#[inline(always)]
fn caller<'a>() -> Option<(Task, u32, &'a mut state::Task)> {
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST || entry.flags & TASK_ENTERING != 0 { None } else { Some((task, tgid, entry)) }
}

#[inline(always)]
fn result(ctx: &TracePointContext) -> Option<i64> {
    // SAFETY: within the tracepoint's record.
    unsafe { ctx.read_at::<i64>(RET) }.ok()
}

#[inline(always)]
fn tell(
    task: Task,
    entry: &state::Task,
    judgement: &Judgement,
    what: u32,
    number: u64,
    failed: bool,
    texts: Option<(u64, u64)>,
) -> Option<()> {
    let subject = Subject::running(entry);
    let mut reserved = record::begin::<Reach>(Kind::Reach, &subject, judgement, record::now())?;
    let out = reserved.as_mut_ptr();
    let (source, target) = texts.unwrap_or((0, 0));
    // SAFETY: the reservation is a Reach.
    unsafe {
        (*out).what = what;
        (*out).task_flags = entry.flags;
        (*out).number = number;
        (*out).level = task.user_namespace().map_or(0, |(_, level)| level);
        (*out).failed = u32::from(failed);
        string_from_user(source, &mut (*out).source);
        string_from_user(target, &mut (*out).target);
    }
    record::submit(reserved, judgement);
    Some(())
}

/// Exit of setns(2): the task is where it wanted to be, and has done nothing there yet.
#[tracepoint]
pub fn namespace_joined(ctx: TracePointContext) -> u32 {
    let _ = try_joined(&ctx);
    0
}

#[inline(always)]
fn try_joined(ctx: &TracePointContext) -> Option<()> {
    if result(ctx)? != 0 {
        return None;
    }
    let (task, tgid, entry) = caller()?;
    let namespace = u64::from(task.mount_namespace()?);
    let hosts = HOST_MOUNTS.get(0).is_some_and(|known| *known == namespace);
    let judgement = if hosts {
        guard::act(guard::Means::Kill, entry.container, tgid, Reason::Escape, 0)
    } else {
        Judgement::NOTHING
    };
    tell(task, entry, &judgement, REACH_SETNS, namespace, false, None)
}

/// Exit of chroot(2).
#[tracepoint]
pub fn root_changed(ctx: TracePointContext) -> u32 {
    let _ = try_root(&ctx);
    0
}

#[inline(always)]
fn try_root(ctx: &TracePointContext) -> Option<()> {
    if result(ctx)? != 0 {
        return None;
    }
    let (task, _, entry) = caller()?;
    let root = task.root_directory()?;
    // Whether it is foreign cannot be told from where the task's root is now: the mounts tell.
    let bits = FILE_ROOT | FILE_FOREIGN_SB;
    record::open(task, entry, root.inode(), root, bits, Reason::None, &Origin::zeroed(), &Judgement::NOTHING);
    Some(())
}

/// Exit of mount(2).
#[tracepoint]
pub fn mounted(ctx: TracePointContext) -> u32 {
    let _ = try_mounted(&ctx);
    0
}

#[inline(always)]
fn try_mounted(ctx: &TracePointContext) -> Option<()> {
    let failed = result(ctx)? != 0;
    let (task, _, entry) = caller()?;
    let namespace = task.user_namespace().map_or(0, |(number, _)| u64::from(number));
    let texts = (argument(Field::RegsFirstArg)?, argument(Field::RegsSecondArg)?);
    tell(task, entry, &Judgement::NOTHING, REACH_MOUNT, namespace, failed, Some(texts))
}

/// Exit of init_module(2) and finit_module(2): whoever may call them may try again with a better module.
#[tracepoint]
pub fn module_offered(ctx: TracePointContext) -> u32 {
    let _ = try_module(&ctx);
    0
}

#[inline(always)]
fn try_module(ctx: &TracePointContext) -> Option<()> {
    let failed = result(ctx)? != 0;
    let (task, _, entry) = caller()?;
    tell(task, entry, &Judgement::NOTHING, REACH_MODULE, 0, failed, None)
}

/// Exit of bpf(2).
#[tracepoint]
pub fn program_offered(ctx: TracePointContext) -> u32 {
    let _ = try_bpf(&ctx);
    0
}

#[inline(always)]
fn try_bpf(ctx: &TracePointContext) -> Option<()> {
    let failed = result(ctx)? < 0;
    let (task, _, entry) = caller()?;
    if argument(Field::RegsFirstArg)? & 0xffff_ffff != BPF_PROG_LOAD {
        return None;
    }
    // SAFETY: the helper answers an error for what it cannot read; `prog_type` is the attributes' first word.
    let kind: u32 = unsafe { bpf_probe_read_user(argument(Field::RegsSecondArg)? as *const u32) }.ok()?;
    tell(task, entry, &Judgement::NOTHING, REACH_BPF, u64::from(kind), failed, None)
}

/// Exit of ptrace(2).
#[tracepoint]
pub fn process_traced(ctx: TracePointContext) -> u32 {
    let _ = try_traced(&ctx);
    0
}

#[inline(always)]
fn try_traced(ctx: &TracePointContext) -> Option<()> {
    let request = argument(Field::RegsFirstArg)?;
    if request != PTRACE_ATTACH && request != PTRACE_SEIZE || result(ctx)? != 0 {
        return None;
    }
    let (task, _, entry) = caller()?;
    let target = task.last_traced()?.tgid()?;
    // SAFETY: copied at once. A process that is not known here is the host's, from before the monitor.
    let container = unsafe { TASKS.get(&target) }.map_or(HOST, |known| known.container);
    if container == entry.container {
        return None;
    }
    tell(task, entry, &Judgement::told(Reason::None, target), REACH_TRACE, container, false, None)
}
