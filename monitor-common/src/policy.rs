//! Policy bits: what the daemon compiles for a container and the kernel half obeys.

use bytemuck::{Pod, Zeroable};

/// [`Policy::flags`]: events of this container are sent.
pub const POLICY_WATCHED: u32 = 1 << 0;
/// The container is `bulkhead.mode=off`: nothing is sent, nothing enforced.
pub const POLICY_OFF: u32 = 1 << 1;
/// The daemon has confirmed this cgroup; until then the default policy holds.
pub const POLICY_CONFIRMED: u32 = 1 << 2;

/// The container is quarantined: none of its packets pass, none of its connects are let through.
pub const POLICY_QUARANTINE: u32 = 1 << 3;

/// The container is held to a baseline ([`crate::profile::Bound`]).
pub const POLICY_BOUND: u32 = 1 << 4;

/// Value of the `CONTAINERS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Policy {
    /// Id of the outermost cgroup of this container: events carry it.
    pub root: u64,
    /// Bit `1 << Reason`: deny or kill for this reason; otherwise only tell.
    pub enforce: u32,
    /// `POLICY_*`.
    pub flags: u32,
}
const _: () = assert!(size_of::<Policy>() == 16);
