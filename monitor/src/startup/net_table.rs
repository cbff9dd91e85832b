//! `/proc/PID/net/{tcp,tcp6,udp,udp6}`: which socket inode has which peer, and who called whom.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This side connected.
    Outbound,
    /// This side accepted.
    Accepted,
    /// It waits for connections.
    Listening,
    /// No peer.
    Idle,
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its own address.
    pub local: SocketAddr,
    /// The peer's; port 0 if there is none.
    pub peer: SocketAddr,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u16,
    /// Who began.
    pub direction: Direction,
}

/// The inet sockets of one network namespace, by inode.
#[derive(Clone, Debug, Default)]
pub struct NetTable {
    rows: HashMap<u64, Row>,
}

const TCP: u16 = 6;
const UDP: u16 = 17;
/// include/net/tcp_states.h.
const STATE_LISTEN: u8 = 0x0a;
/// First port that the kernel gives out by itself (`net.ipv4.ip_local_port_range` by default).
const EPHEMERAL: u16 = 32_768;

impl NetTable {
    /// Reads the tables that a process sees.
    pub fn of_process(pid: u32) -> Self {
        let read = |name| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
        // A protocol may be missing (no IPv6), and the process may be gone.
        let tcp = [read("tcp"), read("tcp6")].concat();
        let udp = [read("udp"), read("udp6")].concat();
        Self::parse(&tcp, &udp)
    }

    /// From the contents of the files.
    pub fn parse(tcp: &str, udp: &str) -> Self {
        let lines: Vec<Line> = tcp.lines().filter_map(parse_line).collect();
        let listening: HashSet<u16> =
            lines.iter().filter(|l| l.state == STATE_LISTEN).map(|l| l.local.port()).collect();
        let mut rows = HashMap::new();
        for line in &lines {
            let direction = tcp_direction(line, &listening);
            rows.insert(line.inode, line.row(TCP, direction));
        }
        for line in udp.lines().filter_map(parse_line) {
            let direction = if line.peer.port() == 0 { Direction::Idle } else { Direction::Outbound };
            rows.insert(line.inode, line.row(UDP, direction));
        }
        // Sockets in TIME_WAIT belong to nobody.
        rows.remove(&0);
        Self { rows }
    }

    /// The socket with this inode.
    pub fn get(&self, inode: u64) -> Option<&Row> {
        self.rows.get(&inode)
    }
}

/// A connection on a port that is listened on was accepted. A server for one connection
/// (`nc -l`) has closed its listener by then: a low port of ours that talks to a port which the
/// peer's kernel chose was accepted too.
fn tcp_direction(line: &Line, listening: &HashSet<u16>) -> Direction {
    let (ours, theirs) = (line.local.port(), line.peer.port());
    if line.state == STATE_LISTEN {
        Direction::Listening
    } else if theirs == 0 {
        Direction::Idle
    } else if listening.contains(&ours) || (ours < EPHEMERAL && theirs >= EPHEMERAL) {
        Direction::Accepted
    } else {
        Direction::Outbound
    }
}

struct Line {
    local: SocketAddr,
    peer: SocketAddr,
    state: u8,
    inode: u64,
}

impl Line {
    const fn row(&self, protocol: u16, direction: Direction) -> Row {
        Row { local: self.local, peer: self.peer, protocol, direction }
    }
}

/// `  sl  local_address rem_address   st tx:rx tr:when retrnsmt uid timeout inode …`
fn parse_line(line: &str) -> Option<Line> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let peer = address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Line { local, peer, state, inode })
}

/// `0100007F:1F90`: 32-bit words in the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (hex, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip = match hex.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            let v6 = Ipv6Addr::from(bytes);
            v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn row(local: &str, peer: &str, state: &str, inode: u64) -> String {
        format!(
            "   0: {local} {peer} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 20 4 30 10 -1\n"
        )
    }

    #[test]
    fn directions() {
        let tcp = [
            HEAD.to_owned(),
            row("00000000:0050", "00000000:0000", "0A", 1),
            row("0100007F:0050", "0100007F:C350", "01", 2),
            row("0100007F:C350", "0100007F:0050", "01", 3),
            row("0202000A:C351", "427100CB:115C", "01", 4),
            row("0202000A:1F90", "427100CB:C352", "01", 5),
            row("0202000A:C353", "427100CB:115C", "06", 0),
        ]
        .concat();
        let udp =
            [row("00000000:0035", "00000000:0000", "07", 6), row("0202000A:C354", "427100CB:14E9", "01", 7)].concat();
        let table = NetTable::parse(&tcp, &udp);
        let direction = |inode| table.get(inode).unwrap().direction;
        assert_eq!(direction(1), Direction::Listening);
        assert_eq!(direction(2), Direction::Accepted);
        assert_eq!(direction(3), Direction::Outbound);
        assert_eq!(direction(4), Direction::Outbound);
        assert_eq!(table.get(4).unwrap().peer, "203.0.113.66:4444".parse().unwrap());
        assert_eq!(direction(5), Direction::Accepted, "its listener is closed");
        assert_eq!(direction(6), Direction::Idle);
        assert_eq!((direction(7), table.get(7).unwrap().protocol), (Direction::Outbound, UDP));
        assert!(table.get(0).is_none());
    }

    #[test]
    fn addresses_of_both_families() {
        assert_eq!(address("0100007F:1F90").unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(address("00000000000000000000000001000000:0016").unwrap(), "[::1]:22".parse().unwrap());
        assert_eq!(address("0000000000000000FFFF0000427100CB:115C").unwrap(), "203.0.113.66:4444".parse().unwrap());
        assert_eq!(address("00:1"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
            let _ = NetTable::parse(&text, &text);
            let _ = address(&text);
        }
    }
}
