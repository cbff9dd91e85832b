//! What the container's baseline says of a program start. Nothing but lookups: the daemon has compiled it.

use super::{EMPTY_ROOM, ROOMS, Room, exec_component, exec_is_lacking, hold};
use crate::kernel::file::File;
use crate::kernel::task::Task;
use crate::maps::PROFILES;
use crate::reflex::{guard, provenance};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::macros::btf_map;
use monitor_common::file::{
    COMPONENTS, FILE_FOREIGN_SB, FILE_MEMFD, FILE_PATH_CUT, FILE_TMPFS, FILE_UNLINKED, FILE_UPPER,
};
use monitor_common::header::Reason;
use monitor_common::profile::{
    ANY, ANY_FORM, ANY_USER, BOUND_EXECS, ENTERED, EdgeKey, LAYER_IMAGE, LAYER_MEMORY, LAYER_TMPFS, LAYER_UPPER,
    LAYER_VOLUME, START, finish, step,
};
use monitor_common::state::{HOST, TASK_ENTERED, TASK_ENTERING};

/// Program starts that profiles expect.
#[btf_map]
static EDGES: HashMap<EdgeKey, u32, 16384> = HashMap::new();

/// Combinations of exact and any: parent, program, user.
const WAYS: u32 = 8;

/// Remembers the program for the next start, and kills it if the container's profile does not have it.
#[inline(always)]
pub fn judge(tid: u32, room: &mut Room) -> Option<()> {
    let tgid = room.scratch.tgid;
    let entry = provenance::entry(tgid)?;
    // A runtime's own init, on its way to the program: it is nobody's parent.
    if entry.container == HOST || entry.flags & TASK_ENTERING != 0 {
        return None;
    }
    let exe = path(tid, room);
    let before = entry.exe;
    entry.exe = exe;
    if room.judgement.tells() || (before == 0 && entry.flags & TASK_ENTERED == 0) {
        return None;
    }
    // SAFETY: copied at once; a change makes it the old one or the new one.
    let bound = unsafe { PROFILES.get(&entry.container) }.copied()?;
    if bound.holds & BOUND_EXECS == 0 || bound.init != 0 && entry.lineage[0] != bound.init {
        return None;
    }
    let parent = if before == 0 { ENTERED } else { before };
    let layer = layer(room.scratch.exe.flags);
    let key = edge(bound.profile, parent, exe, room.scratch.task()?.uid()?, layer);
    if is_expected(&key, room.scratch.form) {
        room.scratch.shape = mixed(&key, room.scratch.form);
    } else {
        room.judgement = guard::kill(entry.container, tgid, Reason::BaselineExec, 0);
    }
    Some(())
}

#[inline(always)]
const fn edge(profile: u32, parent: u64, exe: u64, user: u32, layer: u32) -> EdgeKey {
    EdgeKey { parent, exe, profile, user, layer, form: 0 }
}

/// The beginning of what tells the start from others. Never 0.
#[inline(always)]
fn mixed(edge: &EdgeKey, form: u32) -> u64 {
    let of = [edge.parent, edge.exe, u64::from(edge.profile) << 32 | u64::from(edge.user), u64::from(form)];
    of.into_iter().fold(hold::begun(), hold::mix) | 1
}

#[inline(always)]
fn is_expected(edge: &EdgeKey, form: u32) -> bool {
    for way in 0..WAYS {
        let key = EdgeKey {
            parent: if way & 1 == 0 { edge.parent } else { ANY },
            exe: if way & 2 == 0 { edge.exe } else { ANY },
            user: if way & 4 == 0 { edge.user } else { ANY_USER },
            form,
            ..*edge
        };
        // SAFETY: only its presence counts.
        if unsafe { EDGES.get(&key) }.is_some() {
            return true;
        }
    }
    false
}

/// The same of a program that is about to be taken, for who can refuse it: is it none that the profile has, whatever
/// its arguments say? They are not known yet, nor is anything remembered.
#[inline(always)]
pub fn lacks(task: Task, file: File) -> Option<bool> {
    let entry = provenance::entry(task.tgid()?)?;
    // SAFETY: as in `judge`.
    let bound = unsafe { PROFILES.get(&entry.container) }.copied()?;
    if bound.holds & BOUND_EXECS == 0 || bound.init != 0 && entry.lineage[0] != bound.init {
        return None;
    }
    let tid = task.tid()?;
    ROOMS.insert(&tid, EMPTY_ROOM.get(0)?, 0).ok()?;
    let answer = begun(tid, task, file);
    let _ = ROOMS.remove(&tid);
    answer
}

#[inline(always)]
fn begun(tid: u32, task: Task, file: File) -> Option<bool> {
    let scratch = &mut Room::of(tid)?.scratch;
    scratch.file = file.0.raw() as u64;
    scratch.task = task.0.raw() as u64;
    scratch.tgid = task.tgid()?;
    Some(exec_is_lacking(tid) != 0)
}

/// What [`lacks`] asks, in a function of its own (see [`crate::reflex`]).
#[inline(always)]
pub fn compare(tid: u32, room: &mut Room) -> Option<bool> {
    let task = room.scratch.task()?;
    let entry = provenance::entry(room.scratch.tgid)?;
    room.scratch.file()?.describe(&mut room.scratch.exe, task.root_sb());
    let is_entering = entry.flags & TASK_ENTERING != 0;
    // A runtime's own init, as in `judge`.
    if provenance::is_runtime(entry, &room.scratch.exe, 0) {
        return None;
    }
    if entry.exe == 0 && !is_entering && entry.flags & TASK_ENTERED == 0 {
        return None;
    }
    // SAFETY: as in `judge`.
    let profile = unsafe { PROFILES.get(&entry.container) }?.profile;
    let parent = if entry.exe == 0 { ENTERED } else { entry.exe };
    let key = edge(profile, parent, path(tid, room), task.uid()?, layer(room.scratch.exe.flags));
    Some(is_expected(&key, 0) || is_expected(&key, ANY_FORM))
}

#[inline(always)]
fn path(tid: u32, room: &Room) -> u64 {
    let mut path = START;
    for index in 0..COMPONENTS as u32 {
        if index >= room.scratch.exe.depth {
            break;
        }
        path = step(path, exec_component(tid, index));
    }
    finish(path, room.scratch.exe.flags & FILE_PATH_CUT != 0)
}

/// As the daemon names it.
#[inline(always)]
const fn layer(file: u32) -> u32 {
    if file & (FILE_MEMFD | FILE_UNLINKED) != 0 {
        LAYER_MEMORY
    } else if file & FILE_TMPFS != 0 {
        LAYER_TMPFS
    } else if file & FILE_UPPER != 0 {
        LAYER_UPPER
    } else if file & FILE_FOREIGN_SB != 0 {
        LAYER_VOLUME
    } else {
        LAYER_IMAGE
    }
}
