//! Program start: the new image is in place and has not run an instruction. Most of what there is
//! to know about a shell is settled here, because redirections come before the exec.

use crate::kernel::Object;
use crate::kernel::copy_words;
use crate::kernel::file::{File, string};
use crate::kernel::task::{Mm, Task};
use crate::record::{self, Judgement, Subject};
use crate::reflex::program::{self, Arguments, Class};
use crate::reflex::{doom, guard, provenance, stdio};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::{btf_map, btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use core::hint::black_box;
use monitor_common::argv::{Form, Text};
use monitor_common::exec::{
    ARGS_CLASSES, ARGS_HEAD, ARGS_TAIL, EXEC_ARGS_CUT, EXEC_BY_FINGERPRINT, EXEC_RELAY, EXEC_STDIN_TAINTED, Exec,
    STDIO_FILE, STDIO_INET_OUT, STDIO_PIPE, STDIO_TTY, STDIO_UNIX, Stdio,
};
use monitor_common::field::Field;
use monitor_common::file::{FILE_MEMFD, FILE_OVERLAY, FILE_TMPFS, FILE_UNLINKED, FILE_UPPER, FileRef};
use monitor_common::header::{Kind, Reason};
use monitor_common::state::{
    self, CLASS_INTERPRETER, CLASS_PACKAGE_MANAGER, CLASS_SESSION_SERVER, CLASS_SHELL, Fingerprint, HOST, InodeKey,
    Origin, TASK_DOOMED, TASK_DRIFT, TASK_ENTERED, TASK_ENTERING, TASK_EXE_TAINTED, TASK_FEEDS_SHELL, TASK_INTERPRETER,
    TASK_NET_OUT, TASK_PACKAGE_MANAGER, TASK_PACKAGE_SCRIPT, TASK_READS_STDIN, TASK_SESSION_SERVER, TASK_SHELL,
    TASK_STDIN_INET, TASK_STDOUT_INET, TASK_TAINTED,
};

/// Descriptors above the standard ones that are looked at to see whether a connection survived the
/// exec (`exec 3<>/dev/tcp/…`).
const INHERITED_FDS: core::ops::Range<u32> = 3..10;

/// What does not fit the stack.
#[repr(C)]
struct Scratch {
    exe: FileRef,
    print: Fingerprint,
    stdio: [Stdio; 3],
    origin: Origin,
    flags: u32,
    parent_tgid: u32,
    parent_start_ns: u64,
    class: u32,
    form: u32,
    script: u32,
    reserved: u32,
}

/// All that one exec needs of it. By thread, not by CPU: newer kernels preempt programs at tracepoints, and
/// the next exec on this CPU would write over it.
#[repr(C)]
struct Room {
    scratch: Scratch,
    judgement: Judgement,
    arguments: Arguments,
}

#[btf_map]
static ROOMS: HashMap<u32, Room, 512> = HashMap::new();

/// Never written: a room starts as a copy of it.
#[btf_map]
static EMPTY_ROOM: Array<Room, 1> = Array::new();

#[repr(C)]
struct ExecWith<const N: usize> {
    exec: Exec,
    args: [u8; N],
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
/// CPU (`prog->active`). Programs behind perf are run with preemption off (include/trace/perf.h).
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

/// `filename` is an address that nobody looks at before the end: a choice made early would be walked twice.
#[inline(always)]
fn in_room(task: Task, exe: File, filename: u64) -> Option<()> {
    let tid = task.tid()?;
    ROOMS.insert(&tid, EMPTY_ROOM.get(0)?, 0).ok()?;
    // No closure: it would become a function of its own, with more arguments than one can have.
    if let Some(room) = ROOMS.get_ptr_mut(&tid) {
        let _ = executed(task, exe, filename, room);
    }
    let _ = ROOMS.remove(&tid);
    Some(())
}

#[inline(always)]
fn executed(task: Task, exe: File, filename: u64, room: *mut Room) -> Option<()> {
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
    let time_ns = record::now();
    // SAFETY: this thread's own room, as long as the program runs.
    let (scratch, slot, arguments) =
        unsafe { (&mut (*room).scratch, &raw mut (*room).judgement, &raw mut (*room).arguments) };
    let mm = task.mm()?;
    exe.describe(&mut scratch.exe, task.root_sb());
    let class = look_at_program(exe, scratch, arguments, mm)?;
    let descriptors = task.descriptors()?;
    for fd in 0..3 {
        stdio::look(descriptors.file(fd), &mut scratch.stdio[fd as usize]);
    }
    let inherited = entry.flags;
    let mut flags = new_flags(inherited, entry.container, &class, scratch);
    if inherited & TASK_NET_OUT != 0 && flags & TASK_NET_OUT == 0 {
        for fd in INHERITED_FDS {
            if descriptors.file(fd).is_some_and(stdio::is_outbound) {
                flags |= TASK_NET_OUT;
                break;
            }
        }
    }
    let parent = task.parent();
    scratch.parent_tgid = parent.and_then(Task::tgid).unwrap_or(0);
    scratch.parent_start_ns = parent.and_then(Task::start_ns).unwrap_or(0);
    reset(entry, scratch, flags, class.text.script);
    // Which bits are set was found out branch by branch, and the verifier remembers; from here on it
    // shall see one unknown word instead of some hundred combinations.
    let entry = black_box(entry);
    let judgement = record::opaque(&judge(entry, tgid, scratch, &class, time_ns), slot);
    let subject = Subject::of(task, entry.container);
    emit(&subject, &judgement, time_ns, scratch, entry.flags, filename, task, mm);
    Some(())
}

/// Identity and class of the executable.
#[inline(always)]
fn look_at_program(exe: File, scratch: &mut Scratch, arguments: *mut Arguments, mm: Mm) -> Option<Class> {
    let (code, data) = mm.extents()?;
    scratch.print = Fingerprint { size: scratch.exe.size, code, data };
    let name = program::hash_of(arguments, exe.dentry()?)?;
    let class = program::classify(arguments, name, &scratch.print, scratch.exe.flags & drift_flags() == 0, mm);
    if class.by_fingerprint {
        scratch.flags |= EXEC_BY_FINGERPRINT;
    }
    scratch.class = class.bits;
    scratch.form = class.text.form as u32;
    scratch.script = class.text.script;
    // Read back through an opaque pointer: each way to the answer would otherwise be walked on its
    // own from here on.
    let scratch = black_box(scratch);
    let text = Text { form: Form::Unknown, script: scratch.script };
    Some(Class { bits: scratch.class, by_fingerprint: false, text })
}

const fn drift_flags() -> u32 {
    FILE_UPPER | FILE_TMPFS | FILE_UNLINKED | FILE_MEMFD
}

/// `TASK_*` bits of the new program, before provenance.
#[inline(always)]
fn new_flags(inherited: u32, container: u64, class: &Class, scratch: &Scratch) -> u32 {
    let mut flags = inherited & (provenance::KEPT_FLAGS | TASK_ENTERED);
    let file = scratch.exe.flags;
    if inherited & TASK_ENTERING != 0 {
        flags |= TASK_ENTERED;
        // The runtime's own init, started again from a memfd: the program is still to come.
        if file & FILE_MEMFD != 0 {
            flags |= TASK_ENTERING;
        }
    }
    let foreign = file & monitor_common::file::FILE_FOREIGN_SB != 0 && file & FILE_OVERLAY == 0;
    let drift = container != HOST && (file & drift_flags() != 0 || foreign);
    if drift {
        flags |= TASK_DRIFT;
    }
    if class.bits & CLASS_SHELL != 0 {
        flags |= TASK_SHELL;
    }
    if class.bits & CLASS_INTERPRETER != 0 {
        flags |= TASK_INTERPRETER;
    }
    if class.bits & CLASS_SESSION_SERVER != 0 && !drift {
        flags |= TASK_SESSION_SERVER;
    }
    let by_script = class.text.script != 0
        && class.bits & CLASS_INTERPRETER != 0
        && program::named(class.text.script) & CLASS_PACKAGE_MANAGER != 0;
    if !drift && (class.bits & CLASS_PACKAGE_MANAGER != 0 || by_script) {
        flags = flags & !TASK_PACKAGE_SCRIPT | TASK_PACKAGE_MANAGER;
    } else if class.bits & (CLASS_SHELL | CLASS_INTERPRETER) != 0 {
        // A maintainer script is a file. Text on a command line (apt's and dpkg's hooks) is whatever
        // somebody gave the package manager as an option.
        if class.bits & CLASS_SHELL != 0 && scratch.form == Form::Argument as u32 {
            flags &= !TASK_PACKAGE_MANAGER;
        }
        flags |= TASK_PACKAGE_SCRIPT;
    }
    if scratch.form == Form::Stdin as u32 {
        flags |= TASK_READS_STDIN;
    }
    if scratch.stdio[0].kind == STDIO_INET_OUT {
        flags |= TASK_STDIN_INET | TASK_NET_OUT;
    }
    if scratch.stdio[1].kind == STDIO_INET_OUT || scratch.stdio[2].kind == STDIO_INET_OUT {
        flags |= TASK_STDOUT_INET | TASK_NET_OUT;
    }
    flags
}

/// A new program begins with a clean slate.
#[inline(always)]
fn reset(entry: &mut state::Task, scratch: &Scratch, flags: u32, script: u32) {
    entry.flags = flags;
    entry.script = script;
    entry.stdin = key_if(&scratch.stdio[0], false);
    entry.stdout = key_if(&scratch.stdio[1], true);
    entry.fifo_out = InodeKey { ino: 0, dev: 0, reserved: 0 };
    entry.last_open = InodeKey { ino: 0, dev: 0, reserved: 0 };
    for i in 0..state::WRITES {
        entry.writes[i] = InodeKey { ino: 0, dev: 0, reserved: 0 };
    }
    entry.write_next = 0;
}

#[inline(always)]
fn key_if(stdio: &Stdio, or_file: bool) -> InodeKey {
    if stdio.kind == STDIO_PIPE || (or_file && stdio.kind == STDIO_FILE) {
        InodeKey { ino: stdio.ino, dev: stdio.dev, reserved: 0 }
    } else {
        InodeKey { ino: 0, dev: 0, reserved: 0 }
    }
}

/// What was found, before it is decided whether to act.
#[derive(Clone, Copy)]
struct Found {
    reason: Reason,
    peer_tgid: u32,
}

/// Provenance and verdict.
#[inline(always)]
fn judge(entry: &mut state::Task, tgid: u32, scratch: &mut Scratch, class: &Class, time_ns: u64) -> Judgement {
    let interpreter = class.bits & (CLASS_SHELL | CLASS_INTERPRETER) != 0;
    let text = interpreter && entry.flags & TASK_READS_STDIN != 0;
    let mut found = judge_stdin(entry, tgid, scratch, text);
    if found.is_none() {
        found = judge_socket(entry, tgid, scratch, interpreter, text, time_ns);
    }
    if found.is_none() && entry.flags & TASK_TAINTED != 0 {
        // A stage between the network and somebody else: follow what it writes.
        found =
            provenance::outputs(entry, &scratch.origin).map(|sink| Found { reason: sink.reason, peer_tgid: sink.tgid });
    }
    if found.is_none() {
        found = judge_file(entry, scratch);
    }
    match found {
        Some(found) => guard::kill(entry.container, tgid, found.reason, found.peer_tgid),
        None => judge_relay(entry, tgid, scratch, text),
    }
}

/// A pipe on standard input or output.
#[inline(always)]
fn judge_stdin(entry: &mut state::Task, tgid: u32, scratch: &mut Scratch, text: bool) -> Option<Found> {
    let mut down = InodeKey { ino: 0, dev: 0, reserved: 0 };
    if scratch.stdio[1].kind == STDIO_PIPE {
        down = entry.stdout;
        provenance::writes(&down, tgid);
    }
    if scratch.stdio[0].kind == STDIO_FILE {
        return judge_stdin_file(entry, scratch, text);
    }
    if scratch.stdio[0].kind != STDIO_PIPE {
        return None;
    }
    let key = entry.stdin;
    if text {
        let reason = provenance::shell_reads(&key, tgid, &mut scratch.origin)?;
        scratch.flags |= EXEC_STDIN_TAINTED;
        return Some(Found { reason, peer_tgid: scratch.origin.tgid });
    }
    provenance::stage_reads(&key, &down, tgid, &mut scratch.origin)?;
    scratch.flags |= EXEC_STDIN_TAINTED;
    entry.flags |= TASK_TAINTED;
    copy_words(&scratch.origin, &mut entry.origin);
    None
}

/// A file on standard input: `sh < downloaded`, or a copier of it.
#[inline(always)]
fn judge_stdin_file(entry: &mut state::Task, scratch: &mut Scratch, text: bool) -> Option<Found> {
    let key = InodeKey { ino: scratch.stdio[0].ino, dev: scratch.stdio[0].dev, reserved: 0 };
    provenance::taint_of(&key, &mut scratch.origin)?;
    scratch.origin.hops += 1;
    if scratch.origin.hops > provenance::MAX_HOPS {
        return None;
    }
    scratch.flags |= EXEC_STDIN_TAINTED;
    if text {
        return Some(Found { reason: Reason::DownloadExec, peer_tgid: scratch.origin.tgid });
    }
    entry.flags |= TASK_TAINTED;
    copy_words(&scratch.origin, &mut entry.origin);
    None
}

/// Standard descriptors on an outbound socket.
#[inline(always)]
fn judge_socket(
    entry: &mut state::Task,
    tgid: u32,
    scratch: &mut Scratch,
    interpreter: bool,
    text: bool,
    time_ns: u64,
) -> Option<Found> {
    if entry.flags & (TASK_STDIN_INET | TASK_STDOUT_INET) == 0 {
        return None;
    }
    let start_ns = entry.start_ns;
    for stdio in &scratch.stdio {
        if stdio.kind == STDIO_INET_OUT {
            provenance::set_origin(&mut scratch.origin, tgid, start_ns, &stdio.peer, time_ns);
            break;
        }
    }
    copy_words(&scratch.origin, &mut entry.origin);
    let both = entry.flags & TASK_STDIN_INET != 0 && entry.flags & TASK_STDOUT_INET != 0;
    if interpreter && both {
        return Some(Found { reason: Reason::ReverseShell, peer_tgid: 0 });
    }
    if entry.flags & TASK_STDIN_INET == 0 {
        return None;
    }
    if text {
        // Program text straight from a socket: `bash <&3`.
        scratch.flags |= EXEC_STDIN_TAINTED;
        return Some(Found { reason: Reason::DownloadExec, peer_tgid: 0 });
    }
    // `cat <&3 | sh`: what this program writes came from the network.
    entry.flags |= TASK_TAINTED;
    None
}

/// The executable itself.
#[inline(always)]
fn judge_file(entry: &mut state::Task, scratch: &mut Scratch) -> Option<Found> {
    let key = InodeKey { ino: scratch.exe.ino, dev: scratch.exe.dev, reserved: 0 };
    if provenance::taint_of(&key, &mut scratch.origin).is_some() {
        entry.flags |= TASK_EXE_TAINTED;
        scratch.exe.flags |= monitor_common::file::FILE_TAINTED;
        return Some(Found { reason: Reason::DownloadExec, peer_tgid: scratch.origin.tgid });
    }
    // A container runtime starts its own init from a memfd before it starts the container's program; what comes later
    // has no such excuse, whoever the process' parent is.
    if scratch.exe.flags & FILE_MEMFD != 0 && entry.flags & TASK_ENTERING == 0 && entry.container != HOST {
        return Some(Found { reason: Reason::FilelessExec, peer_tgid: 0 });
    }
    None
}

/// Does a program other than the parent write the pipe (`curl … | sudo bash`)? Then the parent is no relay.
#[inline(always)]
fn fed_by_another(stdin: &InodeKey, parent_tgid: u32) -> bool {
    let key = *stdin;
    provenance::known_pipe(&key).is_some_and(|pipe| pipe.writer != 0 && pipe.writer != parent_tgid)
}

/// `curl … | sudo bash` with a terminal of its own: sudo reads the pipe and hands the bytes on through a channel of its own, from
/// a process it forked for that. Answers where they come from, if they come from the network.
#[inline(always)]
fn fed_from_network(parent: &state::Task, scratch: &mut Scratch) -> Option<u32> {
    let feeder = if parent.flags & TASK_TAINTED != 0 {
        parent
    } else {
        let forked_by = provenance::entry(parent.parent_tgid)?;
        if forked_by.flags & TASK_TAINTED == 0 || forked_by.container != parent.container {
            return None;
        }
        forked_by
    };
    if feeder.flags & TASK_SHELL != 0 || state::is_package_manager(feeder.flags) {
        return None;
    }
    copy_words(&feeder.origin, &mut scratch.origin);
    scratch.flags |= EXEC_STDIN_TAINTED;
    Some(scratch.origin.tgid)
}

/// A shell that takes commands from its parent, which has (or may get) a connection.
#[inline(always)]
fn judge_relay(entry: &mut state::Task, tgid: u32, scratch: &mut Scratch, commanded: bool) -> Judgement {
    if !commanded || entry.flags & TASK_ENTERED != 0 {
        return Judgement::NOTHING;
    }
    let input = scratch.stdio[0].kind;
    if input != STDIO_PIPE && input != STDIO_UNIX && input != STDIO_TTY {
        return Judgement::NOTHING;
    }
    let output = scratch.stdio[1].kind;
    if output != STDIO_PIPE && output != STDIO_UNIX && output != STDIO_TTY {
        return Judgement::NOTHING;
    }
    let parent_tgid = scratch.parent_tgid;
    if input == STDIO_PIPE && fed_by_another(&entry.stdin, parent_tgid) {
        return Judgement::NOTHING;
    }
    let Some(parent) = provenance::entry(parent_tgid) else { return Judgement::NOTHING };
    if parent_tgid == tgid
        || parent.container != entry.container
        || parent.flags & (TASK_SHELL | TASK_SESSION_SERVER) != 0
        || state::is_package_manager(parent.flags)
    {
        return Judgement::NOTHING;
    }
    if input != STDIO_TTY {
        parent.flags |= TASK_FEEDS_SHELL;
        if let Some(origin_tgid) = fed_from_network(parent, scratch) {
            return guard::kill(entry.container, tgid, Reason::DownloadExec, origin_tgid);
        }
    }
    if parent.flags & TASK_NET_OUT == 0 {
        return Judgement::NOTHING;
    }
    scratch.flags |= EXEC_RELAY;
    copy_words(&parent.origin, &mut scratch.origin);
    Judgement::told(Reason::ReverseShell, parent_tgid)
}

#[expect(clippy::too_many_arguments, reason = "everything an exec record is made of")]
#[inline(always)]
fn emit(
    subject: &Subject,
    judgement: &Judgement,
    time_ns: u64,
    scratch: &Scratch,
    task_flags: u32,
    filename: u64,
    task: Task,
    mm: Mm,
) {
    let Some((start, end)) = mm.arguments() else { return };
    let total = end.wrapping_sub(start);
    if total <= ARGS_CLASSES[0] as u64 {
        write::<{ ARGS_CLASSES[0] }>(subject, judgement, time_ns, scratch, task_flags, filename, task, start, end);
    } else if total <= ARGS_CLASSES[1] as u64 {
        write::<{ ARGS_CLASSES[1] }>(subject, judgement, time_ns, scratch, task_flags, filename, task, start, end);
    } else {
        write::<{ ARGS_CLASSES[2] }>(subject, judgement, time_ns, scratch, task_flags, filename, task, start, end);
    }
}

#[expect(clippy::too_many_arguments, reason = "as in emit")]
#[inline(always)]
fn write<const N: usize>(
    subject: &Subject,
    judgement: &Judgement,
    time_ns: u64,
    scratch: &Scratch,
    task_flags: u32,
    filename: u64,
    task: Task,
    start: u64,
    end: u64,
) {
    let Some(mut entry) = record::begin::<ExecWith<N>>(Kind::Exec, subject, judgement, time_ns) else { return };
    let out = entry.as_mut_ptr();
    let total = end.wrapping_sub(start);
    let cut = total > ARGS_HEAD as u64;
    let room = if N > ARGS_HEAD { ARGS_HEAD } else { N };
    let head = if total > room as u64 { room as u32 } else { total as u32 };
    // SAFETY: the reservation is an ExecWith<N>; helpers check what they read and are given no
    // more room than there is.
    unsafe {
        let exec = &raw mut (*out).exec;
        (*exec).parent_tgid = scratch.parent_tgid;
        (*exec).parent_start_ns = scratch.parent_start_ns;
        (*exec).flags = scratch.flags | if cut { EXEC_ARGS_CUT } else { 0 };
        (*exec).task_flags = task_flags;
        (*exec).form = scratch.form;
        crate::kernel::file::copy(&raw const scratch.exe, &raw mut (*exec).exe);
        crate::kernel::file::copy(&raw const scratch.stdio, &raw mut (*exec).stdio);
        crate::kernel::file::copy(&raw const scratch.origin, &raw mut (*exec).origin);
        copy_words(&scratch.print, &mut (*exec).fingerprint);
        task.comm(&mut (*exec).comm);
        (*exec).filename[0] = 0;
        if let Some(name) = Object::new(filename as *const u8) {
            string(name, &mut (*exec).filename);
        }
        (*exec).args_total = total as u32;
        let head = black_box(head).min(room as u32);
        let read = bpf_probe_read_user((&raw mut (*out).args).cast(), head, start as *const _) == 0;
        (*exec).args_len = if read { head } else { 0 };
        (*exec).args_tail = 0;
        if N > ARGS_HEAD && cut {
            let tail = (&raw mut (*out).args).cast::<u8>().add(ARGS_HEAD);
            if bpf_probe_read_user(tail.cast(), ARGS_TAIL as u32, (end - ARGS_TAIL as u64) as *const _) == 0 {
                (*exec).args_tail = ARGS_TAIL as u32;
            }
        }
        (*exec).args_area = N as u32;
    }
    entry.submit(0);
}
