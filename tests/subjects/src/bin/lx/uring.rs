//! Connections and files through io_uring: no connect, send, open or write system call is made, the kernel
//! does the work for the ring.

use crate::{Outcome, failed};
use rustix::fd::OwnedFd;
use rustix::io_uring::{
    IORING_OFF_SQ_RING, IORING_OFF_SQES, IoringEnterFlags, IoringFeatureFlags, io_uring_enter, io_uring_params,
    io_uring_setup,
};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::ffi::{CString, c_void};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

/// `IORING_OP_*` of linux/io_uring.h.
const OP_CONNECT: u8 = 16;
const OP_OPENAT: u8 = 18;
const OP_WRITE: u8 = 23;
const OP_SEND: u8 = 26;
const OP_SOCKET: u8 = 45;

/// What [`connect`] sends if asked.
const LOGIN: &[u8] = b"{\"id\":1,\"jsonrpc\":\"2.0\",\"method\":\"login\",\"params\":{\"login\":\"LABWALLET\",\
\"pass\":\"x\",\"agent\":\"XMRig/6.21.0\",\"algo\":[\"rx/0\"]}}\n";

/// Connects to the address, sends a miner's login or a line, and waits for an answer.
pub fn connect(spec: &str, login: bool) -> Outcome {
    let addr = subjects::addr::resolve(spec).map_err(|err| err.to_string())?;
    let mut ring = Ring::new().map_err(failed("io_uring_setup"))?;
    let family = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let socket = ring
        .run(&Entry { op: OP_SOCKET, fd: family, off: libc::SOCK_STREAM as u64, ..Entry::default() })
        .map_err(failed("IORING_OP_SOCKET"))?;
    let name = encode(addr);
    // For a connect the length of the address travels in the offset.
    ring.run(&Entry {
        op: OP_CONNECT,
        fd: socket,
        addr: name.as_ptr() as u64,
        off: name.len() as u64,
        ..Entry::default()
    })
    .map_err(failed(spec))?;
    let text = if login { LOGIN } else { b"hello\n" };
    ring.run(&Entry {
        op: OP_SEND,
        fd: socket,
        addr: text.as_ptr() as u64,
        len: text.len() as u32,
        ..Entry::default()
    })
    .map_err(failed("IORING_OP_SEND"))?;
    // The connection stays for a moment, as a miner's would; the answer itself is of no interest.
    std::thread::sleep(std::time::Duration::from_secs(1));
    Ok(())
}

/// Appends a line to the file.
pub fn write(path: &str) -> Outcome {
    let name = CString::new(path).map_err(failed(path))?;
    let mut ring = Ring::new().map_err(failed("io_uring_setup"))?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
    let file = ring
        .run(&Entry {
            op: OP_OPENAT,
            fd: libc::AT_FDCWD,
            addr: name.as_ptr() as u64,
            len: 0o600,
            flags: flags as u32,
            ..Entry::default()
        })
        .map_err(failed(path))?;
    let text = b"# lab\n";
    // Offset -1: at the file's position, which O_APPEND makes the end.
    let (addr, len) = (text.as_ptr() as u64, text.len() as u32);
    ring.run(&Entry { op: OP_WRITE, fd: file, addr, len, off: u64::MAX, ..Entry::default() })
        .map(drop)
        .map_err(failed(path))
}

/// `sockaddr_in` or `sockaddr_in6`.
fn encode(addr: SocketAddr) -> Vec<u8> {
    let port = addr.port().to_be_bytes();
    match addr {
        SocketAddr::V4(v4) => [&(libc::AF_INET as u16).to_ne_bytes()[..], &port, &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => {
            [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &port, &[0; 4], &v6.ip().octets(), &[0; 4]].concat()
        }
    }
}

/// The fields of an `io_uring_sqe` that are used here.
#[derive(Default)]
struct Entry {
    op: u8,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    flags: u32,
}

/// A ring of one entry. Its mappings live as long as the process.
struct Ring {
    fd: OwnedFd,
    params: io_uring_params,
    rings: *mut u8,
    entries: *mut u64,
}

impl Ring {
    fn new() -> io::Result<Self> {
        let mut params = io_uring_params::default();
        // SAFETY: params is a valid, zeroed structure; the kernel fills it in.
        let fd = unsafe { io_uring_setup(1, &mut params) }?;
        if !params.features.contains(IoringFeatureFlags::SINGLE_MMAP) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let completions = params.cq_off.cqes as usize + params.cq_entries as usize * 16;
        let submissions = params.sq_off.array as usize + params.sq_entries as usize * 4;
        let map = |len: usize, offset: u64| {
            // SAFETY: a fresh mapping at an address of the kernel's choice, of the length and offset that
            // io_uring_setup(2) prescribes.
            unsafe {
                mmap(
                    std::ptr::null_mut::<c_void>(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::POPULATE,
                    &fd,
                    offset,
                )
            }
        };
        let rings = map(completions.max(submissions), IORING_OFF_SQ_RING)?.cast();
        let entries = map(params.sq_entries as usize * 64, IORING_OFF_SQES)?.cast();
        Ok(Self { fd, params, rings, entries })
    }

    /// Submits one operation, waits for it and returns its result. Whatever `addr` points to must be alive
    /// during the call, which every caller sees to by lending from its own frame.
    fn run(&mut self, entry: &Entry) -> io::Result<i32> {
        let words = [
            u64::from(entry.op) | u64::from(entry.fd as u32) << 32,
            entry.off,
            entry.addr,
            u64::from(entry.len) | u64::from(entry.flags) << 32,
            1,
            0,
            0,
            0,
        ];
        let tail = self.word(self.params.sq_off.tail);
        let head = self.word(self.params.cq_off.head);
        // SAFETY: slot 0 of the entries' mapping is 64 bytes, and no submission is in flight: the previous
        // call waited for its completion. Slot tail & mask = 0 of the index array lies in the rings' mapping.
        unsafe {
            self.entries.copy_from_nonoverlapping(words.as_ptr(), words.len());
            self.rings.add(self.params.sq_off.array as usize).cast::<u32>().write(0);
        }
        tail.fetch_add(1, Ordering::Release);
        // SAFETY: the entry's pointers are valid for the whole call, see this function's contract.
        unsafe { io_uring_enter(&self.fd, 1, 1, IoringEnterFlags::GETEVENTS) }?;
        let slot = head.load(Ordering::Acquire) & (self.params.cq_entries - 1);
        let at = self.params.cq_off.cqes as usize + slot as usize * 16 + 8;
        // SAFETY: the completion slot lies in the mapping; io_uring_enter waited until it was filled. Its
        // result is the i32 at offset 8.
        let result = unsafe { self.rings.add(at).cast::<i32>().read_volatile() };
        head.fetch_add(1, Ordering::Release);
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
    }

    /// One of the ring's counters.
    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets point at aligned u32 inside the mapping, which is never unmapped, and
        // both sides use atomic access.
        unsafe { AtomicU32::from_ptr(self.rings.add(offset as usize).cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockaddr() {
        let v4 = encode(SocketAddr::from(([203, 0, 113, 66], 3333)));
        assert_eq!(v4, [2, 0, 0x0d, 0x05, 203, 0, 113, 66, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(SocketAddr::from(([0_u16; 8], 1))).len(), 28);
    }
}
