//! Connections of a baseline for the kernel half. What it cannot tell (a name, a program by a pattern) stands there as
//! wide as it may turn out to be, so that nothing honest is refused; the daemon compares that part after the act.

use super::exact;
use crate::baseline::entry::{Destination as To, Ports, Protocol, What};
use crate::baseline::file::Baseline;
use crate::baseline::pattern::Pattern;
use ipnet::IpNet;
use monitor_common::profile::{
    ADDRESS_PREFIX, ANY, ANYWHERE, Destination, PORT_PREFIX, PortKey, WHOLE_ADDRESS, halves,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Rows of one baseline: far more than entries that were learned come to. Ranges of ports that overlap one another can
/// multiply.
const MOST: usize = 8192;
/// IPv4 addresses are kept as `::ffff:a.b.c.d`.
const MAPPED: u32 = 96;

/// Rows of the two tries, each with the number of bits that count. Their profile is still to be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connects {
    /// Ranges of ports, and their numbers.
    pub ports: Vec<(u32, PortKey, u32)>,
    /// Who goes where.
    pub destinations: Vec<(u32, Destination)>,
    /// Entries that stand there wider than they are.
    pub widened: usize,
}

/// All connections that a baseline expects; `None` if there is no room for them.
pub fn connects(baseline: &Baseline) -> Option<Connects> {
    let entries: Vec<(&Pattern, &To, Ports, Protocol)> = baseline
        .all()
        .filter_map(|entry| match &entry.what {
            What::Connect { exe, to, port, protocol } => Some((exe, to, *port, *protocol)),
            _ => None,
        })
        .collect();
    let ranges = ranges(entries.iter().map(|(_, _, ports, protocol)| (*protocol, *ports)));
    let mut made = Connects::default();
    for ((protocol, part), number) in &ranges {
        for (bits, port) in blocks(*part) {
            let key = PortKey { profile: 0, protocol: protocol.0, port: port.to_be_bytes() };
            made.ports.push((PORT_PREFIX + bits, key, *number));
        }
    }
    let mut destinations = BTreeSet::new();
    for (exe, to, ports, protocol) in entries {
        let program = exact(exe).filter(|_| !exe.as_str().starts_with('('));
        made.widened += usize::from(program.is_none() || matches!(to, To::Name(_)));
        let (bits, family, addr) = address(to);
        let parts = ranges.iter().filter(|((of, part), _)| *of == protocol && ports.covers(part.first));
        for (_, number) in parts {
            let exe = halves(program.unwrap_or(ANY));
            destinations.insert((bits, Destination { profile: 0, ports: *number, exe, family, addr }));
        }
        if destinations.len() + made.ports.len() > MOST {
            return None;
        }
    }
    made.destinations = destinations.into_iter().collect();
    Some(made)
}

impl Connects {
    /// Does the kernel half let a connection pass, of this program or (`None`) of some program? Asks as it does.
    pub fn pass(&self, exe: Option<u64>, ip: IpAddr, port: u16, protocol: u16) -> bool {
        let port = port.to_be_bytes();
        let fits = |bits: u32, key: &PortKey| {
            let mask = u16::MAX.checked_shl(16 + PORT_PREFIX - bits).unwrap_or(0);
            key.protocol == protocol && (u16::from_be_bytes(key.port) ^ u16::from_be_bytes(port)) & mask == 0
        };
        let Some((_, _, number)) = self.ports.iter().find(|(bits, key, _)| fits(*bits, key)) else { return false };
        let (family, addr) = mapped(ip);
        self.destinations.iter().any(|(bits, to)| {
            let rest = WHOLE_ADDRESS - bits.max(&ADDRESS_PREFIX);
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            let same = (u128::from_be_bytes(to.addr) ^ u128::from_be_bytes(addr)) & mask == 0;
            let program = exe.is_none_or(|exe| to.exe == halves(exe) || to.exe == halves(ANY));
            to.ports == *number && program && (*bits == ANYWHERE || to.family == family && same)
        })
    }
}

/// Bits that count, family and address.
fn address(to: &To) -> (u32, u32, [u8; 16]) {
    match to {
        To::Any | To::Name(_) => (ANYWHERE, 0, [0; 16]),
        To::Net(net) => {
            let (family, addr) = mapped(net.addr());
            let before = if matches!(net, IpNet::V4(_)) { MAPPED } else { 0 };
            (ADDRESS_PREFIX + before + u32::from(net.prefix_len()), family, addr)
        }
    }
}

fn mapped(ip: IpAddr) -> (u32, [u8; 16]) {
    match ip {
        IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => (6, ip.octets()),
    }
}

/// The parts that all ranges together cut the ports into, with a number for each.
fn ranges(all: impl Iterator<Item = (Protocol, Ports)>) -> BTreeMap<(Protocol, Ports), u32> {
    let mut by_protocol: BTreeMap<Protocol, Vec<Ports>> = BTreeMap::new();
    all.for_each(|(protocol, ports)| by_protocol.entry(protocol).or_default().push(ports));
    let mut parts = BTreeMap::new();
    for (protocol, ranges) in by_protocol {
        let begins = ranges.iter().map(|range| u32::from(range.first));
        let ends = ranges.iter().map(|range| u32::from(range.last) + 1);
        let cuts: Vec<u32> = begins.chain(ends).collect::<BTreeSet<u32>>().into_iter().collect();
        for pair in cuts.windows(2) {
            let (Ok(first), Ok(last)) = (u16::try_from(pair[0]), u16::try_from(pair[1] - 1)) else { continue };
            if ranges.iter().any(|range| range.covers(first)) {
                let number = parts.len() as u32 + 1;
                parts.insert((protocol, Ports { first, last }), number);
            }
        }
    }
    parts
}

/// A range as blocks that have their first bits in common: how many bits, and the first port.
fn blocks(range: Ports) -> Vec<(u32, u16)> {
    let (mut from, last) = (u32::from(range.first), u32::from(range.last));
    let mut blocks = Vec::new();
    while from <= last {
        let aligned = if from == 0 { 16 } else { from.trailing_zeros().min(16) };
        let fits = (last - from + 1).ilog2();
        let size = aligned.min(fits);
        blocks.push((16 - size, from as u16));
        from += 1 << size;
    }
    blocks
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::baseline::entry::Act;
    use crate::baseline::store::Profile;
    use monitor_common::profile::path;
    use proptest::prelude::*;
    use std::path::Path;

    fn entry(exe: &str, to: &str, port: &str, protocol: &str) -> String {
        format!("[[connect]]\nexe = \"{exe}\"\nto = \"{to}\"\nport = \"{port}\"\nprotocol = \"{protocol}\"\n")
    }

    fn baseline(entries: &str) -> Baseline {
        Baseline::parse(Path::new("x"), &format!("image = \"a\"\nmode = \"protect\"\n{entries}")).unwrap()
    }

    #[test]
    fn names_and_patterns_are_left_open_and_nothing_else() {
        let text = entry("/a", "api.example", "443", "tcp")
            + &entry("/tmp/x.*", "10.0.0.0/8", "80", "tcp")
            + &entry("/b", "10.1.0.0/16", "8000-8099", "tcp");
        let made = connects(&baseline(&text)).unwrap();
        assert_eq!(made.widened, 2);
        let pass = |exe: &str, ip: &str, port| made.pass(Some(path(exe)), ip.parse().unwrap(), port, 6);
        assert!(pass("/a", "192.0.2.1", 443), "the name may be anywhere");
        assert!(!pass("/a", "192.0.2.1", 80) && !pass("/b", "192.0.2.1", 443));
        assert!(pass("/c", "10.2.3.4", 80), "any program may be that of the pattern");
        assert!(!pass("/c", "11.2.3.4", 80));
        assert!(pass("/b", "10.1.2.3", 8099) && !pass("/b", "10.1.2.3", 8100) && !pass("/b", "10.2.2.3", 8050));
        assert!(!made.pass(Some(path("/b")), "10.1.2.3".parse().unwrap(), 8050, 17));
    }

    #[test]
    fn ranges_that_would_multiply_are_left_to_the_daemon() {
        let many = |count: u16| {
            let wide = |n: u16| entry("/a", &format!("10.0.1.{n}"), &format!("{n}-{}", 65535 - n), "tcp");
            (1..=count).map(wide).collect::<String>()
        };
        assert!(connects(&baseline(&many(40))).is_some());
        assert!(connects(&baseline(&many(200))).is_none());
    }

    proptest! {
        /// Where there are neither names nor patterns, the kernel half lets pass exactly what the daemon expects.
        #[test]
        fn the_two_halves_agree(
            entries in prop::collection::vec((0usize..3, 0usize..7, 0u16..40, 0u16..40, any::<bool>()), 1..12),
            (exe, ip, port, udp) in (0usize..3, 0usize..6, 0u16..45, any::<bool>()),
        ) {
            const EXES: [&str; 3] = ["/a", "/usr/bin/b", "*"];
            const TO: [&str; 7] = ["*", "10.0.0.1", "10.0.0.0/30", "0.0.0.0/0", "::/0", "fd00::/64", "::1"];
            const IPS: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.0.4", "fd00::7", "::1", "fd01::1"];
            let protocol = |udp: bool| if udp { "udp" } else { "tcp" };
            let mut text: Vec<String> = entries
                .iter()
                .map(|(exe, to, a, b, udp)| {
                    let (first, last) = (1000 + a.min(b), 1000 + a.max(b));
                    let port = if first == last { first.to_string() } else { format!("{first}-{last}") };
                    entry(EXES[*exe], TO[*to], &port, protocol(*udp))
                })
                .collect();
            text.sort();
            text.dedup();
            let baseline = baseline(&text.concat());
            let made = connects(&baseline).unwrap();
            let ip: IpAddr = IPS[ip].parse().unwrap();
            let exe = ["/a", "/usr/bin/b", "/c"][exe];
            let protocol = if udp { 17 } else { 6 };
            let peer = (ip, 1000 + port).into();
            let act = Act::Connect { exe: exe.into(), peer, names: Vec::new(), protocol: Protocol(protocol) };
            prop_assert_eq!(made.pass(Some(path(exe)), ip, 1000 + port, protocol), Profile::new(baseline).expects(&act));
        }

        #[test]
        fn blocks_make_up_their_range(a in any::<u16>(), b in any::<u16>()) {
            let range = Ports { first: a.min(b), last: a.max(b) };
            let mut next = u32::from(range.first);
            for (bits, from) in blocks(range) {
                prop_assert_eq!(u32::from(from), next);
                prop_assert_eq!(next % (1 << (16 - bits)), 0);
                next += 1 << (16 - bits);
            }
            prop_assert_eq!(next, u32::from(range.last) + 1);
        }
    }
}
