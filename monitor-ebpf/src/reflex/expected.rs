//! Does a container's baseline expect a connection? Nothing but lookups: the daemon has compiled it.

use crate::kernel::task::Task;
use crate::maps::PROFILES;
use crate::reflex::provenance;
use aya_ebpf::btf_maps::LpmTrie;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::macros::btf_map;
use monitor_common::net::Peer;
use monitor_common::profile::{ANY, BOUND_CONNECTS, Destination, PORT_PREFIX, PortKey, WHOLE_ADDRESS, halves};

/// include/uapi/linux/in.h
const IPPROTO_TCP: u16 = 6;
/// include/uapi/linux/in.h
const IPPROTO_UDP: u16 = 17;
/// include/uapi/linux/in.h: TCP as the application sees it.
const IPPROTO_MPTCP: u16 = 262;

/// Ranges of ports that profiles tell apart.
#[btf_map]
static PORTS: LpmTrie<PortKey, u32, 16384> = LpmTrie::new();

/// Where programs may connect to.
#[btf_map]
static DESTINATIONS: LpmTrie<Destination, u32, 32768> = LpmTrie::new();

/// A trie's key with its fields where the compiler can write them as words.
#[repr(C)]
struct Lookup<T> {
    bits: u32,
    data: T,
}
const _: () = assert!(size_of::<Lookup<Destination>>() == size_of::<Key<Destination>>());
const _: () = assert!(size_of::<Lookup<PortKey>>() == size_of::<Key<PortKey>>());

impl<T> Lookup<T> {
    #[inline(always)]
    fn key(&self) -> &Key<T> {
        // SAFETY: the same fields in the same places, without padding on either side; `Key` has alignment 1.
        unsafe { &*(&raw const *self).cast() }
    }
}

/// Is the connection none of those that the baseline of its maker's container has? Never of a maker whose program is
/// not known for sure.
#[inline(always)]
pub fn lacks(tgid: u32, peer: &Peer) -> bool {
    // getaddrinfo(3) connects to port 0 to learn the address it would send from; nothing is sent.
    if peer.protocol == IPPROTO_UDP && peer.port == 0 {
        return false;
    }
    let words = (&raw const peer.addr).cast::<u64>();
    // SAFETY: 16 bytes, and `Peer` begins at a multiple of 8 on the caller's stack.
    let (high, low) = unsafe { (words.read_unaligned(), words.add(1).read_unaligned()) };
    connect_is_lacking(tgid, high, low, u32::from(peer.port), u32::from(peer.protocol)) != 0
}

/// A function of its own (see [`super`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn connect_is_lacking(tgid: u32, high: u64, low: u64, port: u32, protocol: u32) -> u32 {
    u32::from(compare(tgid, high, low, port as u16, protocol as u16) == Some(false))
}

#[inline(always)]
fn compare(tgid: u32, high: u64, low: u64, port: u16, protocol: u16) -> Option<bool> {
    let entry = provenance::entry(tgid)?;
    // SAFETY: copied at once; a change makes it the old one or the new one.
    let bound = unsafe { PROFILES.get(&entry.container) }.copied()?;
    let is_session = bound.init != 0 && entry.lineage[0] != bound.init;
    if bound.holds & BOUND_CONNECTS == 0 || is_session || entry.exe == 0 {
        return None;
    }
    // A program start that was not seen: who connects is not who is known.
    if entry.exec_id != 0 && Task::current()?.exec_id()? != entry.exec_id {
        return None;
    }
    let protocol = if protocol == IPPROTO_MPTCP { IPPROTO_TCP } else { protocol };
    let range =
        Lookup { bits: PORT_PREFIX + 16, data: PortKey { profile: bound.profile, protocol, port: port.to_be_bytes() } };
    let Some(ports) = PORTS.get(range.key()) else { return Some(false) };
    let mut to = Lookup {
        bits: WHOLE_ADDRESS,
        data: Destination {
            profile: bound.profile,
            ports: *ports,
            exe: halves(entry.exe),
            family: if high == 0 && low as u32 == u32::from_be(0xffff) { 4 } else { 6 },
            addr: [0; 16],
        },
    };
    let addr = (&raw mut to.data.addr).cast::<u64>();
    // SAFETY: 16 bytes.
    unsafe {
        addr.write_unaligned(high);
        addr.add(1).write_unaligned(low);
    }
    if DESTINATIONS.get(to.key()).is_some() {
        return Some(true);
    }
    to.data.exe = halves(ANY);
    Some(DESTINATIONS.get(to.key()).is_some())
}
