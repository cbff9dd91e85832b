//! One program knocks at the same port of many addresses and says nothing to most of them; or a shell does, by way of
//! a program for each address (`for …; do nc -z …; done`).

use super::Detector;
use super::bounded::Bounded;
use super::context::Context;
use crate::event::{Body, Connect, ConnectOp, Event, HOST, Kind, ProcessKey, state};
use crate::finding::{Detection, FindingKind};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Programs and ports followed.
const FOLLOWED: usize = 256;
/// Attempts within this time belong together, ns.
const WINDOW_NS: u64 = 10_000_000_000;
/// Silent addresses that make a scan. A client with a list of servers has a dozen.
const ADDRESSES: usize = 32;
/// Ports on which many addresses are asked honestly: names and the web.
const EVERYDAY: &[u16] = &[53, 80, 123, 443];
/// How far above what knocks the shell is: it starts it by way of another program at most (`timeout 1 nc -z …`).
const ABOVE: usize = 2;

const UDP: u16 = 17;

#[derive(Debug, Default)]
struct Sweep {
    since_ns: u64,
    silent: BTreeSet<IpAddr>,
}

/// See the module.
pub struct Scan {
    sweeps: Bounded<(ProcessKey, u16), Sweep>,
}

impl Default for Scan {
    fn default() -> Self {
        Self { sweeps: Bounded::new(FOLLOWED) }
    }
}

impl Detector for Scan {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Connect, Kind::Payload]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        match &event.body {
            Body::Connect(connect) => self.connect(event, connect, cx),
            // It has something to say: no knocking.
            Body::Payload(payload) if !payload.inbound => {
                for asker in askers(event, cx) {
                    if let Some(sweep) = self.sweeps.get_mut(&(asker, payload.peer.port())) {
                        sweep.silent.remove(&payload.peer.ip());
                    }
                }
                None
            }
            _ => None,
        }
    }
}

impl Scan {
    fn connect(&mut self, event: &Event, connect: &Connect, cx: &Context<'_>) -> Option<Detection> {
        let port = connect.peer.port();
        if event.container == HOST || connect.op == ConnectOp::Listen || connect.protocol == UDP {
            return None;
        }
        if EVERYDAY.contains(&port) || port == 0 || cx.containers.expects_connect(event.container, connect.peer) {
            return None;
        }
        // A service that asks its peers (a scraper, a cluster member) serves as well.
        if cx.processes.same_program(event.process).any(|p| p.listening) {
            return None;
        }
        let asker = askers(event, cx).find(|asker| self.knocks(*asker, event, connect.peer))?;
        let sweep = self.sweeps.remove(&(asker, port))?;
        // One scan, whoever else's it is.
        for other in askers(event, cx) {
            self.sweeps.remove(&(other, port));
        }
        let (first, last) = (sweep.silent.first()?.to_string(), sweep.silent.last()?.to_string());
        let message = format!("{} knocks at port {port} of many addresses", cx.describe(asker));
        let detail = format!("{ADDRESSES} addresses from {first} to {last} without a word");
        let mut detection = Detection::new(FindingKind::Recon, asker, message).with(event.id, "scan", 0, detail);
        detection.peer = Some(connect.peer);
        detection.alert_only = true;
        Some(detection)
    }

    /// One more address; is it the one that makes a scan?
    fn knocks(&mut self, asker: ProcessKey, event: &Event, peer: SocketAddr) -> bool {
        let Some(sweep) = self.sweeps.entry((asker, peer.port()), Sweep::default) else {
            return false;
        };
        if event.time_ns.saturating_sub(sweep.since_ns) > WINDOW_NS {
            *sweep = Sweep { since_ns: event.time_ns, ..Sweep::default() };
        }
        sweep.silent.insert(peer.ip());
        sweep.silent.len() >= ADDRESSES
    }
}

/// Whose attempt it is: the program's own, and the shell's above that started it for this one.
fn askers(event: &Event, cx: &Context<'_>) -> impl Iterator<Item = ProcessKey> + use<> {
    let own = program(event.process, cx);
    let above = cx.processes.ancestors(own).take(ABOVE);
    let shell = above
        .take_while(|p| p.container == event.container)
        .find(|p| p.has(state::TASK_SHELL))
        .map(|p| program(p.key, cx))
        .filter(|shell| *shell != own);
    std::iter::once(own).chain(shell)
}

/// The process that started the program: its workers are one asker. A shell that forks for each attempt, too.
fn program(process: ProcessKey, cx: &Context<'_>) -> ProcessKey {
    cx.processes.same_program(process).last().map_or(process, |p| p.key)
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds};
    use crate::finding::FindingKind::{self, Recon};

    fn sweep(lab: &mut Lab, port: u16, talks: bool) -> Vec<FindingKind> {
        let mut found = Vec::new();
        for host in 1..60_u64 {
            let peer = format!("10.200.0.{host}:{port}");
            found.extend(kinds(&lab.connect(20, &peer, host)));
            if talks {
                found.extend(kinds(&lab.payload(20, &peer, host, false, b"GET / HTTP/1.0\r\n\r\n")));
            }
        }
        found
    }

    fn lab() -> Lab {
        let mut lab = Lab::new();
        lab.exec(20, 9, &["/usr/bin/x"]);
        lab
    }

    #[test]
    fn silent_knocking_is_a_scan() {
        assert_eq!(sweep(&mut lab(), 6379, false), [Recon]);
        assert!(sweep(&mut lab(), 443, false).is_empty());
        assert!(sweep(&mut lab(), 9100, true).is_empty(), "a scraper");
    }

    /// `for …; do timeout 1 nc -z … & done`: a program, and a fork of the shell, for each address.
    #[test]
    fn a_shell_that_starts_a_program_for_each_address() {
        let each = |asks: &[&str], talks: bool| {
            let mut lab = Lab::new();
            lab.exec(20, 9, asks);
            let mut found = Vec::new();
            for host in 1..60_u32 {
                let (fork, program) = (100 + host * 2, 101 + host * 2);
                lab.fork(fork, 20);
                lab.exec(fork, 20, &["timeout", "1", "nc"]);
                lab.exec(program, fork, &["nc", "-z", "x"]);
                let peer = format!("10.200.0.{host}:2375");
                found.extend(lab.connect(program, &peer, u64::from(host)));
                if talks {
                    found.extend(lab.payload(program, &peer, u64::from(host), false, b"PING"));
                }
            }
            found
        };
        let found = each(&["bash", "-c", "for …"], false);
        let scans: Vec<_> = found.iter().filter(|d| d.kind == Recon).collect();
        assert_eq!(scans.len(), 1);
        assert_eq!(scans[0].culprit, Lab::key(20));
        assert!(each(&["bash", "-c", "for …"], true).iter().all(|d| d.kind != Recon), "it asks them something");
        assert!(each(&["/usr/bin/supervisor"], false).iter().all(|d| d.kind != Recon), "programs of a service");
    }
}
