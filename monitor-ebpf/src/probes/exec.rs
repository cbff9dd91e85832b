//! Program start: the new image is in place and has not run an instruction. Most of what there is
//! to know about a shell is settled here, because redirections come before the exec.

mod emit;
mod flags;
mod hold;
mod judge;
mod look;
mod profile;

use crate::kernel::Object;
use crate::kernel::file::File;
use crate::kernel::task::Task;
use crate::record::{self, Judgement};
use crate::reflex::program::Arguments;
use crate::reflex::{doom, provenance};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::{btf_map, btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use monitor_common::exec::Stdio;
use monitor_common::field::Field;
use monitor_common::file::{COMPONENTS, FileRef};
use monitor_common::hash;
use monitor_common::state::{Fingerprint, HOST, Origin, TASK_DOOMED};
pub use profile::lacks;

/// What the steps of one exec know and hand on.
#[repr(C)]
struct Scratch {
    exe: FileRef,
    print: Fingerprint,
    stdio: [Stdio; 3],
    origin: Origin,
    time_ns: u64,
    /// What tells this start from others of its container; 0 if it is to be told in any case.
    shape: u64,
    /// Address of the name the program was started by, in kernel memory.
    filename: u64,
    /// The running `struct task_struct`, and the executable's `struct file`.
    task: u64,
    file: u64,
    parent_start_ns: u64,
    parent_tgid: u32,
    tgid: u32,
    flags: u32,
    class: u32,
    form: u32,
    script: u32,
    /// Is a connection open on one of the descriptors above the standard ones?
    holds_connection: u32,
    /// Were the arguments of a shell or the like read?
    has_arguments: u32,
}

/// All that one exec needs and the stack does not hold. By thread, not by CPU: newer kernels preempt programs at
/// tracepoints, and the next exec on this CPU would write over it.
#[repr(C)]
struct Room {
    scratch: Scratch,
    judgement: Judgement,
    arguments: Arguments,
    /// All its arguments, if they fit, and zeros behind them.
    words: [u64; hold::WORDS],
}

#[btf_map]
static ROOMS: HashMap<u32, Room, 512> = HashMap::new();

/// Never written: a room starts as a copy of it.
#[btf_map]
static EMPTY_ROOM: Array<Room, 1> = Array::new();

/// What a step that found no way on answers.
const STOP: u32 = 1;

impl Room {
    #[inline(always)]
    fn of<'a>(tid: u32) -> Option<&'a mut Self> {
        // SAFETY: this thread's own, as long as the program runs.
        ROOMS.get_ptr_mut(&tid).map(|room| unsafe { &mut *room })
    }
}

impl Scratch {
    #[inline(always)]
    fn task(&self) -> Option<Task> {
        Object::new(self.task as *const u8).map(Task)
    }

    #[inline(always)]
    fn file(&self) -> Option<File> {
        Object::new(self.file as *const u8).map(File)
    }
}

/// A step of the judgement, as a function of its own (see [`crate::reflex`]).
macro_rules! step {
    ($name:ident, $inner:path) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(tid: u32) -> u32 {
            match Room::of(tid).and_then($inner) {
                Some(()) => 0,
                None => STOP,
            }
        }
    };
}

step!(exec_look, look::look);
step!(exec_classify, look::classify);
step!(exec_read, look::read);
step!(exec_flags, flags::renew);
step!(exec_judge, judge::judge);
step!(exec_hold, hold::hold);
step!(exec_emit, emit::emit);

/// Hash of a component of the executable's path, the file's own name being 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn exec_component(tid: u32, index: u32) -> u32 {
    let index = index as usize & (COMPONENTS - 1);
    Room::of(tid).map_or(0, |room| hash::name(&room.scratch.exe.names[index]))
}

/// What the container's baseline says of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn exec_profile(tid: u32) -> u32 {
    match Room::of(tid).and_then(|room| profile::judge(tid, room)) {
        Some(()) => 0,
        None => STOP,
    }
}

/// Is the program that is about to be taken none that the container's baseline has?
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn exec_is_lacking(tid: u32) -> u32 {
    u32::from(Room::of(tid).and_then(|room| profile::compare(tid, room)) == Some(false))
}

/// match-proto: sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    let _ = try_exec(&ctx);
    0
}

#[inline(always)]
fn try_exec(ctx: &BtfTracePointContext) -> Option<()> {
    let task = Task(Object::new(ctx.arg::<*const u8>(0))?);
    let bprm = Object::new(ctx.arg::<*const u8>(2))?;
    let exe = bprm.follow(Field::BprmFile).map(File)?;
    in_room(task, exe, bprm.get(Field::BprmFilename)?)
}

/// Offset of `filename` in `sched:sched_process_exec`: the low half is where in the record the name is.
const FILENAME: usize = 8;

/// The same for kernels that preempt programs at BTF tracepoints and meanwhile skip them for everybody else on that
/// CPU (`prog->active`). Programs behind perf are run with preemption off (include/trace/perf.h), and are skipped while
/// a bpf(2) call is preempted that works on a map: there, both are attached, and what one has judged the other leaves
/// alone.
#[tracepoint]
pub fn process_exec_whole(ctx: TracePointContext) -> u32 {
    let _ = try_exec_whole(&ctx);
    0
}

#[inline(always)]
fn try_exec_whole(ctx: &TracePointContext) -> Option<()> {
    let task = Task::current()?;
    // SAFETY: within the tracepoint's record.
    let name = unsafe { ctx.read_at::<u32>(FILENAME) }.ok()? as u16;
    let name = ctx.as_ptr() as u64 + u64::from(name);
    in_room(task, task.mm()?.executable()?, name)
}

#[inline(always)]
fn in_room(task: Task, exe: File, filename: u64) -> Option<()> {
    let tid = task.tid()?;
    if is_judged(task) {
        return None;
    }
    ROOMS.insert(&tid, EMPTY_ROOM.get(0)?, 0).ok()?;
    let _ = executed(tid, task, exe, filename);
    let _ = ROOMS.remove(&tid);
    Some(())
}

/// Has the other door been gone through by this exec?
#[inline(always)]
fn is_judged(task: Task) -> bool {
    let entry = task.tgid().and_then(provenance::entry);
    entry.is_some_and(|entry| entry.exec_id != 0 && task.exec_id() == Some(entry.exec_id))
}

#[inline(always)]
fn executed(tid: u32, task: Task, exe: File, filename: u64) -> Option<()> {
    let tgid = task.tgid()?;
    let entry = match provenance::entry(tgid) {
        Some(entry) => entry,
        None => {
            let container = provenance::container_of(task)?;
            let parent = task.parent().and_then(Task::tgid).unwrap_or(0);
            provenance::create(tgid, task, container, parent)?
        }
    };
    if entry.flags & TASK_DOOMED != 0 && entry.container != HOST && doom::is_on() {
        doom::kill_current();
        return None;
    }
    // Not before there is room to judge it in.
    entry.exec_id = task.exec_id().unwrap_or(0);
    let scratch = &mut Room::of(tid)?.scratch;
    scratch.time_ns = record::now();
    scratch.filename = filename;
    scratch.file = exe.0.raw() as u64;
    scratch.task = task.0.raw() as u64;
    scratch.tgid = tgid;
    let stopped = exec_look(tid) == STOP
        || exec_classify(tid) == STOP
        || exec_read(tid) == STOP
        || exec_flags(tid) == STOP
        || exec_judge(tid) == STOP;
    if stopped {
        // What it runs now is not known.
        provenance::entry(tgid)?.exe = 0;
        return None;
    }
    // That there is nothing to say is no reason to stop.
    exec_profile(tid);
    if exec_hold(tid) != STOP {
        return Some(());
    }
    if exec_emit(tid) == STOP { None } else { Some(()) }
}
