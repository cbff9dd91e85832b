//! Bulkhead itself: what is ours, who has no business with it, and what is done about an attempt.

use crate::kernel::file::{Dentry, File, Inode};
use crate::kernel::task::Task;
use crate::kernel::{Object, read};
use crate::record::{self, Judgement, Subject};
use crate::reflex::{guard, provenance, sensitive};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::macros::btf_map;
use bytemuck::Zeroable;
use monitor_common::field::Field;
use monitor_common::hash;
use monitor_common::header::{Kind, Reason};
use monitor_common::lineage::TICK_NS;
use monitor_common::own::{
    Attempt, OWN_CONTAINER, OWN_INODE, OWN_LINK, OWN_MAP, OWN_PROCESS, OWN_SOCKET, OwnKey, Tamper,
};
use monitor_common::state::{self, HOST, InodeKey, Origin};

/// What is ours, told by the daemon.
#[btf_map]
static OWN: HashMap<OwnKey, u64, 1024> = HashMap::new();

/// include/linux/fs.h
pub const FMODE_WRITE: u32 = crate::kernel::file::FMODE_WRITE;
/// include/uapi/linux/magic.h
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Names of descriptors of BPF objects (kernel/bpf/syscall.c).
const MAP_NAME: u32 = hash::name(b"bpf-map");
const LINK_NAME: u32 = hash::name(b"bpf-link");
/// The same where a link has just been made.
const NEW_LINK_NAME: u32 = hash::name(b"bpf_link");

#[inline(always)]
fn get(id: u64, kind: u32, dev: u32) -> Option<u64> {
    let key = OwnKey { id, kind, dev };
    // SAFETY: copied at once.
    unsafe { OWN.get(&key) }.copied()
}

/// Is the task one of the daemon's?
#[inline(always)]
pub fn is_daemon(task: Task) -> bool {
    let known = || {
        let start = get(u64::from(task.tgid()?), OWN_PROCESS, 0)?;
        // The daemon knows its own start to the tick.
        Some(start / TICK_NS == task.start_ns()? / TICK_NS)
    };
    known() == Some(true)
}

/// Who acts: a process of a container other than the daemon's own.
pub struct Intruder<'a> {
    pub task: Task,
    pub tgid: u32,
    pub entry: &'a state::Task,
}

impl<'a> Intruder<'a> {
    /// `None` if what is ours is some of its business.
    #[inline(always)]
    pub fn new(task: Task, tgid: u32, entry: &'a state::Task) -> Option<Self> {
        let apart = entry.container != HOST && get(entry.container, OWN_CONTAINER, 0).is_none();
        apart.then_some(Self { task, tgid, entry })
    }
}

/// The running task, if what is ours is none of its business.
#[inline(always)]
pub fn intruder<'a>() -> Option<Intruder<'a>> {
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    Intruder::new(task, tgid, entry)
}

/// Stops an attempt as far as the hook can, and tells of it. `quietly`: only if it was refused, where
/// another hook tells of what goes on.
#[inline(always)]
pub fn attempt(
    who: &Intruder<'_>,
    attempt: Attempt,
    detail: u32,
    object: u64,
    means: guard::Means,
    quietly: bool,
) -> Option<bool> {
    let judgement = guard::act(means, who.entry.container, who.tgid, Reason::Tamper, 0);
    if quietly && !judgement.denied() {
        return None;
    }
    let subject = Subject::running(who.entry);
    let Some(mut reserved) = record::begin::<Tamper>(Kind::Tamper, &subject, &judgement, record::now()) else {
        return Some(judgement.denied());
    };
    let out = reserved.as_mut_ptr();
    // SAFETY: the reservation is a Tamper.
    unsafe {
        (*out).object = object;
        (*out).attempt = attempt as u32;
        (*out).detail = detail;
        (*out).task_flags = who.entry.flags;
        (*out).reserved = 0;
    }
    record::submit(reserved, &judgement);
    Some(judgement.denied())
}

/// The same for a file of ours.
#[inline(always)]
pub fn file(who: &Intruder<'_>, inode: Option<Inode>, at: Dentry, bits: u32, means: guard::Means) -> Judgement {
    let judgement = guard::act(means, who.entry.container, who.tgid, Reason::Tamper, 0);
    record::open(who.task, who.entry, inode, at, bits, Reason::Tamper, &Origin::zeroed(), &judgement);
    judgement
}

/// Is the file ours: itself, by its folder, or as the daemon's in /proc?
#[inline(always)]
pub fn is_file(inode: Inode, at: Dentry) -> bool {
    is_inode(inode) || at.parent().and_then(Dentry::inode).is_some_and(is_inode) || is_of_daemon(inode)
}

/// Is this one of our files or folders?
#[inline(always)]
pub fn is_inode(inode: Inode) -> bool {
    inode.key().and_then(|key| get(key.ino, OWN_INODE, key.dev)).is_some()
}

#[inline(always)]
fn is_of_daemon(inode: Inode) -> bool {
    inode.magic() == Some(PROC_SUPER_MAGIC) && inode.process().is_some_and(is_daemon)
}

/// What a descriptor of a BPF object that is ours gives power over, and its number.
#[inline(always)]
pub fn object(file: File) -> Option<(Attempt, u64)> {
    let name = file.dentry().and_then(sensitive::name)?;
    let (attempt, kind, field) = if name == MAP_NAME {
        if file.mode()? & FMODE_WRITE == 0 {
            return None;
        }
        (Attempt::Map, OWN_MAP, Field::BpfMapId)
    } else if name == LINK_NAME || name == NEW_LINK_NAME {
        (Attempt::Link, OWN_LINK, Field::BpfLinkId)
    } else {
        return None;
    };
    let id = file.0.follow(Field::FilePrivate)?.get::<u32>(field)?;
    get(u64::from(id), kind, 0)?;
    Some((attempt, u64::from(id)))
}

/// Is the map ours?
#[inline(always)]
pub fn map(map: Object) -> Option<u64> {
    let id = u64::from(map.get::<u32>(Field::BpfMapId)?);
    get(id, OWN_MAP, 0)?;
    Some(id)
}

/// Is it the control socket's file?
#[inline(always)]
pub fn is_socket(inode: &InodeKey) -> bool {
    get(inode.ino, OWN_SOCKET, inode.dev).is_some()
}

/// Is the link of this number ours?
#[inline(always)]
pub fn is_link(id: u32) -> bool {
    get(u64::from(id), OWN_LINK, 0).is_some()
}

/// The task that this one has begun to trace last.
#[inline(always)]
pub fn newest_tracee(tracer: Task) -> Option<Task> {
    let head = tracer.0.address(Field::TaskPtraced)?;
    let first = read::<*const u8>(head.cast())?;
    if first == head {
        return None;
    }
    Object::new(first.wrapping_sub(crate::maps::offset(Field::TaskPtraceEntry)?)).map(Task)
}

/// The process that a pidfd stands for.
#[inline(always)]
pub fn of_pidfd(file: File) -> Option<Task> {
    let inode = file.inode()?;
    inode.0.follow(Field::InodePrivate).or_else(|| file.0.follow(Field::FilePrivate)).and_then(Task::of_pid)
}

/// Is `pid`, as the running task calls it, the daemon's? Only who sees the host's processes can call it anything.
#[inline(always)]
pub fn is_called(caller: Task, pid: u32) -> bool {
    let level = || caller.0.follow(Field::TaskThreadPid)?.get::<u32>(Field::PidLevel);
    level() == Some(0) && get(u64::from(pid), OWN_PROCESS, 0).is_some()
}
