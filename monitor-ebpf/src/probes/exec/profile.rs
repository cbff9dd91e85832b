//! What the container's baseline says of a program start. Nothing but lookups: the daemon has compiled it.

use super::{Room, exec_component};
use crate::maps::PROFILES;
use crate::reflex::{guard, provenance};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::macros::btf_map;
use monitor_common::file::{
    COMPONENTS, FILE_FOREIGN_SB, FILE_MEMFD, FILE_PATH_CUT, FILE_TMPFS, FILE_UNLINKED, FILE_UPPER,
};
use monitor_common::header::Reason;
use monitor_common::profile::{
    ANY, ANY_USER, BOUND_EXECS, ENTERED, EdgeKey, LAYER_IMAGE, LAYER_MEMORY, LAYER_TMPFS, LAYER_UPPER, LAYER_VOLUME,
    START, finish, step,
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
    let user = room.scratch.task()?.uid()?;
    let mut key = EdgeKey {
        parent,
        exe,
        profile: bound.profile,
        user,
        layer: layer(room.scratch.exe.flags),
        form: room.scratch.form,
    };
    for way in 0..WAYS {
        key.parent = if way & 1 == 0 { parent } else { ANY };
        key.exe = if way & 2 == 0 { exe } else { ANY };
        key.user = if way & 4 == 0 { user } else { ANY_USER };
        // SAFETY: only its presence counts.
        if unsafe { EDGES.get(&key) }.is_some() {
            return None;
        }
    }
    room.judgement = guard::kill(entry.container, tgid, Reason::BaselineExec, 0);
    Some(())
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
