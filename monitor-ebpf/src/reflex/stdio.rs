//! What a descriptor is.

use crate::kernel::clear_words;
use crate::kernel::file::{File, Type, is_terminal};
use crate::kernel::sock::{AF_INET, AF_INET6, AF_UNIX};
use crate::reflex::marks;
use monitor_common::exec::{
    STDIO_DEVICE, STDIO_FILE, STDIO_INET_OTHER, STDIO_INET_OUT, STDIO_NONE, STDIO_OTHER, STDIO_PIPE, STDIO_TTY,
    STDIO_UNIX, Stdio,
};
use monitor_common::field::Field;

const _: () = assert!(STDIO_NONE == 0);

/// Fills `out` for the file behind a descriptor.
#[inline(always)]
pub fn look(file: Option<File>, out: &mut Stdio) {
    clear_words(out);
    let Some(file) = file else { return };
    out.kind = STDIO_OTHER;
    let Some(inode) = file.inode() else { return };
    let Some(kind) = inode.kind() else { return };
    if let Some(key) = inode.key() {
        out.dev = key.dev;
        out.ino = key.ino;
    }
    out.kind = match kind {
        Type::Regular => STDIO_FILE,
        Type::Pipe => STDIO_PIPE,
        Type::Device => {
            if is_terminal(inode.rdev().unwrap_or(0)) {
                STDIO_TTY
            } else {
                STDIO_DEVICE
            }
        }
        Type::Socket => socket(file, out),
        Type::Other => STDIO_OTHER,
    };
}

#[inline(always)]
fn socket(file: File, out: &mut Stdio) -> u32 {
    let Some(sock) = file.sock() else { return STDIO_OTHER };
    match sock.family() {
        Some(AF_UNIX) => STDIO_UNIX,
        Some(family @ (AF_INET | AF_INET6)) => {
            sock.peer(family, &mut out.peer);
            let outbound = sock.cookie().is_some_and(marks::is_outbound);
            if outbound { STDIO_INET_OUT } else { STDIO_INET_OTHER }
        }
        _ => STDIO_OTHER,
    }
}

/// Is the file an inet socket that connected outward?
#[inline(always)]
pub fn is_outbound(file: File) -> bool {
    let Some(inode) = file.inode() else { return false };
    if inode.kind() != Some(Type::Socket) {
        return false;
    }
    let Some(sock) = file.sock() else { return false };
    if !matches!(sock.0.get::<u16>(Field::SockFamily), Some(AF_INET | AF_INET6)) {
        return false;
    }
    sock.cookie().is_some_and(marks::is_outbound)
}
