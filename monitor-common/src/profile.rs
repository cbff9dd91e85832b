//! Baselines in the kernel: which program may be started by which, and which connects to where, compiled to hashes of
//! paths and prefixes of addresses.

use crate::hash;
use bytemuck::{Pod, Zeroable};

/// Key of the `EDGES` map: one program start that a profile expects. The value counts them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct EdgeKey {
    /// [`path`] of the program before it; [`ANY`] or [`ENTERED`].
    pub parent: u64,
    /// [`path`] of the program; or [`ANY`].
    pub exe: u64,
    /// The profile ([`Bound::profile`]).
    pub profile: u32,
    /// Real uid, or [`ANY_USER`].
    pub user: u32,
    /// `LAYER_*`: where the program's file lives.
    pub layer: u32,
    /// [`crate::argv::Form`] as integer, or [`ANY_FORM`].
    pub form: u32,
}
const _: () = assert!(size_of::<EdgeKey>() == 32);

/// Any path.
pub const ANY: u64 = 1;
/// In place of a parent: started from outside the container, as its first program or by a runtime's exec.
pub const ENTERED: u64 = 2;
/// Any user.
pub const ANY_USER: u32 = u32::MAX;
/// Some form: what can be known of an interpreter's start before its arguments are. Beside the key that says which.
pub const ANY_FORM: u32 = u32::MAX;

/// In the image.
pub const LAYER_IMAGE: u32 = 0;
/// In the container's writable layer.
pub const LAYER_UPPER: u32 = 1;
/// On a tmpfs.
pub const LAYER_TMPFS: u32 = 2;
/// On another mount.
pub const LAYER_VOLUME: u32 = 3;
/// Nowhere: memfd, or deleted.
pub const LAYER_MEMORY: u32 = 4;

/// Value of the `PROFILES` map, by container: what it is held to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bound {
    /// Number of the profile; a new one each time it changes.
    pub profile: u32,
    /// [`crate::lineage::id`] of the container's first process: who does not descend from it is in a session from
    /// outside and is left alone. 0: everybody is held to it.
    pub init: u32,
    /// `BOUND_*`: what of it is in the kernel.
    pub holds: u32,
}
const _: () = assert!(size_of::<Bound>() == 12);

/// [`Bound::holds`]: program starts.
pub const BOUND_EXECS: u32 = 1 << 0;
/// [`Bound::holds`]: connections.
pub const BOUND_CONNECTS: u32 = 1 << 1;

/// [`Bound::holds`]: no code is mapped from files that are not the image's.
pub const BOUND_CODE: u32 = 1 << 2;

/// Key of the `PORTS` trie. Its value is the number of a range of ports that the profile tells apart
/// ([`Destination::ports`]), never 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct PortKey {
    /// The profile.
    pub profile: u32,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// Big-endian, as a trie compares from the first bit on.
    pub port: [u8; 2],
}
const _: () = assert!(size_of::<PortKey>() == 8);

/// Bits of a [`PortKey`] before the port.
pub const PORT_PREFIX: u32 = 48;

/// Key of the `DESTINATIONS` trie: where a program may connect to, as far as the kernel half can tell. Its value is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Destination {
    /// The profile.
    pub profile: u32,
    /// Which range of ports.
    pub ports: u32,
    /// [`path`] of the program, or [`ANY`]; in halves, as a trie's key has no alignment of its own.
    pub exe: [u32; 2],
    /// 4 or 6.
    pub family: u32,
    /// As in [`crate::net::Peer`].
    pub addr: [u8; 16],
}
const _: () = assert!(size_of::<Destination>() == 36);

/// Bits of a [`Destination`] before the family: with no more than these, any address is meant.
pub const ANYWHERE: u32 = 128;
/// Bits of a [`Destination`] before the address.
pub const ADDRESS_PREFIX: u32 = 160;
/// All of them.
pub const WHOLE_ADDRESS: u32 = ADDRESS_PREFIX + 128;

/// A program's hash as a key has it.
#[inline(always)]
pub const fn halves(path: u64) -> [u32; 2] {
    [path as u32, (path >> 32) as u32]
}

/// Start value of [`step`].
pub const START: u64 = 0xcbf2_9ce4_8422_2325;

/// Takes one more component of a path in, the file's own name first.
#[inline(always)]
pub const fn step(path: u64, component: u32) -> u64 {
    (path ^ component as u64).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

/// Ends a path; `is_cut` if it goes on towards the root. Never [`ANY`], [`ENTERED`] or 0.
#[inline(always)]
pub const fn finish(path: u64, is_cut: bool) -> u64 {
    let path = step(path, if is_cut { 1 } else { 0 });
    if path <= ENTERED { path + ENTERED + 1 } else { path }
}

/// Hash of a path as records tell it: `/usr/bin/sh`, or `…/a/b` with the last eight components.
pub fn path(text: &str) -> u64 {
    let (rest, is_cut) = match text.strip_prefix('…') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let components = rest.rsplit('/').filter(|component| !component.is_empty());
    finish(components.fold(START, |hash, component| step(hash, hash::name(component.as_bytes()))), is_cut)
}

#[cfg(test)]
mod tests {
    use super::{ENTERED, path};

    #[test]
    fn paths_differ_by_every_component_and_their_order() {
        let all = ["/usr/bin/sh", "/bin/sh", "/sh/bin/usr", "…/usr/bin/sh", "/usr/bin/s", "/"].map(path);
        for (i, one) in all.iter().enumerate() {
            assert!(*one > ENTERED);
            assert!(all.iter().skip(i + 1).all(|other| other != one));
        }
    }
}
