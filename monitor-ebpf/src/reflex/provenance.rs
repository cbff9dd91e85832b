//! Provenance: where bytes come from. Taint flows task → pipe → task and task → file → task, and
//! the two ends of a pipe are judged whichever appears first.

use crate::kernel::cgroup::Cgroup;
use crate::kernel::copy_words;
use crate::kernel::file::{File, Inode};
use crate::kernel::task::{Mm, Task};
use crate::maps::{CONTAINERS, PIPES, TASKS, ZERO_PIPE, ZERO_TASK, config};
use crate::record::now;
use crate::reflex::{doom, marks};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use monitor_common::file::{FILE_MEMFD, FILE_OVERLAY, FileRef};
use monitor_common::header::Reason;
use monitor_common::net::Peer;
use monitor_common::policy::POLICY_OFF;
use monitor_common::state::{
    self, CLASS_INTERPRETER, CLASS_SHELL, HOST, InodeKey, Origin, Pipe, STARTUP_NS, TASK_BEGINS, TASK_ENTERING,
    TASK_EXE_TAINTED, TASK_NET_OUT, TASK_PACKAGE_MANAGER, TASK_PACKAGE_SCRIPT, TASK_READS_STDIN, TASK_TAINTED, Taint,
    WRITES,
};

/// Stages a taint is followed through at once (`a | b | c | …`).
const STAGES: usize = 6;

/// Rewrites after which bytes no longer count as "from the network": a copy of a copy still does,
/// the product of a compiler pipeline (.c → .s → .o → program) does not.
pub const MAX_HOPS: u32 = 3;

/// Container of a task by its cgroup; `None` if nobody watches it.
#[inline(always)]
pub fn container_of(task: Task) -> Option<u64> {
    let id = Cgroup::of(task)?.id()?;
    // SAFETY: read at once.
    match unsafe { CONTAINERS.get(&id) } {
        Some(policy) if policy.flags & POLICY_OFF != 0 => None,
        Some(policy) => Some(policy.root),
        None if config().is_some_and(|config| config.watch_host != 0) => Some(HOST),
        None => None,
    }
}

/// The task's entry.
#[inline(always)]
pub fn entry<'a>(tgid: u32) -> Option<&'a mut state::Task> {
    // SAFETY: map values live as long as the program run; writes race only with this process's own
    // threads, and every field is a word.
    TASKS.get_ptr_mut(&tgid).map(|task| unsafe { &mut *task })
}

/// Makes an entry.
#[inline(always)]
pub fn create<'a>(tgid: u32, task: Task, container: u64, parent_tgid: u32) -> Option<&'a mut state::Task> {
    TASKS.insert(&tgid, ZERO_TASK.get(0)?, 0).ok()?;
    let made = entry(tgid)?;
    made.start_ns = task.start_ns()?;
    made.container = container;
    made.parent_tgid = parent_tgid;
    doom::found_line(made, tgid);
    Some(made)
}

/// Containers that were made while the programs watched: when their first process was put into them, ns since boot, 0 before
/// that.
#[btf_map]
static BEGUN: LruHashMap<u64, u64, 4096> = LruHashMap::new();

/// A container is made. Told of once: another daemon's programs may be attached beside these.
#[inline(always)]
pub fn note_made(container: u64) {
    let _ = BEGUN.insert(&container, &0, u64::from(BPF_NOEXIST));
}

/// A process is put into a container: [`TASK_BEGINS`] if it is the first one.
#[inline(always)]
pub fn begins(container: u64) -> u32 {
    let Some(begun) = BEGUN.get_ptr_mut(&container) else { return 0 };
    // SAFETY: a word of a live map value; a runtime puts one process after another in.
    unsafe {
        if begun.read_volatile() != 0 {
            return 0;
        }
        begun.write_volatile(now());
    }
    TASK_BEGINS
}

/// Is what its entry point does still part of the container's start?
#[inline(always)]
pub fn is_starting_up(entry: &state::Task) -> bool {
    // SAFETY: read at once.
    let begun = unsafe { BEGUN.get(&entry.container) }.copied().unwrap_or(0);
    entry.flags & TASK_BEGINS != 0 && begun != 0 && now().saturating_sub(begun) < STARTUP_NS
}

/// The file that a process runs: of one that enters a container it is its runtime's ([`is_runtime`]).
#[inline(always)]
pub fn program_of(task: Task) -> InodeKey {
    let file = task.mm().and_then(Mm::executable);
    file.and_then(File::inode).and_then(Inode::key).unwrap_or(InodeKey { ino: 0, dev: 0, generation: 0 })
}

/// Is the program that is started still the runtime's own, on its way to the container's? That is a memfd, or the very file
/// that the process ran when it was put into the cgroup: runc starts itself anew from a copy, or from a mount of its own that cannot be
/// written (libcontainer/nsenter/cloned_binary.c), while its parent does that. A shell that joins a cgroup and then becomes
/// what was asked for is none, nor is what lies on a container's root.
#[inline(always)]
pub fn is_runtime(entry: &state::Task, exe: &FileRef, class: u32) -> bool {
    let is_itself = entry.last_open.ino == exe.ino && entry.last_open.dev == exe.dev;
    entry.flags & TASK_ENTERING != 0
        && (exe.flags & FILE_MEMFD != 0
            || is_itself && exe.flags & FILE_OVERLAY == 0 && class & (CLASS_SHELL | CLASS_INTERPRETER) == 0)
}

/// The pipe's entry, made if it is not there.
#[inline(always)]
pub fn pipe<'a>(key: &InodeKey) -> Option<&'a mut Pipe> {
    if let Some(found) = known_pipe(key) {
        return Some(found);
    }
    // Both ends may come at once: whoever is second must not wipe out the first one's marks.
    let _ = PIPES.insert(key, ZERO_PIPE.get(0)?, u64::from(BPF_NOEXIST));
    known_pipe(key)
}

/// The pipe's entry.
#[inline(always)]
pub fn known_pipe<'a>(key: &InodeKey) -> Option<&'a mut Pipe> {
    // SAFETY: as in `entry`.
    PIPES.get_ptr_mut(key).map(|pipe| unsafe { &mut *pipe })
}

/// Orders a mark before the check of the other end, on both sides: without it two CPUs could each
/// see the other's old state. An atomic add is a full barrier on x86 and exists since BPF does.
#[inline(always)]
fn barrier(pipe: &mut Pipe) {
    // The BPF target has no compare-and-swap, so core offers no AtomicU64::fetch_add.
    // SAFETY: an aligned word of a live map value.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) += {one}",
            word = in(reg) &raw mut pipe.barrier,
            one = in(reg) 1u64,
        );
    }
}

/// The origin a task's own connection makes.
#[inline(always)]
pub fn set_origin(origin: &mut Origin, tgid: u32, start_ns: u64, peer: &Peer, time_ns: u64) {
    origin.tgid = tgid;
    origin.hops = 0;
    origin.start_ns = start_ns;
    copy_words(peer, &mut origin.peer);
    origin.time_ns = time_ns;
}

/// The process's bytes go into a file: taints it with where they come from.
#[inline(always)]
pub fn taint_inode(tgid: u32, key: &InodeKey) {
    taint_file(tgid, key.ino, key.dev, key.generation);
}

/// A function of its own (see [`super`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn taint_file(tgid: u32, ino: u64, dev: u32, generation: u32) -> u32 {
    let Some(task) = entry(tgid) else { return 0 };
    let mut taint = core::mem::MaybeUninit::<Taint>::uninit();
    // SAFETY: all fields are written before the map reads them; Taint has no padding.
    unsafe {
        copy_words(&task.origin, &mut (*taint.as_mut_ptr()).origin);
        (*taint.as_mut_ptr()).container = task.container;
        (*taint.as_mut_ptr()).generation = generation;
        (*taint.as_mut_ptr()).reserved = 0;
        marks::file(&InodeKey { ino, dev, generation: 0 }, taint.assume_init_ref());
    }
    0
}

/// A shell found at the far end of a chain of pipes.
#[derive(Clone, Copy)]
pub struct Sink {
    /// Its tgid.
    pub tgid: u32,
    /// [`Reason::ReverseShell`] if its output leads back to the network end, else
    /// [`Reason::DownloadExec`].
    pub reason: Reason,
}

impl Sink {
    /// As the answer of a function of its own: the tgid, and above it whether it is a reverse shell. No shell
    /// has the tgid 0.
    #[inline(always)]
    fn to_number(sink: Option<Self>) -> u64 {
        sink.map_or(0, |sink| u64::from(sink.tgid) | u64::from(sink.reason as u8 == Reason::ReverseShell as u8) << 32)
    }

    #[inline(always)]
    fn of_number(number: u64) -> Option<Self> {
        if number == 0 {
            return None;
        }
        let reason = if number >> 32 == 0 { Reason::DownloadExec } else { Reason::ReverseShell };
        Some(Self { tgid: number as u32, reason })
    }
}

/// The process's bytes, which came from the network, enter `first`: marks it and everything downstream, and
/// answers the shell that takes its program from there, if one is there already.
#[inline(always)]
pub fn taint_chain(tgid: u32, first: &InodeKey) -> Option<Sink> {
    Sink::of_number(taint_downstream(tgid, first.ino, first.dev))
}

/// A function of its own (see [`super`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn taint_downstream(tgid: u32, ino: u64, dev: u32) -> u64 {
    Sink::to_number(downstream(tgid, InodeKey { ino, dev, generation: 0 }))
}

#[inline(always)]
fn downstream(tgid: u32, first: InodeKey) -> Option<Sink> {
    let origin = &entry(tgid)?.origin;
    let mut key = first;
    for _ in 0..STAGES {
        let pipe = pipe(&key)?;
        pipe.tainted = 1;
        copy_words(origin, &mut pipe.origin);
        barrier(pipe);
        if pipe.shell != 0
            && let Some(shell) = entry(pipe.shell)
            && shell.flags & TASK_READS_STDIN != 0
        {
            let tgid = pipe.shell;
            return Some(Sink { tgid, reason: reason(shell, origin.tgid) });
        }
        let reader = pipe.reader;
        let down = pipe.down;
        if reader != 0
            && reader != origin.tgid
            && let Some(task) = entry(reader)
        {
            task.flags |= TASK_TAINTED;
            copy_words(origin, &mut task.origin);
            // What it has opened for writing before (at's spool file) as well.
            if !state::is_trusted_writer(task.flags) {
                if down.ino == 0 && task.stdout.ino != 0 && known_pipe(&task.stdout).is_none() {
                    taint_inode(tgid, &task.stdout);
                }
                for i in 0..WRITES {
                    if task.writes[i].ino != 0 {
                        taint_inode(tgid, &task.writes[i]);
                    }
                }
            }
        }
        if down.ino == 0 {
            return None;
        }
        key = down;
    }
    None
}

/// Does what the shell writes go back to the process with the connection?
#[inline(always)]
fn reason(shell: &state::Task, network: u32) -> Reason {
    let mut key = shell.stdout;
    for _ in 0..3 {
        if key.ino == 0 {
            break;
        }
        let Some(pipe) = known_pipe(&key) else { break };
        if pipe.reader == network {
            return Reason::ReverseShell;
        }
        key = pipe.down;
    }
    Reason::DownloadExec
}

/// A program starts to read program text from a pipe: answers why that must not be, if the pipe
/// already carries network bytes.
#[inline(always)]
pub fn shell_reads(key: &InodeKey, tgid: u32, from: &mut Origin) -> Option<Reason> {
    let pipe = pipe(key)?;
    pipe.reader = tgid;
    pipe.shell = tgid;
    barrier(pipe);
    if pipe.tainted == 0 {
        return None;
    }
    copy_words(&pipe.origin, from);
    Some(entry(tgid).map_or(Reason::DownloadExec, |shell| reason(shell, from.tgid)))
}

/// A program that is not an interpreter starts to read a pipe, with `stdout` its standard output if
/// that is a pipe.
#[inline(always)]
pub fn stage_reads(key: &InodeKey, stdout: &InodeKey, tgid: u32, from: &mut Origin) -> Option<()> {
    let pipe = pipe(key)?;
    pipe.reader = tgid;
    pipe.down = *stdout;
    barrier(pipe);
    if pipe.tainted == 0 {
        return None;
    }
    copy_words(&pipe.origin, from);
    Some(())
}

/// A program starts to write a pipe.
#[inline(always)]
pub fn writes(key: &InodeKey, tgid: u32) {
    if let Some(pipe) = pipe(key) {
        pipe.writer = tgid;
    }
}

/// Network bytes may be in whatever the process writes from now on: taints its standard output, the
/// FIFO it writes and the files it has opened for writing.
#[inline(always)]
pub fn outputs(tgid: u32) -> Option<Sink> {
    Sink::of_number(taint_outputs(tgid))
}

/// A function of its own (see [`super`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn taint_outputs(tgid: u32) -> u64 {
    let Some(task) = entry(tgid) else { return 0 };
    let mut sink = 0;
    if task.stdout.ino != 0 {
        if known_pipe(&task.stdout).is_some() {
            sink = taint_downstream(tgid, task.stdout.ino, task.stdout.dev);
        } else if !state::is_trusted_writer(task.flags) {
            taint_inode(tgid, &task.stdout);
        }
    }
    if sink == 0 && task.fifo_out.ino != 0 {
        sink = taint_downstream(tgid, task.fifo_out.ino, task.fifo_out.dev);
    }
    if !state::is_trusted_writer(task.flags) {
        for i in 0..WRITES {
            if task.writes[i].ino != 0 {
                taint_inode(tgid, &task.writes[i]);
            }
        }
    }
    sink
}

/// May this task's writes carry network bytes?
#[inline(always)]
pub fn is_source(flags: u32) -> bool {
    flags & (TASK_NET_OUT | TASK_TAINTED) != 0 && !state::is_trusted_writer(flags)
}

/// Taint of an executable or file; `None` if it has none.
#[inline(always)]
pub fn taint_of(key: &InodeKey, file: Inode, from: &mut Origin) -> Option<()> {
    marks::of_file(key, file, from)
}

/// Flags that survive an exec.
pub const KEPT_FLAGS: u32 = TASK_PACKAGE_MANAGER | TASK_PACKAGE_SCRIPT | TASK_BEGINS;
const _: () = assert!(KEPT_FLAGS & TASK_EXE_TAINTED == 0);
