//! Files opened: taint of what is written and read, scripts that came from the network, sensitive
//! files. An uninteresting open of a container costs the look at the descriptor and one lookup; one
//! of the host a lookup and a bit test.
//!
//! The file is taken from the descriptor table, not from the system call's path argument.

use crate::kernel::file::{FMODE_CREATED, FMODE_WRITE, File, Inode, O_TRUNC, Type};
use crate::kernel::task::{Task, argument};
use crate::kernel::{Object, copy_words};
use crate::record::{self, Judgement};
use crate::reflex::{guard, marks, own, provenance, sensitive};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use aya_ebpf::macros::{btf_map, fentry, lsm, tracepoint};
use aya_ebpf::programs::{FEntryContext, LsmContext, TracePointContext};
use bytemuck::Zeroable;
use core::hint::black_box;
use core::mem::MaybeUninit;
use monitor_common::argv::Form;
use monitor_common::field::Field;
use monitor_common::file::{
    FILE_CREATED, FILE_FIFO, FILE_SCRIPT, FILE_SENSITIVE, FILE_TAINTED, FILE_TMPFS, FILE_UPPER, FILE_WRITE,
};
use monitor_common::hash;
use monitor_common::header::{Reason, Rung};
use monitor_common::state::{
    self, HOST, InodeKey, Origin, TASK_FETCHER, TASK_INTERPRETER, TASK_PACKAGE_MANAGER, TASK_READS_STDIN, TASK_SHELL,
    TASK_TAINTED, WRITES,
};

/// include/uapi/linux/stat.h
const READ_BY_ALL: u32 = 0o004;
/// arch/x86/entry/syscalls/syscall_64.tbl
const NR_OPEN: u64 = 2;
const NR_OPENAT: u64 = 257;
const NR_OPENAT2: u64 = 437;
/// A path is read in pieces, and so many of them.
const PIECE: usize = 32;
const PIECES: usize = 8;
/// As in `descriptor`.
const RET: usize = 16;
/// Exit of open, openat, openat2, creat and open_by_handle_at: the result is the descriptor.
#[tracepoint]
pub fn file_opened(ctx: TracePointContext) -> u32 {
    let _ = try_opened(&ctx);
    0
}

#[inline(always)]
fn try_opened(ctx: &TracePointContext) -> Option<()> {
    // SAFETY: within the tracepoint's record.
    let fd = unsafe { ctx.read_at::<i64>(RET) }.ok()?;
    if fd < 0 {
        return None;
    }
    let (task, tgid) = Task::running()?;
    let entry = interesting(tgid)?;
    let file = task.file(fd as u32)?;
    opened(task, tgid, entry, file, guard::Means::Kill);
    Some(())
}

/// Before an open succeeds: the better door, where BPF LSM is active. Denies what the others can only
/// follow with a kill.
///
/// match-proto: file_open(struct file *file)
#[lsm(hook = "file_open")]
pub fn lsm_file_open(ctx: LsmContext) -> i32 {
    // An earlier module's refusal stands.
    if ctx.arg::<i32>(1) != 0 {
        return 0;
    }
    guard::errno(opening(ctx.arg(0), guard::Means::Deny(Rung::Lsm)))
}

/// The same place without the power to refuse.
///
/// match-proto: security_file_open(struct file *file)
#[fentry(function = "security_file_open")]
pub fn fentry_file_open(ctx: FEntryContext) -> i32 {
    let _ = opening(ctx.arg(0), guard::Means::Kill);
    0
}

#[inline(always)]
fn opening(file: *const u8, means: guard::Means) -> Option<bool> {
    let (task, tgid) = Task::running()?;
    let entry = interesting(tgid)?;
    let file = File(Object::new(file)?);
    let inode = file.inode()?;
    // Overlayfs opens the file of the layer below on its own: the same open, seen a second time. (Pipes live
    // on a mount of the kernel's own, too.)
    if inode.kind()? == Type::Regular && file.is_backing(inode) {
        return None;
    }
    Some(opened(task, tgid, entry, file, means))
}

/// The entry of a task whose opens matter.
#[inline(always)]
pub fn interesting<'a>(tgid: u32) -> Option<&'a mut state::Task> {
    let entry = provenance::entry(tgid)?;
    let idle_host = entry.container == HOST && !provenance::is_source(entry.flags) && entry.script == 0;
    if idle_host { None } else { Some(entry) }
}

/// Handles an open by whichever door; true if it is to be refused.
#[inline(always)]
pub fn opened(task: Task, tgid: u32, entry: &mut state::Task, file: File, means: guard::Means) -> bool {
    let judgement = look(task, tgid, entry, file, means);
    judgement.is_some_and(|judgement| judgement.denied())
}

#[inline(always)]
fn look(task: Task, tgid: u32, entry: &mut state::Task, file: File, means: guard::Means) -> Option<Judgement> {
    let inode = file.inode()?;
    let permissions = inode.mode()?;
    match Type::of(permissions) {
        Type::Regular => regular(task, tgid, entry, file, inode, permissions, means),
        Type::Pipe => fifo(task, tgid, entry, file, inode, means),
        _ => None,
    }
}

#[inline(always)]
fn regular(
    task: Task,
    tgid: u32,
    entry: &mut state::Task,
    file: File,
    inode: Inode,
    permissions: u32,
    means: guard::Means,
) -> Option<Judgement> {
    let mode = file.mode()?;
    let key = inode.key()?;
    if mode & FMODE_WRITE != 0 {
        return written(task, tgid, entry, file, inode, &key, mode, means);
    }
    let origin = &mut Origin::zeroed();
    if provenance::taint_of(&key, inode, origin).is_none() {
        if entry.script != 0 {
            forget_impostor(entry, file, inode);
        }
        return watched(task, entry, file, permissions, &key, origin);
    }
    origin.hops += 1;
    let interpreter = entry.flags & (TASK_SHELL | TASK_INTERPRETER) != 0;
    let mut found = None;
    if origin.hops <= provenance::MAX_HOPS && entry.flags & TASK_TAINTED == 0 {
        entry.flags |= TASK_TAINTED;
        copy_words(origin, &mut entry.origin);
        // Where a copy goes may be open already (`cat f > g`, `cat f | sh`).
        if !interpreter {
            found = provenance::outputs(tgid).map(|sink| (sink.reason, sink.tgid, FILE_TAINTED));
        }
    }
    if found.is_none() {
        if !interpreter || same(&entry.last_open, &key) {
            return None;
        }
        entry.last_open = key;
        found = Some(if is_script(entry, file) {
            (Reason::DownloadExec, origin.tgid, FILE_TAINTED | FILE_SCRIPT)
        } else {
            (Reason::None, 0, FILE_TAINTED)
        });
    }
    let (reason, peer, bits) = found?;
    let judgement = guard::act(means, entry.container, tgid, reason, peer);
    tell(task, entry, file, bits, Reason::None, origin, &judgement)
}

/// Reads of files that judgement wants to know of. Their names are only looked at where the file is not for
/// everybody, which costs an ordinary open one bit test.
#[inline(always)]
fn watched(
    task: Task,
    entry: &mut state::Task,
    file: File,
    permissions: u32,
    key: &InodeKey,
    origin: &Origin,
) -> Option<Judgement> {
    if entry.container == HOST || permissions & READ_BY_ALL != 0 || same(&entry.last_open, key) {
        return None;
    }
    let class = sensitive::class(file.dentry()?);
    if class as u8 != Reason::Watched as u8 {
        return None;
    }
    entry.last_open = *key;
    tell(task, entry, file, FILE_SENSITIVE, class, origin, &Judgement::NOTHING)
}

/// `python3 /tmp/dnf` is not dnf: the package manager's, or fetcher's, script must be from the image. The maintainer scripts
/// it starts are in what it has just written.
#[inline(always)]
fn forget_impostor(entry: &mut state::Task, file: File, inode: Inode) {
    if state::is_trusted_writer(entry.flags)
        && inode.layer_flags() & (FILE_UPPER | FILE_TMPFS) != 0
        && is_script(entry, file)
    {
        entry.flags &= !(TASK_PACKAGE_MANAGER | TASK_FETCHER);
    }
}

#[inline(always)]
fn same(a: &InodeKey, b: &InodeKey) -> bool {
    a.ino == b.ino && a.dev == b.dev
}

/// Is the file the interpreter's script operand? That may be a symbolic link to a file of another name.
#[inline(always)]
fn is_script(entry: &state::Task, file: File) -> bool {
    entry.script != 0
        && (file.dentry().and_then(sensitive::name) == Some(entry.script) || name_opened() == entry.script)
}

#[expect(clippy::too_many_arguments, reason = "all that is known of the open by now")]
#[inline(always)]
fn written(
    task: Task,
    tgid: u32,
    entry: &mut state::Task,
    file: File,
    inode: Inode,
    key: &InodeKey,
    mode: u32,
    means: guard::Means,
) -> Option<Judgement> {
    let key = &InodeKey { generation: inode.generation().unwrap_or(0), ..*key };
    if provenance::is_source(entry.flags) {
        if entry.origin.hops <= provenance::MAX_HOPS {
            provenance::taint_inode(tgid, key);
        }
    } else if mode & FMODE_CREATED != 0 || is_emptied(file, inode) {
        // New content by somebody without a connection: an inode number is used again, or the
        // file is written over.
        marks::forget_file(&InodeKey { generation: 0, ..*key });
    }
    if entry.container == HOST {
        return None;
    }
    if let Some(dentry) = file.dentry()
        && own::is_file(inode, dentry)
        && let Some(who) = own::Intruder::new(task, tgid, entry)
    {
        return Some(own::file(&who, Some(inode), dentry, FILE_WRITE, means));
    }
    let slot = (entry.write_next as usize) & (WRITES - 1);
    entry.writes[slot] = *key;
    entry.write_next = entry.write_next.wrapping_add(1);
    let reason = file.dentry().map_or(Reason::None, sensitive::class);
    if reason as u8 == Reason::None as u8 {
        return None;
    }
    let bits = FILE_SENSITIVE | FILE_WRITE | if mode & FMODE_CREATED != 0 { FILE_CREATED } else { 0 };
    let made = mode & FMODE_CREATED != 0 && file.dentry().is_some_and(sensitive::is_hidden);
    let is_set_up = sensitive::sets_up(task, entry, reason, file.dentry()?);
    let judgement = sensitive::judge(entry, tgid, reason, made, is_set_up, means);
    tell(task, entry, file, bits, reason, &entry.origin, &judgement)
}

/// Is nothing left of what was in it, and nobody else about to write? Once a file is truncated, the open's own flags do not tell any
/// more (fs/open.c, `do_dentry_open`), but then it is empty. A downloader that still has it open is to come.
#[inline(always)]
fn is_emptied(file: File, inode: Inode) -> bool {
    let emptied = inode.size() == Some(0) || file.flags().is_some_and(|flags| flags & O_TRUNC != 0);
    emptied && inode.writers() == Some(1)
}

/// A FIFO, or a pipe through /dev/fd or /proc: both ends are judged like a pipe's.
#[inline(always)]
fn fifo(
    task: Task,
    tgid: u32,
    entry: &mut state::Task,
    file: File,
    inode: Inode,
    means: guard::Means,
) -> Option<Judgement> {
    let mode = file.mode()?;
    let key = inode.key()?;
    let origin = &mut Origin::zeroed();
    let (reason, peer, bits) = if mode & FMODE_WRITE != 0 {
        entry.fifo_out = key;
        provenance::writes(&key, tgid);
        if !provenance::is_source(entry.flags) {
            return None;
        }
        copy_words(&entry.origin, origin);
        let sink = provenance::taint_chain(tgid, &key)?;
        (sink.reason, sink.tgid, FILE_WRITE)
    } else if entry.flags & (TASK_SHELL | TASK_INTERPRETER) != 0 {
        // Program text, if it is the script operand: `bash <(…)`, `sh /tmp/fifo`.
        if !is_script_pipe(entry, file) {
            return None;
        }
        entry.flags |= TASK_READS_STDIN;
        let reason = provenance::shell_reads(&key, tgid, origin)?;
        (reason, origin.tgid, FILE_SCRIPT)
    } else {
        let mut down = entry.stdout;
        if down.ino != 0 && provenance::known_pipe(&down).is_none() {
            down.ino = 0;
        }
        provenance::stage_reads(&key, &down, tgid, origin)?;
        entry.flags |= TASK_TAINTED;
        copy_words(origin, &mut entry.origin);
        let sink = provenance::outputs(tgid)?;
        (sink.reason, sink.tgid, 0)
    };
    let judgement = guard::act(means, entry.container, tgid, reason, peer);
    tell(task, entry, file, bits | FILE_TAINTED | FILE_FIFO, Reason::None, origin, &judgement)
}

/// Hash of the last name in the path that the running open was given, 0 if it is no open: a function of its own (see
/// [`crate::reflex`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn name_opened() -> u32 {
    path_opened().map_or(0, last_name)
}

/// Where that path is.
#[inline(always)]
fn path_opened() -> Option<u64> {
    match argument(Field::RegsNumber)? {
        NR_OPEN => argument(Field::RegsFirstArg),
        NR_OPENAT | NR_OPENAT2 => argument(Field::RegsSecondArg),
        _ => None,
    }
}

/// Hash of the last name of a path.
#[inline(always)]
fn last_name(mut path: u64) -> u32 {
    let mut piece = MaybeUninit::<[u8; PIECE]>::uninit();
    let mut hash = hash::OFFSET;
    for _ in 0..PIECES {
        // SAFETY: the helper writes at most the piece, and a NUL at its end.
        let read = unsafe { bpf_probe_read_user_str(piece.as_mut_ptr().cast(), PIECE as u32, path as *const _) };
        if read <= 0 {
            return 0;
        }
        for i in 0..PIECE - 1 {
            // SAFETY: the helper has written so much, or the NUL before it has ended this.
            let byte = unsafe { (*piece.as_ptr())[i] };
            if byte == 0 {
                return hash::finish(hash);
            }
            hash = black_box(if byte == b'/' { hash::OFFSET } else { hash::step(hash, byte) });
        }
        path += PIECE as u64 - 1;
    }
    0
}

/// A FIFO's name is compared as a script's is. A pipe has none: it was opened as /dev/fd/N, and the
/// operand's last component is that number; the interpreter opening a pipe as a file while it still
/// waits for its script is the script.
#[inline(always)]
fn is_script_pipe(entry: &state::Task, file: File) -> bool {
    if entry.script == 0 {
        return false;
    }
    if is_script(entry, file) {
        return true;
    }
    entry.flags & TASK_READS_STDIN == 0 && unnamed(file) && digits(entry.script)
}

/// A pipe made by pipe(2) has an empty name.
#[inline(always)]
fn unnamed(file: File) -> bool {
    file.dentry().and_then(sensitive::name) == Some(hash::OFFSET)
}

/// Is the hash that of a descriptor number 0–255?
#[inline(always)]
fn digits(script: u32) -> bool {
    // SAFETY: only its presence counts.
    unsafe { DESCRIPTOR_NAMES.get(&script) }.is_some()
}

/// Hashes of "0" … "255", filled by the daemon.
#[btf_map]
static DESCRIPTOR_NAMES: HashMap<u32, u32, 512> = HashMap::new();

#[inline(always)]
fn tell(
    task: Task,
    entry: &state::Task,
    file: File,
    bits: u32,
    sensitive: Reason,
    origin: &Origin,
    judgement: &Judgement,
) -> Option<Judgement> {
    record::open(task, entry, file.inode(), file.dentry()?, bits, sensitive, origin, judgement);
    Some(*judgement)
}

const _: () = assert!(Form::Script as u32 == 3);
