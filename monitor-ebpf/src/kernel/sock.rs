//! `struct sock` and `struct unix_sock`.

use super::Object;
use monitor_common::field::Field;
use monitor_common::net::Peer;
use monitor_common::state::InodeKey;

/// include/linux/socket.h
pub const AF_UNIX: u16 = 1;
/// include/linux/socket.h
pub const AF_INET: u16 = 2;
/// include/linux/socket.h
pub const AF_INET6: u16 = 10;
/// include/net/tcp_states.h
pub const TCP_LISTEN: i32 = 10;

/// A socket.
#[derive(Clone, Copy)]
pub struct Sock(pub Object);

impl Sock {
    /// Address family.
    #[inline(always)]
    pub fn family(self) -> Option<u16> {
        self.0.get(Field::SockFamily)
    }

    /// Socket cookie, `None` until somebody asked for it.
    #[inline(always)]
    pub fn cookie(self) -> Option<u64> {
        match self.0.get(Field::SockCookie) {
            Some(0) | None => None,
            cookie => cookie,
        }
    }

    /// Remote address of an inet socket.
    #[inline(always)]
    pub fn peer(self, family: u16, out: &mut Peer) -> Option<()> {
        out.family = family;
        out.protocol = self.0.get::<u16>(Field::SockProtocol)?;
        out.reserved = 0;
        out.port = u16::from_be(self.0.get(Field::SockDport)?);
        if family == AF_INET {
            mapped(self.0.get::<u32>(Field::SockDaddr)?, &mut out.addr);
        } else {
            out.addr = self.0.get(Field::SockV6Daddr)?;
        }
        Some(())
    }

    /// Inode number of its network namespace.
    #[inline(always)]
    pub fn netns(self) -> Option<u32> {
        self.0.follow(Field::SockNet)?.get(Field::NetInum)
    }

    /// Inode number of its file; `None` before accept(2) has given it one.
    #[inline(always)]
    pub fn inode(self) -> Option<u64> {
        self.0.follow(Field::SockSocket)?.embedded(Field::SocketAllocInode)?.get(Field::InodeNumber)
    }

    /// Local port.
    #[inline(always)]
    pub fn local_port(self) -> Option<u16> {
        self.0.get(Field::SockNum)
    }

    /// Other end of an AF_UNIX connection.
    #[inline(always)]
    pub fn unix_peer(self) -> Option<Self> {
        self.0.follow(Field::UnixPeer).map(Self)
    }

    /// Process at the other end, as it was when they were connected; of a listening socket, who listens.
    #[inline(always)]
    pub fn peer_tgid(self) -> Option<u32> {
        self.0.follow(Field::SockPeerPid)?.get(Field::PidNumbers)
    }

    /// Inode of the socket file it is bound to; an accepted end has its listener's.
    #[inline(always)]
    pub fn unix_bound_inode(self) -> Option<InodeKey> {
        let dentry = self.0.embedded(Field::UnixPath)?.follow(Field::PathDentry)?;
        let inode = dentry.follow(Field::DentryInode)?;
        let dev = inode.follow(Field::InodeSb)?.get(Field::SbDev)?;
        Some(InodeKey { ino: inode.get(Field::InodeNumber)?, dev, generation: 0 })
    }

    /// Address of the bound path's text (NUL-terminated), as the server gave it.
    #[inline(always)]
    pub fn unix_bound_name(self) -> Option<Object> {
        let addr = self.0.follow(Field::UnixAddr)?;
        // struct sockaddr_un: the path follows the two bytes of the family.
        Object::new(addr.address(Field::UnixAddressName)?.wrapping_add(2))
    }
}

/// An IPv4 address (network order in memory) as a v4-mapped IPv6 address.
#[inline(always)]
pub fn mapped(v4: u32, out: &mut [u8; 16]) {
    let words = out.as_mut_ptr().cast::<u32>();
    // SAFETY: 16 bytes, 4-aligned in every record (`Peer` is, behind 8-byte fields).
    unsafe {
        words.write_volatile(0);
        words.add(1).write_volatile(0);
        words.add(2).write_volatile(u32::from_be(0xffff));
        words.add(3).write_volatile(v4);
    }
}
