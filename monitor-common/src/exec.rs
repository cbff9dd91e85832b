//! Process life: exec, fork, exit, and descriptors 0–2.

use crate::file::FileRef;
use crate::header::Header;
use crate::net::Peer;
use crate::state::{InodeKey, Origin};
use bytemuck::{Pod, Zeroable};

/// Most bytes kept from the start of the argument block.
pub const ARGS_HEAD: usize = 4096;
/// Bytes kept from its end when it is longer than [`ARGS_HEAD`].
pub const ARGS_TAIL: usize = 1024;
/// Sizes of the argument area behind [`Exec`]; the smallest that fits is used.
pub const ARGS_CLASSES: [usize; 3] = [256, 1024, ARGS_HEAD + ARGS_TAIL];
/// Bytes kept of the name the program was invoked by.
pub const FILENAME_LEN: usize = 128;

/// [`Stdio::kind`]: closed.
pub const STDIO_NONE: u32 = 0;
/// A terminal.
pub const STDIO_TTY: u32 = 1;
/// A regular file or directory.
pub const STDIO_FILE: u32 = 2;
/// A character device that is not a terminal (`/dev/null`, …).
pub const STDIO_DEVICE: u32 = 3;
/// A pipe or FIFO; `ino`/`dev` identify it.
pub const STDIO_PIPE: u32 = 4;
/// An inet socket that connected outward (a connect was seen on it).
pub const STDIO_INET_OUT: u32 = 5;
/// An inet socket that did not: listening, accepted, or from before the monitor.
pub const STDIO_INET_OTHER: u32 = 6;
/// An AF_UNIX socket.
pub const STDIO_UNIX: u32 = 7;
/// Anything else (anonymous inodes, other socket families).
pub const STDIO_OTHER: u32 = 8;

/// What one of the descriptors 0, 1, 2 is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Stdio {
    /// `STDIO_*`.
    pub kind: u32,
    /// Device of the inode, kernel encoding.
    pub dev: u32,
    /// Inode number.
    pub ino: u64,
    /// Peer of an inet socket.
    pub peer: Peer,
}
const _: () = assert!(size_of::<Stdio>() == 40);

/// [`Exec::flags`]: the argument block is longer than what is kept.
pub const EXEC_ARGS_CUT: u32 = 1 << 0;
/// The class of the program was found by its content fingerprint although the name says nothing.
pub const EXEC_BY_FINGERPRINT: u32 = 1 << 1;
/// Standard input carries bytes from the network (tainted pipe or file).
pub const EXEC_STDIN_TAINTED: u32 = 1 << 2;
/// Standard input or output leads, through pipes or a socket pair, to a process with an outbound
/// connection.
pub const EXEC_RELAY: u32 = 1 << 3;

/// A program was started; taken when the new image is in place and before its first instruction.
/// Followed by `args_area` bytes of which the first `args_len` are the arguments (NUL-separated;
/// head and tail are joined when `EXEC_ARGS_CUT`, the tail being the last `args_tail` bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Exec {
    /// Common header.
    pub header: Header,
    /// Parent's thread group id.
    pub parent_tgid: u32,
    /// `EXEC_*` bits.
    pub flags: u32,
    /// Parent's start, ns since boot.
    pub parent_start_ns: u64,
    /// `TASK_*` bits after this exec.
    pub task_flags: u32,
    /// [`crate::argv::Form`] as integer: where the program takes its text from.
    pub form: u32,
    /// The executable.
    pub exe: FileRef,
    /// Content fingerprint of the executable ([`crate::state::Fingerprint`]).
    pub fingerprint: crate::state::Fingerprint,
    /// Descriptors 0, 1, 2.
    pub stdio: [Stdio; 3],
    /// Where the bytes it runs or reads come from, if tainted.
    pub origin: Origin,
    /// comm after the exec.
    pub comm: [u8; 16],
    /// The name it was invoked by (a script's own path for `#!` scripts).
    pub filename: [u8; FILENAME_LEN],
    /// Full length of the argument block, bytes.
    pub args_total: u32,
    /// Bytes kept.
    pub args_len: u32,
    /// Of these, bytes from the end of the block.
    pub args_tail: u32,
    /// Size of the area that follows this record.
    pub args_area: u32,
    /// What tells this start from others of its container ([`Again::shape`]); 0 for one that is always told in full.
    pub shape: u64,
}
const _: () = assert!(size_of::<Exec>() == 64 + 24 + 296 + 24 + 120 + 48 + 16 + 128 + 16 + 8);

/// A process was made. The header's process is the child.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Fork {
    /// Common header (of the child).
    pub header: Header,
    /// Parent's thread group id.
    pub parent_tgid: u32,
    /// Zero.
    pub reserved: u32,
    /// Parent's start, ns since boot.
    pub parent_start_ns: u64,
    /// comm the child starts with.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Fork>() == 64 + 32);

/// What a process runs, told late: a start that the container's baseline expects, and of which the like was told in full
/// shortly before ([`Exec::shape`]). Comes when the process does something that is told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Again {
    /// Common header.
    pub header: Header,
    /// Parent's tgid at its fork.
    pub parent_tgid: u32,
    /// `TASK_*` bits now.
    pub task_flags: u32,
    /// Parent's start, ns since boot.
    pub parent_start_ns: u64,
    /// [`Exec::shape`] of the start that was told in full.
    pub shape: u64,
    /// Standard input if it is a pipe (else `ino` 0).
    pub stdin: InodeKey,
    /// Standard output if it is a pipe (else `ino` 0).
    pub stdout: InodeKey,
}
const _: () = assert!(size_of::<Again>() == 64 + 24 + 32);

/// A process ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Exit {
    /// Common header.
    pub header: Header,
    /// Wait status as wait(2) gives it.
    pub code: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Exit>() == 64 + 8);

/// A running shell or interpreter moved an outbound inet socket onto one of its descriptors 0–2.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Moved {
    /// Common header.
    pub header: Header,
    /// All three descriptors as they are now.
    pub stdio: [Stdio; 3],
    /// `TASK_*` bits.
    pub task_flags: u32,
    /// The descriptor that was moved.
    pub fd: u32,
}
const _: () = assert!(size_of::<Moved>() == 64 + 120 + 8);
