//! The lab: a container engine of its own (or none), images made from Debian packages, and the attacker's side
//! of the wire, all inside a private network namespace. Nothing in it reaches the network or touches
//! an engine that already runs on the machine; nothing but the cache folder outlives it.
//!
//! What is played in the lab, and how it is judged, is `scenarios`' business.

pub mod bare;
pub mod container;
pub mod docker;
pub mod engine;
pub mod house;
pub mod images;
pub mod leftovers;
pub mod network;
pub mod process;
pub mod runtime;
pub mod services;
pub mod workshop;

pub use engine::Engine;

use std::path::PathBuf;

/// Address of the stand-in attacker: TEST-NET-3, neither loopback nor private.
pub const ATTACKER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(203, 0, 113, 66);

/// The same over IPv6 (documentation prefix).
pub const ATTACKER_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);

/// The lab's cache: images, base file systems, the last run's alerts. `BULKHEAD_LAB_DIR` moves it,
/// for checkouts on a file system that cannot carry overlay mounts.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("BULKHEAD_LAB_DIR").map_or_else(|| crate::workspace::target_dir().join("lab"), PathBuf::from)
}
