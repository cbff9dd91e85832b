//! Marks in tables that all containers share: tainted files and outbound sockets. A full table forgets its
//! oldest marks, whosever they are. A container that makes marks without end, be it to have another one's
//! forgotten, makes them in a second table with others of its kind. See docs/adr/0008-who-loses-in-a-flood.md.

use crate::kernel::copy_words;
use crate::kernel::file::Inode;
use crate::maps::{INODES, SOCKETS};
use crate::record::now;
use crate::share::add;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, LruHashMap};
use aya_ebpf::macros::btf_map;
use monitor_common::state::{InodeKey, Origin, Socket, Taint};

/// Marks that a container may make at once; a sixteenth of a table.
const BURST: u64 = 2048;
/// And from then on, 64 a second: to turn a table over takes a container eight minutes.
const EACH_NS: u64 = 1_000_000_000 / 64;

/// A table and who makes marks in it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Maker {
    container: u64,
    table: u64,
}

/// Until when a container's marks are paid for, ns since boot: each costs [`EACH_NS`]. (The generic cell rate
/// algorithm, ITU-T I.371.)
#[btf_map]
static PAID: LruHashMap<Maker, u64, 4096> = LruHashMap::new();

/// Of each table's second one, whether it was ever used: until then nobody looks there.
#[btf_map]
static CROWDED: Array<u64, 2> = Array::new();

#[btf_map]
static CROWD_INODES: LruHashMap<InodeKey, Taint, 32768> = LruHashMap::new();

#[btf_map]
static CROWD_SOCKETS: LruHashMap<u64, Socket, 32768> = LruHashMap::new();

const FILES: u32 = 0;
const PEERS: u32 = 1;

/// May the container make a mark in the first table?
#[inline(always)]
fn admits(table: u32, container: u64) -> bool {
    let now = now();
    let maker = Maker { container, table: u64::from(table) };
    let Some(paid) = PAID.get_ptr_mut(&maker) else {
        let _ = PAID.insert(&maker, &(now + EACH_NS), u64::from(BPF_NOEXIST));
        return true;
    };
    // SAFETY: a word of a live map value; two processors that find it in the past give one mark away.
    let until = unsafe { paid.read_volatile() };
    if until < now {
        // SAFETY: as above.
        unsafe { paid.write_volatile(now + EACH_NS) };
        return true;
    }
    if until - now > BURST * EACH_NS {
        return false;
    }
    add(paid, EACH_NS);
    true
}

#[inline(always)]
fn is_crowded(table: u32) -> bool {
    CROWDED.get(table).is_some_and(|used| *used != 0)
}

#[inline(always)]
fn crowd(table: u32) {
    if let Some(used) = CROWDED.get_ptr_mut(table) {
        // SAFETY: one word, only ever set.
        unsafe { used.write_volatile(1) };
    }
}

/// Marks a file as tainted.
#[inline(always)]
pub fn file(key: &InodeKey, taint: &Taint) {
    // SAFETY: only its presence counts.
    if unsafe { INODES.get(key) }.is_some() || admits(FILES, taint.container) {
        let _ = INODES.insert(key, taint, 0);
    } else {
        crowd(FILES);
        let _ = CROWD_INODES.insert(key, taint, 0);
    }
}

/// Origin of a file's taint; `None` if it has none. Marks of files that had its number before are none of its.
#[inline(always)]
pub fn of_file(key: &InodeKey, file: Inode, from: &mut Origin) -> Option<()> {
    // SAFETY: copied at once.
    let taint = match unsafe { INODES.get(key) } {
        // SAFETY: as above.
        None if is_crowded(FILES) => unsafe { CROWD_INODES.get(key) }?,
        found => found?,
    };
    let now = file.generation()?;
    if taint.generation != 0 && now != 0 && taint.generation != now {
        return None;
    }
    copy_words(&taint.origin, from);
    Some(())
}

/// The file has other content now.
#[inline(always)]
pub fn forget_file(key: &InodeKey) {
    let _ = INODES.remove(key);
    if is_crowded(FILES) {
        let _ = CROWD_INODES.remove(key);
    }
}

/// Marks a socket as outbound.
#[inline(always)]
pub fn socket(cookie: u64, socket: &Socket) {
    // SAFETY: only its presence counts.
    if unsafe { SOCKETS.get(&cookie) }.is_some() || admits(PEERS, socket.container) {
        let _ = SOCKETS.insert(&cookie, socket, 0);
    } else {
        crowd(PEERS);
        let _ = CROWD_SOCKETS.insert(&cookie, socket, 0);
    }
}

/// What is known of an outbound socket.
#[inline(always)]
pub fn of_socket(cookie: u64) -> Option<*mut Socket> {
    match SOCKETS.get_ptr_mut(&cookie) {
        None if is_crowded(PEERS) => CROWD_SOCKETS.get_ptr_mut(&cookie),
        found => found,
    }
}

/// Is the socket outbound?
#[inline(always)]
pub fn is_outbound(cookie: u64) -> bool {
    of_socket(cookie).is_some()
}

/// It is not after all.
#[inline(always)]
pub fn forget_socket(cookie: u64) {
    let _ = SOCKETS.remove(&cookie);
    if is_crowded(PEERS) {
        let _ = CROWD_SOCKETS.remove(&cookie);
    }
}
