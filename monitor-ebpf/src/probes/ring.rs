//! What io_uring does for a task without a system call of its own: opens, names and connects, on kernels where
//! neither LSM nor fentry shows them. In io_uring's tracepoints the running task is who asked, a worker of its, or
//! the thread that polls its ring: one process, with one table of descriptors.
//!
//! A request is judged by the path it names when it is taken in, before it is done: a kill there ends also what is
//! chained to it, as a write by a task that is being killed writes nothing (mm/filemap.c, `generic_perform_write`).
//! When an open is done its file is judged as after openat(2).

use super::{open, path, unix};
use crate::kernel::Object;
use crate::kernel::file::O_TRUNC;
use crate::kernel::ring::Request;
use crate::kernel::task::Task;
use crate::maps::offset;
use crate::reflex::{guard, provenance, sensitive};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use monitor_common::field::Field;
use monitor_common::file::{FILE_NAMED, FILE_REMOVED};
use monitor_common::header::Reason;
use monitor_common::state::{self, HOST};

/// include/uapi/linux/io_uring.h
const OP_CONNECT: u8 = 16;
const OP_OPENAT: u8 = 18;
const OP_OPENAT2: u8 = 28;
const OP_RENAMEAT: u8 = 35;
const OP_UNLINKAT: u8 = 36;
const OP_SYMLINKAT: u8 = 38;
const OP_LINKAT: u8 = 39;

/// include/uapi/asm-generic/fcntl.h
const O_ACCMODE: u32 = 0o3;
const O_PATH: u32 = 0o1000_0000;

/// An open is taken in. What is not stopped is told when it is done, if that is to be seen.
#[tracepoint]
pub fn ring_open_taken(ctx: TracePointContext) -> u32 {
    let _ = try_open_taken(&ctx);
    0
}

#[inline(always)]
fn try_open_taken(ctx: &TracePointContext) -> Option<()> {
    let request = Request::of(ctx, Field::RingTaken)?;
    if !is_open(request.opcode()?) {
        return None;
    }
    let command = request.command()?;
    let flags = command.get::<u64>(Field::OpenFlags)? as u32;
    if flags & (O_ACCMODE | O_TRUNC) == 0 || flags & O_PATH != 0 {
        return None;
    }
    let (task, tgid, entry) = container_task()?;
    let found = named(task, command, Field::OpenFolder, Field::OpenPath)?;
    // What is Bulkhead's own is known by its inode.
    if found.reason as u8 == Reason::Tamper as u8 {
        return None;
    }
    let judgement = sensitive::judge(entry, tgid, found.reason, false, false, guard::Means::Kill);
    if !judgement.stops() && !(judgement.tells() && request.is_silent()?) {
        return None;
    }
    path::tell(task, entry, &found, 0, &judgement)
}

/// An open is done.
#[tracepoint]
pub fn ring_opened(ctx: TracePointContext) -> u32 {
    let _ = try_opened(&ctx);
    0
}

#[inline(always)]
fn try_opened(ctx: &TracePointContext) -> Option<()> {
    let request = Request::of(ctx, Field::RingCompleted)?;
    if !is_open(request.opcode()?) {
        return None;
    }
    let result = result(ctx)?;
    if result < 0 {
        return None;
    }
    let task = Task::current()?;
    let tgid = task.tgid()?;
    let entry = open::interesting(tgid)?;
    let slot = request.command()?.get::<u32>(Field::OpenSlot)?;
    let file = match slot {
        0 => task.file(result as u32)?,
        slot => request.held(slot, result as u32)?,
    };
    open::opened(task, tgid, entry, file, guard::Means::Kill);
    Some(())
}

/// A rename, link or symbolic link is taken in.
#[tracepoint]
pub fn ring_name_taken(ctx: TracePointContext) -> u32 {
    let _ = try_name_taken(&ctx);
    0
}

#[inline(always)]
fn try_name_taken(ctx: &TracePointContext) -> Option<()> {
    let request = Request::of(ctx, Field::RingTaken)?;
    let (folder, path) = match request.opcode()? {
        OP_RENAMEAT => (Field::RenameNewFolder, Field::RenameNewPath),
        OP_SYMLINKAT | OP_LINKAT => (Field::LinkNewFolder, Field::LinkNewPath),
        _ => return None,
    };
    judge(request, folder, path, FILE_NAMED)
}

/// A removal, or the rename of what is there.
#[tracepoint]
pub fn ring_removal_taken(ctx: TracePointContext) -> u32 {
    let _ = try_removal_taken(&ctx);
    0
}

#[inline(always)]
fn try_removal_taken(ctx: &TracePointContext) -> Option<()> {
    let request = Request::of(ctx, Field::RingTaken)?;
    let (folder, path) = match request.opcode()? {
        OP_UNLINKAT => (Field::UnlinkFolder, Field::UnlinkPath),
        OP_RENAMEAT => (Field::RenameOldFolder, Field::RenameOldPath),
        _ => return None,
    };
    judge(request, folder, path, FILE_REMOVED)
}

/// A connection is made.
#[tracepoint]
pub fn ring_connected(ctx: TracePointContext) -> u32 {
    let _ = try_connected(&ctx);
    0
}

#[inline(always)]
fn try_connected(ctx: &TracePointContext) -> Option<()> {
    let request = Request::of(ctx, Field::RingCompleted)?;
    if request.opcode()? != OP_CONNECT || result(ctx)? != 0 {
        return None;
    }
    let (task, tgid, entry) = container_task()?;
    unix::connected(task, tgid, entry, request.file()?)
}

#[inline(always)]
fn is_open(opcode: u8) -> bool {
    opcode == OP_OPENAT || opcode == OP_OPENAT2
}

/// Of a completion.
#[inline(always)]
fn result(ctx: &TracePointContext) -> Option<i32> {
    // SAFETY: within the tracepoint's record.
    unsafe { ctx.read_at(offset(Field::RingResult)?) }.ok()
}

#[inline(always)]
fn container_task<'a>() -> Option<(Task, u32, &'a mut state::Task)> {
    let task = Task::current()?;
    let tgid = task.tgid()?;
    let entry = provenance::entry(tgid)?;
    (entry.container != HOST).then_some((task, tgid, entry))
}

#[inline(always)]
fn judge(request: Request, folder: Field, path: Field, bit: u32) -> Option<()> {
    let (task, tgid, entry) = container_task()?;
    path::judge(task, tgid, entry, &named(task, request.command()?, folder, path)?, bit)
}

/// What the path of a request is to us. Its text is the kernel's copy already.
#[inline(always)]
fn named<'a>(task: Task, command: Object, folder: Field, path: Field) -> Option<path::Found<'a>> {
    let text = command.follow(path)?.follow(Field::PathText)?;
    path::look(task, command.get(folder)?, |to, length| {
        // SAFETY: writable for its length; the helper ends it with a NUL.
        unsafe { bpf_probe_read_kernel_str(to.cast(), length, text.raw().cast()) }
    })
}
