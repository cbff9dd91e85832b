//! Program starts that need not be told: the container's baseline expects them, nothing about them is remarkable, and the very
//! same start (who starts what, as whom, with which arguments and descriptors) was told in full a moment ago. They are
//! counted (docs/adr/0016).

use super::Room;
use super::look::DRIFT;
use crate::maps::config;
use crate::reflex::{held, provenance};
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::btf_map;
use core::hint::black_box;
use monitor_common::exec::{STDIO_DEVICE, STDIO_FILE, STDIO_NONE, STDIO_PIPE};
use monitor_common::file::FILE_FOREIGN_SB;
use monitor_common::state::{
    CLASS_INTERPRETER, CLASS_SHELL, TASK_INTERPRETER, TASK_PACKAGE_SCRIPT, TASK_SHELL, UNTOLD_EXEC,
};

/// Arguments that are longer than so many words are always told.
pub const WORDS: usize = 64;
const BYTES: u32 = WORDS as u32 * 8;

/// What a process may be. That it is below a shell means something with `TASK_PACKAGE_MANAGER` only.
const UNREMARKABLE: u32 = TASK_SHELL | TASK_INTERPRETER | TASK_PACKAGE_SCRIPT;

/// How long a start that was told stands for others like it. A detector that adds things up within ten seconds still
/// sees one of each.
const FRESH_NS: u64 = 5_000_000_000;

/// When the like was told last, by what tells it from others.
#[btf_map]
static SHAPES: LruHashMap<u64, u64, 4096> = LruHashMap::new();

/// What [`mix`] begins with: nobody can tell which starts have the same number.
#[inline(always)]
pub fn begun() -> u64 {
    config().map_or(0, |config| config.seed)
}

/// Takes a word in.
#[inline(always)]
pub fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Holds the record back if it may be.
#[inline(always)]
pub fn hold(room: &mut Room) -> Option<()> {
    let shape = core::mem::replace(&mut room.scratch.shape, 0);
    if shape == 0 || room.judgement.tells() || room.scratch.flags != 0 || !held::is_on() {
        return None;
    }
    let exe = &room.scratch.exe;
    let entry = provenance::entry(room.scratch.tgid)?;
    if exe.flags & (DRIFT | FILE_FOREIGN_SB) != 0 || entry.flags & !UNREMARKABLE != 0 {
        return None;
    }
    let shape = mix(mix(shape, entry.container), exe.ino ^ u64::from(exe.dev) << 32);
    let shape = arguments(room, descriptors(room, shape)?)? | 1;
    room.scratch.shape = shape;
    let told = SHAPES.get_ptr_mut(&shape)?;
    // SAFETY: read at once. A time that is ahead of this one's is long ago.
    if room.scratch.time_ns.wrapping_sub(unsafe { *told }) > FRESH_NS {
        return None;
    }
    entry.shape = shape;
    entry.untold |= UNTOLD_EXEC;
    held::count_exec(entry.container);
    Some(())
}

/// The start was told in full.
#[inline(always)]
pub fn told(shape: u64, time_ns: u64) {
    if shape != 0 {
        let _ = SHAPES.insert(&shape, &time_ns, 0);
    }
}

/// No connection and no terminal; and nobody feeds an interpreter.
#[inline(always)]
fn descriptors(room: &Room, mut shape: u64) -> Option<u64> {
    for stdio in &room.scratch.stdio {
        if !matches!(stdio.kind, STDIO_NONE | STDIO_FILE | STDIO_DEVICE | STDIO_PIPE) {
            return None;
        }
        shape = mix(shape, u64::from(stdio.kind));
    }
    let takes_text = room.scratch.class & (CLASS_SHELL | CLASS_INTERPRETER) != 0;
    if takes_text && room.scratch.stdio[0].kind == STDIO_PIPE { None } else { Some(shape) }
}

#[inline(always)]
fn arguments(room: &mut Room, mut shape: u64) -> Option<u64> {
    let (start, end) = room.scratch.task()?.mm()?.arguments()?;
    let total = end.wrapping_sub(start);
    if total > u64::from(BYTES) {
        return None;
    }
    let words = &mut room.words;
    let length = black_box(total as u32).min(BYTES);
    // SAFETY: there is room for so much.
    if unsafe { bpf_probe_read_user(words.as_mut_ptr().cast(), length, start as *const _) } != 0 {
        return None;
    }
    shape = mix(shape, total);
    for word in words.iter() {
        shape = mix(shape, *word);
    }
    Some(shape)
}
