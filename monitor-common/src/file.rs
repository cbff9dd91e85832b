//! A file as the kernel knows it, and the open record.

use crate::header::Header;
use bytemuck::{Pod, Zeroable};

/// Bytes kept of one path component (a longer one is cut; NUL-padded).
pub const COMPONENT_LEN: usize = 32;
/// Path components kept, from the file upwards.
pub const COMPONENTS: usize = 8;

/// The file lives on overlayfs.
pub const FILE_OVERLAY: u32 = 1 << 0;
/// Overlayfs: the file has an upper-layer copy, so it was written after the image was made.
pub const FILE_UPPER: u32 = 1 << 1;
/// tmpfs or shmem.
pub const FILE_TMPFS: u32 = 1 << 2;
/// No link is left (deleted, O_TMPFILE or memfd).
pub const FILE_UNLINKED: u32 = 1 << 3;
/// Made by memfd_create(2).
pub const FILE_MEMFD: u32 = 1 << 4;
/// On another superblock than the task's root directory: a volume, a bind mount, a tmpfs, proc.
pub const FILE_FOREIGN_SB: u32 = 1 << 5;
/// Its bytes came from the network (see [`crate::state::Taint`]).
pub const FILE_TAINTED: u32 = 1 << 6;
/// Opened for writing.
pub const FILE_WRITE: u32 = 1 << 7;
/// The open created it.
pub const FILE_CREATED: u32 = 1 << 8;
/// A FIFO or pipe.
pub const FILE_FIFO: u32 = 1 << 9;
/// The interpreter opened it as its script (its name is the script operand).
pub const FILE_SCRIPT: u32 = 1 << 10;
/// Its last name components are on the sensitive list.
pub const FILE_SENSITIVE: u32 = 1 << 11;
/// The list of components is cut: there are more towards the root.
pub const FILE_PATH_CUT: u32 = 1 << 12;

/// It was about to be executed.
pub const FILE_EXEC: u32 = 1 << 13;
/// Mapped as code.
pub const FILE_MAPPED: u32 = 1 << 14;
/// Got this name by create, link, symlink or rename.
pub const FILE_NAMED: u32 = 1 << 15;
/// The name was taken away.
pub const FILE_REMOVED: u32 = 1 << 16;
/// Became the root directory of the task.
pub const FILE_ROOT: u32 = 1 << 17;

/// A file object: identity and where it lives. Paths are dentry names from the file towards the
/// root of its *file system*: a bind mount's target is not part of it, symlinks are resolved.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct FileRef {
    /// Inode number.
    pub ino: u64,
    /// Device of the superblock, kernel encoding (`major << 20 | minor`).
    pub dev: u32,
    /// `i_mode`.
    pub mode: u32,
    /// Size in bytes at that moment.
    pub size: u64,
    /// `FILE_*` bits.
    pub flags: u32,
    /// Magic of the file system.
    pub magic: u32,
    /// Number of valid entries in `names`.
    pub depth: u32,
    /// Zero.
    pub reserved: u32,
    /// Components, the file's own name first.
    pub names: [[u8; COMPONENT_LEN]; COMPONENTS],
}
const _: () = assert!(size_of::<FileRef>() == 40 + COMPONENT_LEN * COMPONENTS);

/// A file was opened that judgement wants to know of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Open {
    /// Common header.
    pub header: Header,
    /// The file.
    pub file: FileRef,
    /// Where its taint comes from, if `FILE_TAINTED`.
    pub origin: crate::state::Origin,
    /// Sensitive class (a [`crate::header::Reason`] as integer) if `FILE_SENSITIVE`.
    pub sensitive: u32,
    /// `TASK_*` bits of the opener ([`crate::state::Task::flags`]).
    pub task_flags: u32,
}
const _: () = assert!(size_of::<Open>() == 64 + 296 + 48 + 8);
