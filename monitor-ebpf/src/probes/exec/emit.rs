//! The record of it.

use super::{Room, hold};
use crate::kernel::file::{copy, string};
use crate::kernel::task::Task;
use crate::kernel::{Object, copy_words};
use crate::record::{self, Subject};
use crate::reflex::provenance;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use core::hint::black_box;
use monitor_common::exec::{ARGS_CLASSES, ARGS_HEAD, ARGS_TAIL, EXEC_ARGS_CUT, Exec};
use monitor_common::header::Kind;

#[repr(C)]
struct ExecWith<const N: usize> {
    exec: Exec,
    args: [u8; N],
}

/// As large as the arguments need it.
#[inline(always)]
pub fn emit(room: &mut Room) -> Option<()> {
    let task = room.scratch.task()?;
    let (start, end) = task.mm()?.arguments()?;
    let total = end.wrapping_sub(start);
    if total <= ARGS_CLASSES[0] as u64 {
        write::<{ ARGS_CLASSES[0] }>(task, room, start, end)
    } else if total <= ARGS_CLASSES[1] as u64 {
        write::<{ ARGS_CLASSES[1] }>(task, room, start, end)
    } else {
        write::<{ ARGS_CLASSES[2] }>(task, room, start, end)
    }
}

#[inline(always)]
fn write<const N: usize>(task: Task, room: &Room, start: u64, end: u64) -> Option<()> {
    let scratch = &room.scratch;
    let entry = provenance::entry(scratch.tgid)?;
    let subject = Subject::running(entry);
    let task_flags = entry.flags;
    let judgement = &room.judgement;
    let mut entry = record::begin::<ExecWith<N>>(Kind::Exec, &subject, judgement, scratch.time_ns)?;
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
        copy(&raw const scratch.exe, &raw mut (*exec).exe);
        copy(&raw const scratch.stdio, &raw mut (*exec).stdio);
        copy(&raw const scratch.origin, &raw mut (*exec).origin);
        copy_words(&scratch.print, &mut (*exec).fingerprint);
        task.comm(&mut (*exec).comm);
        (*exec).filename[0] = 0;
        if let Some(name) = Object::new(scratch.filename as *const u8) {
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
        (*exec).shape = scratch.shape;
    }
    record::submit(entry, judgement);
    hold::told(scratch.shape, scratch.time_ns);
    Some(())
}
