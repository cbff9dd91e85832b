//! Names made for files, as system calls and requests to io_uring give them: the last door, where neither LSM nor fentry shows
//! the directory entries. A path is what the process says it is: links in it are not followed, and
//! another thread may change it during the call.

use crate::kernel::Object;
use crate::kernel::file::{Dentry, Inode, string};
use crate::kernel::task::{Task, argument};
use crate::record::{self, Judgement, Subject};
use crate::reflex::{guard, provenance, sensitive};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use aya_ebpf::macros::{btf_map, tracepoint};
use aya_ebpf::programs::TracePointContext;
use bytemuck::Zeroable;
use monitor_common::field::Field;
use monitor_common::file::{
    COMPONENT_LEN, COMPONENTS, FILE_NAMED, FILE_PATH_CUT, FILE_REMOVED, FILE_SENSITIVE, FILE_WRITE, Open,
};
use monitor_common::hash;
use monitor_common::header::{Kind, Reason};
use monitor_common::state::{self, HOST, Origin, TASK_NET_OUT, TASK_TAINTED};

/// As in `descriptor`.
const RET: usize = 16;
/// include/uapi/linux/fcntl.h
const AT_FDCWD: i32 = -100;
/// Longer paths are not looked at; those of sensitive files are short.
const PATH_LEN: usize = 192;

/// A path and what is known of its last three components.
#[repr(C)]
struct Walk {
    own: u32,
    up: u32,
    top: u32,
    /// Where they begin.
    at: [u32; 3],
    /// Components seen.
    count: u32,
    /// Hash, length and dots of the component at hand, and where it begins.
    hash: u32,
    length: u32,
    dots: u32,
    start: u32,
    /// A power of two, so that an index can be masked into bounds.
    bytes: [u8; 256],
}

#[btf_map]
static WALK: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// Exit of rename, link and symlink: the new name is the second argument.
#[tracepoint]
pub fn name_given(ctx: TracePointContext) -> u32 {
    let _ = given(&ctx, None, Field::RegsSecondArg, FILE_NAMED);
    0
}

/// Exit of renameat, renameat2 and linkat: directory and name are the third and fourth.
#[tracepoint]
pub fn name_given_at(ctx: TracePointContext) -> u32 {
    let _ = given(&ctx, Some(Field::RegsThirdArg), Field::RegsFourthArg, FILE_NAMED);
    0
}

/// Exit of symlinkat: directory and name are the second and third.
#[tracepoint]
pub fn symlink_given_at(ctx: TracePointContext) -> u32 {
    let _ = given(&ctx, Some(Field::RegsSecondArg), Field::RegsThirdArg, FILE_NAMED);
    0
}

/// Exit of unlink, rmdir and rename: the name that is no more is the first argument.
#[tracepoint]
pub fn name_taken(ctx: TracePointContext) -> u32 {
    let _ = given(&ctx, None, Field::RegsFirstArg, FILE_REMOVED);
    0
}

/// Exit of unlinkat, renameat and renameat2: directory and name are the first and second.
#[tracepoint]
pub fn name_taken_at(ctx: TracePointContext) -> u32 {
    let _ = given(&ctx, Some(Field::RegsFirstArg), Field::RegsSecondArg, FILE_REMOVED);
    0
}

/// `bit` is as in [`judge`].
#[inline(always)]
fn given(ctx: &TracePointContext, directory: Option<Field>, path: Field, bit: u32) -> Option<()> {
    // SAFETY: within the tracepoint's record.
    if unsafe { ctx.read_at::<i64>(RET) }.ok()? != 0 {
        return None;
    }
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST {
        return None;
    }
    let directory = match directory {
        Some(field) => argument(field)? as i32,
        None => AT_FDCWD,
    };
    let path = argument(path)?;
    let found = look(task, directory, |to, length| {
        // SAFETY: writable for its length.
        unsafe { bpf_probe_read_user_str(to.cast(), length, path as *const _) }
    })?;
    judge(task, tgid, entry, &found, bit)
}

/// A path that is something to us.
pub struct Found<'a> {
    walk: &'a Walk,
    base: Option<Dentry>,
    pub reason: Reason,
}

impl Found<'_> {
    /// As [`sensitive::sets_up`], for crontabs alone. A mount at the container's own `/etc` or `/var` is not told from the container's files
    /// by an absolute path: the daemon does that, after the act as these hooks do.
    #[inline(always)]
    fn sets_up(&self, task: Task, entry: &state::Task) -> bool {
        if self.reason as u8 != Reason::PersistenceCron as u8
            || entry.flags & (TASK_NET_OUT | TASK_TAINTED) != 0
            || !provenance::is_starting_up(entry)
        {
            return false;
        }
        let bytes = &self.walk.bytes;
        let is_system = matches!(bytes, [b'/', b'e', b't', b'c', b'/', ..] | [b'/', b'v', b'a', b'r', b'/', ..]);
        match self.base {
            Some(base) => base.inode().is_some_and(|inode| inode.is_on_root_overlay(task.root_sb())),
            None => is_system,
        }
    }
}

/// Looks at a path that starts from the folder behind a descriptor; `copy` brings its text to an address, up to a
/// length, and answers like the kernel's helpers.
#[inline(always)]
pub fn look<'a>(task: Task, directory: i32, copy: impl FnOnce(*mut u8, u32) -> i64) -> Option<Found<'a>> {
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: this CPU's slot; programs behind classic tracepoints do not nest on a CPU.
    let length = unsafe {
        *walk = Walk {
            own: 0,
            up: 0,
            top: 0,
            at: [0; 3],
            count: 0,
            hash: hash::OFFSET,
            length: 0,
            dots: 0,
            start: 0,
            bytes: (*walk).bytes,
        };
        copy((&raw mut (*walk).bytes).cast(), PATH_LEN as u32)
    };
    if length <= 1 || length as usize >= PATH_LEN {
        return None;
    }
    for at in 0..PATH_LEN as u32 {
        if path_byte(at) != 0 {
            break;
        }
    }
    // SAFETY: as above.
    let walk = unsafe { &mut *walk };
    let base = if walk.bytes[0] == b'/' { None } else { Some(base(task, directory)?) };
    if let Some(base) = base {
        complete(walk, base);
    }
    let reason = sensitive::class_of(walk.own, walk.up, walk.top);
    (reason as u8 != Reason::None as u8).then_some(Found { walk, base, reason })
}

/// `bit`: `FILE_NAMED`, or `FILE_REMOVED`, which matters for what is ours only.
#[inline(always)]
pub fn judge(task: Task, tgid: u32, entry: &state::Task, found: &Found<'_>, bit: u32) -> Option<()> {
    if bit == FILE_REMOVED && found.reason as u8 != Reason::Tamper as u8 {
        return None;
    }
    let is_set_up = bit == FILE_NAMED && found.sets_up(task, entry);
    let judgement = sensitive::judge(entry, tgid, found.reason, false, is_set_up, guard::Means::Kill);
    if !judgement.tells() {
        return None;
    }
    tell(task, entry, found, bit, &judgement)
}

/// Takes in one byte of this CPU's path: a function of its own (see [`crate::reflex`]), as it would be walked for
/// each byte otherwise. Answers 1 at the end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn path_byte(at: u32) -> u32 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return 1 };
    // SAFETY: this CPU's slot.
    let walk = unsafe { &mut *walk };
    let byte = walk.bytes[at as usize & 0xff];
    if byte != 0 && byte != b'/' {
        // As much as a directory entry's name is read of.
        if walk.length < COMPONENT_LEN as u32 - 1 {
            walk.hash = hash::step(walk.hash, byte);
        }
        if byte == b'.' {
            walk.dots += 1;
        }
        walk.length += 1;
        return 0;
    }
    if walk.length > 0 {
        close(walk);
    }
    walk.hash = hash::OFFSET;
    walk.length = 0;
    walk.dots = 0;
    walk.start = at + 1;
    u32::from(byte == 0)
}

/// A component has ended.
#[inline(always)]
fn close(walk: &mut Walk) {
    if walk.dots == walk.length && walk.length == 1 {
        return;
    }
    if walk.dots == walk.length && walk.length == 2 {
        walk.own = walk.up;
        walk.up = walk.top;
        walk.top = 0;
        walk.at = [walk.at[1], walk.at[2], 0];
        walk.count = walk.count.saturating_sub(1);
        return;
    }
    walk.top = walk.up;
    walk.up = walk.own;
    walk.own = hash::finish(walk.hash);
    walk.at = [walk.start, walk.at[0], walk.at[1]];
    walk.count += 1;
}

/// The directory that a relative path starts from.
#[inline(always)]
fn base(task: Task, fd: i32) -> Option<Dentry> {
    if fd == AT_FDCWD { task.working_directory() } else { task.file(fd as u32)?.dentry() }
}

/// What a short relative path leaves out.
#[inline(always)]
fn complete(walk: &mut Walk, base: Dentry) {
    let above = || base.parent().and_then(sensitive::name).unwrap_or(0);
    if walk.count == 1 {
        walk.up = sensitive::name(base).unwrap_or(0);
        walk.top = above();
    } else if walk.count == 2 {
        walk.top = sensitive::name(base).unwrap_or(0);
    }
}

/// Tells of it as a write.
#[inline(always)]
pub fn tell(task: Task, entry: &state::Task, found: &Found<'_>, bit: u32, judgement: &Judgement) -> Option<()> {
    let Found { walk, base, reason } = *found;
    let subject = Subject::running(entry);
    let mut reserved = record::begin::<Open>(Kind::Open, &subject, judgement, record::now())?;
    let out = reserved.as_mut_ptr();
    let inode: Option<Inode> = base.and_then(Dentry::inode);
    // SAFETY: the reservation is an Open.
    unsafe {
        crate::kernel::clear_words(&mut (*out).file);
        if let Some(inode) = inode {
            inode.describe(&mut (*out).file, task.root_sb());
        }
        (*out).file.ino = 0;
        (*out).file.mode = 0;
        (*out).file.flags |= FILE_SENSITIVE | FILE_WRITE | bit;
        let mut depth = 0;
        for (i, at) in walk.at.iter().enumerate() {
            if (i as u32) < walk.count {
                let from = (&raw const walk.bytes).cast::<u8>().wrapping_add((*at as usize) & 0xff);
                string(Object::new(from)?, &mut (*out).file.names[i]);
                depth = i as u32 + 1;
            }
        }
        (*out).file.depth = depth;
        if walk.count > depth {
            (*out).file.flags |= FILE_PATH_CUT;
        }
        if let Some(base) = base
            && walk.count < 3
        {
            base.components_from(walk.count as usize, &mut (*out).file);
        }
        crate::kernel::copy_words(&Origin::zeroed(), &mut (*out).origin);
        (*out).sensitive = reason as u32;
        (*out).task_flags = entry.flags;
    }
    record::submit(reserved, judgement);
    Some(())
}

const _: () = assert!(COMPONENTS >= 3);
