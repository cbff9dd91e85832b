//! Sockets: where a connection goes, its first bytes, AF_UNIX connects.

use crate::header::Header;
use bytemuck::{Pod, Zeroable};

/// Payload bytes kept of one segment.
pub const PAYLOAD_LEN: usize = 512;

/// An inet peer. IPv4 is kept v4-mapped in `addr` as well, with `family` telling what the socket
/// was made as.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Peer {
    /// Address in network byte order; IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Port, host byte order.
    pub port: u16,
    /// `AF_INET` (2) or `AF_INET6` (10); 0 = no peer.
    pub family: u16,
    /// `IPPROTO_TCP` (6), `IPPROTO_UDP` (17), …
    pub protocol: u16,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<Peer>() == 24);

/// [`Connect::op`]: connect(2), by any interface.
pub const OP_CONNECT: u32 = 0;
/// [`Connect::op`]: a datagram sent with an address.
pub const OP_SENDTO: u32 = 1;
/// [`Connect::op`]: a TCP socket began to listen; `peer` is the local address.
pub const OP_LISTEN: u32 = 2;
/// [`Connect::op`]: a TCP handshake began without connect(2) (TCP Fast Open).
pub const OP_FASTOPEN: u32 = 3;

/// An outbound connection attempt, or a listen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Connect {
    /// Common header.
    pub header: Header,
    /// Where to.
    pub peer: Peer,
    /// Socket cookie.
    pub cookie: u64,
    /// `OP_*`.
    pub op: u32,
    /// `TASK_*` bits of the caller, after this act.
    pub task_flags: u32,
    /// For a verdict over a pipe chain: the shell at its end (tgid), or 0.
    pub sink_tgid: u32,
    /// Zero.
    pub reserved: u32,
    /// comm of the caller.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Connect>() == 64 + 24 + 8 + 16 + 16);

/// First bytes seen on a connection that a watched process made. The header's process is the one
/// that connected, not the task the packet was sent by.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Payload {
    /// Common header.
    pub header: Header,
    /// The address the process asked for (before any NAT).
    pub peer: Peer,
    /// Socket cookie.
    pub cookie: u64,
    /// 0 = sent, 1 = received.
    pub inbound: u32,
    /// Units that the segments sent (received) before count for: one for each 16 bytes, at most eight a segment.
    pub index: u32,
    /// Valid bytes in `data`.
    pub len: u32,
    /// Payload length of the segment, bytes.
    pub segment: u32,
    /// The bytes.
    pub data: [u8; PAYLOAD_LEN],
}
const _: () = assert!(size_of::<Payload>() == 64 + 24 + 8 + 16 + PAYLOAD_LEN);

/// An AF_UNIX connect to a socket that is on the watched list by inode, or has a watched name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct UnixConnect {
    /// Common header.
    pub header: Header,
    /// Inode of the socket file that the listening end is bound to.
    pub ino: u64,
    /// Its device, kernel encoding.
    pub dev: u32,
    /// 1 if (dev, ino) is a known runtime socket, 0 if only the name matched.
    pub known: u32,
    /// The name the server bound, as the server gave it (NUL-padded, cut).
    pub name: [u8; 108],
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<UnixConnect>() == 64 + 16 + 112);

/// An AF_UNIX stream connect within a container; told when the listening process is another than the last time. The
/// header's `peer_tgid` is the process that listens.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct UnixPeer {
    /// Common header.
    pub header: Header,
}
