//! How a miner reaches its pool: the ways that detectors have been blind to.

use crate::options::Options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `MSG_FASTOPEN` of linux/socket.h, which rustix does not name.
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// Connects to the pool or its proxy; `first` goes out with the connection where that is possible.
/// Returns the stream and whether `first` has been sent.
pub fn connect(options: &Options, first: &[u8]) -> Result<(TcpStream, bool), String> {
    let pool = options.pool.as_deref().unwrap_or_default();
    let hop = options.http_proxy.as_deref().or(options.socks.as_deref()).unwrap_or(pool);
    let mut addr = subjects::addr::resolve(hop).map_err(|err| err.to_string())?;
    if options.v6 {
        addr = subjects::addr::as_v6(addr);
    }
    let said = |err: io::Error| format!("{hop}: {err}");
    let proxied = hop != pool;
    if options.fast_open && !proxied {
        return fast_open(addr, first).map(|stream| (stream, true)).map_err(said);
    }
    let mut stream =
        if options.nonblock { connect_nonblocking(addr) } else { TcpStream::connect(addr) }.map_err(said)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(said)?;
    if options.http_proxy.is_some() {
        http_connect(&mut stream, pool).map_err(said)?;
    } else if options.socks.is_some() {
        socks5(&mut stream, pool).map_err(said)?;
    }
    Ok((stream, false))
}

/// Sends `bytes` whole, in pieces, or as one gathered write.
pub fn send(options: &Options, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(size) = options.split {
        for piece in bytes.chunks(size) {
            stream.write_all(piece)?;
            // Long enough for the piece to leave as a segment of its own.
            std::thread::sleep(Duration::from_millis(5));
        }
        return Ok(());
    }
    if options.iov {
        let size = bytes.len().div_ceil(8).max(1);
        let pieces = bytes.chunks(size).map(IoSlice::new).collect::<Vec<_>>();
        let sent = stream.write_vectored(&pieces)?;
        return stream.write_all(&bytes[sent..]);
    }
    stream.write_all(bytes)
}

fn socket(addr: SocketAddr, flags: SocketFlags) -> io::Result<rustix::fd::OwnedFd> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    Ok(net::socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?)
}

/// libuv's way: a non-blocking socket, `EINPROGRESS`, then poll for writability.
fn connect_nonblocking(addr: SocketAddr) -> io::Result<TcpStream> {
    let fd = socket(addr, SocketFlags::NONBLOCK)?;
    match net::connect(&fd, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(err) => return Err(err.into()),
    }
    let timeout = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&timeout))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    net::sockopt::socket_error(&fd)??;
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// No connect(2): the first data opens the connection.
fn fast_open(addr: SocketAddr, first: &[u8]) -> io::Result<TcpStream> {
    let fd = socket(addr, SocketFlags::empty())?;
    let sent = net::sendto(&fd, first, SendFlags::from_bits_retain(MSG_FASTOPEN), &addr)?;
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&first[sent..])?;
    Ok(stream)
}

fn http_connect(stream: &mut TcpStream, pool: &str) -> io::Result<()> {
    stream.write_all(format!("CONNECT {pool} HTTP/1.1\r\nHost: {pool}\r\n\r\n").as_bytes())?;
    // The answer's content does not matter; a proxy that says nothing is talked through all the same.
    ignore_timeout(stream.read(&mut [0; 512]))
}

fn socks5(stream: &mut TcpStream, pool: &str) -> io::Result<()> {
    let (host, port) = pool.rsplit_once(':').unwrap_or((pool, "3333"));
    let host = &host.as_bytes()[..host.len().min(255)];
    let port: u16 = port.parse().map_err(io::Error::other)?;
    stream.write_all(&[5, 1, 0])?;
    ignore_timeout(stream.read(&mut [0; 2]))?;
    // The length fits: it was cut to 255 above.
    stream.write_all(&[&[5, 1, 0, 3, host.len() as u8][..], host, &port.to_be_bytes()].concat())?;
    ignore_timeout(stream.read(&mut [0; 512]))
}

fn ignore_timeout(read: io::Result<usize>) -> io::Result<()> {
    match read {
        Err(err) if !matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(err),
        _ => Ok(()),
    }
}
