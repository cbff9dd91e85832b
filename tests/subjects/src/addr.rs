//! Addresses a subject may talk to: loopback, the lab's bridge and the documentation ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Why an address was not accepted.
#[derive(Debug)]
pub enum Error {
    /// The name did not resolve, or `HOST:PORT` was malformed.
    Resolve(String, std::io::Error),
    /// It resolves to an address outside the lab.
    Outside(String, IpAddr),
    /// It resolves to nothing.
    Nothing(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(spec, err) => write!(f, "{spec}: {err}"),
            Self::Outside(spec, ip) => {
                write!(f, "{spec}: {ip} is outside the lab's ranges, refused")
            }
            Self::Nothing(spec) => write!(f, "{spec}: no address"),
        }
    }
}

impl std::error::Error for Error {}

/// Is this an address of the lab?
///
/// IPv4: 127/8, 10.200.0.0/16 (the lab's bridge), 203.0.113.0/24 (TEST-NET-3). IPv6: `::1`,
/// `fd00:c0::/64`, `2001:db8::/32`, and the IPv4 ranges in mapped form.
pub fn allowed(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => allowed_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| allowed_v6(v6), allowed_v4),
    }
}

fn allowed_v4(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [127, ..] | [10, 200, ..] | [203, 0, 113, _])
}

fn allowed_v6(ip: Ipv6Addr) -> bool {
    ip == Ipv6Addr::LOCALHOST || matches!(ip.segments(), [0xfd00, 0xc0, 0, 0, ..] | [0x2001, 0x0db8, ..])
}

/// Resolves `HOST:PORT` (IPv6 in brackets) and returns the first address, if it belongs to the lab.
///
/// # Errors
/// When the name does not resolve or *any* of its addresses lies outside the lab.
pub fn resolve(spec: &str) -> Result<SocketAddr, Error> {
    let all = spec.to_socket_addrs().map_err(|err| Error::Resolve(spec.to_owned(), err))?.collect::<Vec<_>>();
    if let Some(outside) = all.iter().find(|addr| !allowed(addr.ip())) {
        return Err(Error::Outside(spec.to_owned(), outside.ip()));
    }
    all.first().copied().ok_or_else(|| Error::Nothing(spec.to_owned()))
}

/// The same address for an `AF_INET6` socket: IPv4 becomes IPv4-mapped.
pub fn as_v6(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn only_lab_ranges() {
        for inside in
            ["127.0.0.1", "10.200.0.1", "203.0.113.66", "::1", "fd00:c0::2", "2001:db8::66", "::ffff:203.0.113.66"]
        {
            assert!(allowed(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "10.201.0.1",
            "192.0.2.1",
            "203.0.112.66",
            "8.8.8.8",
            "0.0.0.0",
            "::",
            "fd00:c0:0:1::1",
            "2001:db9::1",
            "::ffff:8.8.8.8",
            "169.254.169.254",
        ] {
            assert!(!allowed(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn names_are_resolved_then_checked() {
        assert_eq!(resolve("localhost:80").unwrap().port(), 80);
        assert!(matches!(resolve("192.0.2.1:80"), Err(Error::Outside(..))));
        assert!(matches!(resolve("203.0.113.66"), Err(Error::Resolve(..))));
        assert!(resolve("[2001:db8::66]:4444").unwrap().is_ipv6());
    }

    #[test]
    fn mapped() {
        assert_eq!(as_v6("203.0.113.66:1".parse().unwrap()).to_string(), "[::ffff:203.0.113.66]:1");
    }
}
