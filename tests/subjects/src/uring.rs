//! Connections, files and names through io_uring: no system call is made to connect, send, open, write or rename, the
//! kernel does it for the ring.

use crate::ring::{ASYNC, Entry, FIXED_FILE, LINK, Ring, SILENT, checked};
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

/// What an act came to, or why it did not.
type Outcome = Result<(), String>;

/// `IORING_OP_*` of linux/io_uring.h.
const OP_NOP: u8 = 0;
const OP_CONNECT: u8 = 16;
const OP_OPENAT: u8 = 18;
const OP_WRITE: u8 = 23;
const OP_SEND: u8 = 26;
const OP_RECV: u8 = 27;
const OP_OPENAT2: u8 = 28;
const OP_RENAMEAT: u8 = 35;
const OP_SYMLINKAT: u8 = 38;
const OP_LINKAT: u8 = 39;
const OP_SOCKET: u8 = 45;

/// What [`connect`] sends if asked.
const LOGIN: &[u8] = b"{\"id\":1,\"jsonrpc\":\"2.0\",\"method\":\"login\",\"params\":{\"login\":\"LABWALLET\",\
\"pass\":\"x\",\"agent\":\"XMRig/6.21.0\",\"algo\":[\"rx/0\"]}}\n";

/// Connects to the address, sends a miner's login or a line, and waits for an answer.
///
/// # Errors
/// What was refused.
pub fn connect(spec: &str, login: bool) -> Outcome {
    let addr = crate::addr::resolve(spec).map_err(|err| err.to_string())?;
    let family = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    exchange(spec, family, &encode(addr), if login { LOGIN } else { b"hello\n" }, &mut [])?;
    // The connection stays for a moment, as a miner's would; the answer itself is of no interest.
    std::thread::sleep(std::time::Duration::from_secs(1));
    Ok(())
}

/// Connects to a socket file and asks for a runtime's version.
///
/// # Errors
/// What was refused.
pub fn ask(path: &str) -> Outcome {
    let name = [&(libc::AF_UNIX as u16).to_ne_bytes()[..], path.as_bytes(), &[0]].concat();
    exchange(path, libc::AF_UNIX, &name, b"GET /version HTTP/1.0\r\n\r\n", &mut []).map(drop)
}

/// Saves what a listener sends first; `words` are as for [`write`].
pub fn save(spec: &str, path: &str, words: &[&str]) -> Option<Outcome> {
    let how = How::parse(words)?;
    let act = || {
        let addr = crate::addr::resolve(spec).map_err(|err| err.to_string())?;
        let family = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let mut answer = [0; 512];
        let count = exchange(spec, family, &encode(addr), b"GET /\n", &mut answer)?;
        try_write(path, how, &answer[..count]).map_err(failed(path))
    };
    Some(act())
}

/// Connects, sends the text, and waits for an answer if there is room for one; how long it was.
fn exchange(what: &str, family: i32, name: &[u8], text: &[u8], answer: &mut [u8]) -> Result<usize, String> {
    let mut ring = Ring::new(false).map_err(failed("io_uring_setup"))?;
    let mut run = |what: &str, entry| {
        // SAFETY: entries point to the name, the text and the answer, which the caller lends.
        unsafe { ring.run_one(entry) }.map_err(failed(what))
    };
    let entry = Entry { op: OP_SOCKET, fd: family, off: libc::SOCK_STREAM as u64, ..Entry::default() };
    let socket = run("IORING_OP_SOCKET", entry)?;
    // For a connect the length of the address travels in the offset.
    let (addr, off) = (name.as_ptr() as u64, name.len() as u64);
    run(what, Entry { op: OP_CONNECT, fd: socket, addr, off, ..Entry::default() })?;
    let (addr, len) = (text.as_ptr() as u64, text.len() as u32);
    run("IORING_OP_SEND", Entry { op: OP_SEND, fd: socket, addr, len, ..Entry::default() })?;
    if answer.is_empty() {
        return Ok(0);
    }
    let (addr, len) = (answer.as_mut_ptr() as u64, answer.len() as u32);
    let count = run("IORING_OP_RECV", Entry { op: OP_RECV, fd: socket, addr, len, ..Entry::default() })?;
    Ok((count as usize).min(answer.len()))
}

/// How [`write`] goes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct How {
    openat2: bool,
    direct: bool,
    chain: bool,
    polled: bool,
    worker: bool,
    silent: bool,
    uncached: bool,
    existing: bool,
    warm: bool,
}

impl How {
    fn parse(words: &[&str]) -> Option<Self> {
        let mut how = Self::default();
        for word in words {
            *match *word {
                "openat2" => &mut how.openat2,
                "direct" => &mut how.direct,
                "chain" => &mut how.chain,
                "polled" => &mut how.polled,
                "worker" => &mut how.worker,
                "silent" => &mut how.silent,
                "uncached" => &mut how.uncached,
                "existing" => &mut how.existing,
                "warm" => &mut how.warm,
                _ => return None,
            } = true;
        }
        Some(how)
    }

    fn open_flags(self) -> i32 {
        let create = if self.existing { 0 } else { libc::O_CREAT };
        let uncached = if self.uncached { libc::O_DIRECT } else { 0 };
        libc::O_WRONLY | libc::O_APPEND | create | uncached
    }
}

/// As much as a device may want to have at once, aligned likewise.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Appends a line to the file. `words` say how: with `openat2`, into a `direct` descriptor of the ring's, open and
/// write as a `chain`, by a ring that is `polled`, by a `worker`, `silent` on success, `uncached`, an `existing`
/// file, with a `warm` worker. `None`: not understood.
pub fn write(path: &str, words: &[&str]) -> Option<Outcome> {
    let how = How::parse(words)?;
    Some(try_write(path, how, b"# lab\n").map_err(failed(path)))
}

fn try_write(path: &str, how: How, text: &[u8]) -> io::Result<()> {
    let name = CString::new(path)?;
    let mut ring = Ring::new(how.polled)?;
    if how.direct {
        ring.hold_files()?;
    }
    if how.warm {
        // SAFETY: it points to nothing.
        unsafe { ring.run_one(Entry { op: OP_NOP, how: ASYNC, ..Entry::default() }) }?;
    }
    let wish = [how.open_flags() as u64, if how.existing { 0 } else { 0o600 }, 0];
    let mut block = Block([b'\n'; 4096]);
    block.0[..text.len()].copy_from_slice(text);
    let length = if how.uncached { block.0.len() } else { text.len() };
    let mut open = Entry { op: OP_OPENAT, fd: libc::AT_FDCWD, addr: name.as_ptr() as u64, ..Entry::default() };
    if how.openat2 {
        open = Entry { op: OP_OPENAT2, len: size_of_val(&wish) as u32, off: wish.as_ptr() as u64, ..open };
    } else {
        open = Entry { len: 0o600, flags: how.open_flags() as u32, ..open };
    }
    open.slot = u32::from(how.direct);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    open.how = flag(how.chain, LINK) | flag(how.worker, ASYNC) | flag(how.silent, SILENT);
    // The next descriptor to be given away. Offset -1: at the file's position, which O_APPEND makes the end.
    let fd = if how.direct { 0 } else { std::fs::File::open("/dev/null")?.as_raw_fd() };
    let fixed = flag(how.direct, FIXED_FILE);
    let (addr, len) = (block.0.as_ptr() as u64, length as u32);
    let write = Entry { op: OP_WRITE, how: fixed, fd, addr, len, off: u64::MAX, ..Entry::default() };
    let run = |ring: &mut Ring, entries: &[Entry]| -> io::Result<()> {
        // SAFETY: name, wish and block live to the end of this function.
        let results = unsafe { ring.run(entries) }?;
        results.into_iter().flatten().try_for_each(|result| checked(result).map(drop))
    };
    if how.chain {
        return run(&mut ring, &[open, write]);
    }
    run(&mut ring, &[open])?;
    run(&mut ring, &[write])
}

/// Renames a file (`rename`), or makes another name for it (`link`, `symlink`). `None`: not understood.
pub fn name(verb: &str, from: &str, to: &str) -> Option<Outcome> {
    let op = match verb {
        "rename" => OP_RENAMEAT,
        "link" => OP_LINKAT,
        "symlink" => OP_SYMLINKAT,
        _ => return None,
    };
    let act = || -> io::Result<()> {
        let (from, to) = (CString::new(from)?, CString::new(to)?);
        let (addr, off) = (from.as_ptr() as u64, to.as_ptr() as u64);
        // The second folder travels in the length.
        let len = if op == OP_SYMLINKAT { 0 } else { libc::AT_FDCWD as u32 };
        let entry = Entry { op, fd: libc::AT_FDCWD, addr, off, len, ..Entry::default() };
        // SAFETY: both names live to the end of this function.
        unsafe { Ring::new(false)?.run_one(entry) }.map(drop)
    };
    Some(act().map_err(failed(to)))
}

/// Adapter for `map_err`: what was tried, and why it failed.
fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    move |err| format!("{what}: {err}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(How::parse(&["chain", "direct"]), Some(How { chain: true, direct: true, ..How::default() }));
        assert_eq!(How::parse(&["chained"]), None);
    }

    #[test]
    fn sockaddr() {
        let v4 = encode(SocketAddr::from(([203, 0, 113, 66], 3333)));
        assert_eq!(v4, [2, 0, 0x0d, 0x05, 203, 0, 113, 66, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(SocketAddr::from(([0_u16; 8], 1))).len(), 28);
    }
}
