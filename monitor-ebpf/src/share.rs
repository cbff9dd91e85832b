//! Room in the rings, by container: each may hold at most [`TIMES_FREE`] times as much of a ring as is
//! free. So however many flood, some of the ring stays free for who does not, and nobody has to know how
//! fast the daemon reads. (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
//! Switches", IEEE/ACM Transactions on Networking 6(2), 1998.) See docs/adr/0008-who-loses-in-a-flood.md.

use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_CONS_POS};
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;

/// One flooder may fill two thirds of a ring, two may fill two fifths each.
const TIMES_FREE: u64 = 2;
/// Nobody is refused before two thirds of a ring are full; up to an eighth nobody is counted either.
const UNCOUNTED: u64 = 8;
/// BPF_RINGBUF_HDR_SZ (include/uapi/linux/bpf.h); records begin at multiples of it.
const RECORD_HEADER: u64 = 8;

/// Which ring of which container.
#[repr(C)]
#[derive(Clone, Copy)]
struct Holder {
    container: u64,
    ring: u64,
}

/// What a container has written into a ring, in two stretches of the ring: when the reader is beyond the
/// first, that is forgotten and the second takes its place. Positions count bytes since the ring was made.
#[repr(C)]
#[derive(Clone, Copy)]
struct Share {
    /// Bytes written in the first stretch.
    before: u64,
    /// Bytes written in the second.
    since: u64,
    /// Where the second begins.
    begun: u64,
    /// Where the latest record ends.
    end: u64,
}

#[btf_map]
static SHARES: LruHashMap<Holder, Share, 4096> = LruHashMap::new();

/// A ring as it is asked for its state.
pub struct Ring {
    /// The map.
    pub map: *mut c_void,
    /// Its size, bytes.
    pub bytes: u64,
    /// Tells rings apart.
    pub id: u64,
}

/// May the container write a record of `length` bytes?
#[inline(always)]
pub fn admits(ring: &Ring, container: u64, length: u64) -> bool {
    // SAFETY: a ring map, and numbers.
    let used = unsafe { bpf_ringbuf_query(ring.map, u64::from(BPF_RB_AVAIL_DATA)) };
    if used < ring.bytes / UNCOUNTED {
        return true;
    }
    // SAFETY: as above.
    let read = unsafe { bpf_ringbuf_query(ring.map, u64::from(BPF_RB_CONS_POS)) };
    let written = read.wrapping_add(used);
    let Some(share) = share(&Holder { container, ring: ring.id }) else { return true };
    if share.end <= read {
        share.before = 0;
        share.since = 0;
        share.begun = written;
    } else if share.begun <= read {
        share.before = share.since;
        share.since = 0;
        share.begun = written;
    }
    let room = (length + RECORD_HEADER).next_multiple_of(RECORD_HEADER);
    let free = ring.bytes.saturating_sub(used);
    if share.before + share.since + room > free * TIMES_FREE {
        return false;
    }
    // Two processors may begin a stretch at once, and what one adds in between is forgotten. Then a
    // flooder holds more than its share for a stretch, and still only so many times what is free.
    add(&raw mut share.since, room);
    share.end = written.wrapping_add(room);
    true
}

#[inline(always)]
fn share<'a>(holder: &Holder) -> Option<&'a mut Share> {
    let found = match SHARES.get_ptr_mut(holder) {
        Some(found) => found,
        None => {
            let empty = Share { before: 0, since: 0, begun: 0, end: 0 };
            let _ = SHARES.insert(holder, &empty, u64::from(BPF_NOEXIST));
            SHARES.get_ptr_mut(holder)?
        }
    };
    // SAFETY: map values live as long as the program run; every field is a word.
    Some(unsafe { &mut *found })
}

/// Adds to a word of a map value, atomically: a flooder may have all processors.
#[inline(always)]
pub fn add(word: *mut u64, amount: u64) {
    // SAFETY: an aligned word of a live map value. The BPF target offers no AtomicU64::fetch_add.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount);
    }
}
