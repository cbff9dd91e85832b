//! System calls that reach for what lies outside of a container.

use crate::header::Header;
use bytemuck::{Pod, Zeroable};

/// [`Reach::what`]: setns(2) succeeded; `number` is the mount namespace the task is in now.
pub const REACH_SETNS: u32 = 1;
/// mount(2) was called; `number` is the user namespace of the caller, `level` how deep that is nested.
pub const REACH_MOUNT: u32 = 2;
/// A kernel module was offered.
pub const REACH_MODULE: u32 = 3;
/// A BPF program was offered; `number` is its type.
pub const REACH_BPF: u32 = 4;
/// ptrace(2) attached to a process of another container, or of none; `number` is that container, the header's
/// `peer_tgid` the process.
pub const REACH_TRACE: u32 = 5;

/// Bytes kept of a path or a type's name.
pub const TEXT_LEN: usize = 64;

/// Such a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Reach {
    /// Common header.
    pub header: Header,
    /// `REACH_*`.
    pub what: u32,
    /// `TASK_*` bits of the caller.
    pub task_flags: u32,
    /// As said for each.
    pub number: u64,
    /// Nesting of the caller's user namespace; 0 is the host's.
    pub level: u32,
    /// The call failed.
    pub failed: u32,
    /// mount(2): what is mounted.
    pub source: [u8; TEXT_LEN],
    /// mount(2): where.
    pub target: [u8; TEXT_LEN],
}
const _: () = assert!(size_of::<Reach>() == 64 + 24 + 2 * TEXT_LEN);
