//! What belongs to Bulkhead itself, and attempts upon it.

use crate::header::Header;
use bytemuck::{Pod, Zeroable};

/// Key of the `OWN` map: something of ours that a container has no business with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct OwnKey {
    /// Depends on `kind`.
    pub id: u64,
    /// `OWN_*`.
    pub kind: u32,
    /// Device of an inode, kernel encoding; else 0.
    pub dev: u32,
}
const _: () = assert!(size_of::<OwnKey>() == 16);

/// [`OwnKey::kind`]: `id` is the daemon's tgid; the value is its start, ns since boot, to the clock tick.
pub const OWN_PROCESS: u32 = 1;
/// `id` is that of a BPF map.
pub const OWN_MAP: u32 = 2;
/// `id` is that of a BPF link.
pub const OWN_LINK: u32 = 3;
/// `id` and `dev` are an inode: a file of ours, or a folder whose entries are ours.
pub const OWN_INODE: u32 = 4;
/// `id` and `dev` are the inode of the control socket.
pub const OWN_SOCKET: u32 = 5;
/// `id` is the container that the daemon runs in.
pub const OWN_CONTAINER: u32 = 6;

/// A container's process has tried something upon Bulkhead itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Tamper {
    /// Common header.
    pub header: Header,
    /// Which map, link or cgroup; else 0.
    pub object: u64,
    /// What was tried: an [`Attempt`] as integer.
    pub attempt: u32,
    /// Signal number, bpf(2) command; else 0.
    pub detail: u32,
    /// `TASK_*` bits of who tried.
    pub task_flags: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Tamper>() == 64 + 24);

crate::header::code! {
    /// What was tried.
    Attempt: u32 {
        /// A signal to the daemon.
        Signal = 1,
        /// ptrace(2), or what the kernel allows only to who may trace: /proc/PID/mem, process_vm_writev(2),
        /// pidfd_getfd(2).
        Trace = 2,
        /// A writable descriptor of one of our maps.
        Map = 3,
        /// A descriptor of one of our links, or detaching or replacing what it holds.
        Link = 4,
        /// The daemon's scheduling, priority or resource limits.
        Resources = 5,
        /// Moving the daemon to another cgroup.
        Cgroup = 6,
        /// Leaving the container's own cgroup.
        Leave = 7,
        /// The control socket.
        Control = 8,
    }
}
