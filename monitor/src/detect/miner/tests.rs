//! Miners, and what shares a sign with them.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::{dns, tls};
use crate::detect::testing::{Lab, kinds, open};
use crate::event::{Body, file, state};
use crate::finding::Detection;
use crate::finding::FindingKind::Miner;

const POOL: &str = "203.0.113.66:3333";
const LOGIN: &[u8] =
    br#"{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"LABWALLET","pass":"x","agent":"fm/1"}}"#;

fn lookup(lab: &mut Lab, pid: u32, name: &str) {
    lab.payload(pid, "10.0.0.2:53", 900, true, &dns::sample(name, [203, 0, 113, 66]));
}

#[test]
fn the_protocol_alone_is_enough() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["/opt/.d/n"]);
    assert!(lab.connect(20, "203.0.113.66:5555", 1).is_empty());
    let found = lab.payload(20, "203.0.113.66:5555", 1, false, LOGIN);
    assert_eq!(kinds(&found), [Miner]);
    assert!(!found[0].alert_only);
    let job = br#"{"id":1,"result":{"job":{"blob":"0e","job_id":"1","target":"b8"}}}"#;
    assert!(lab.payload(20, "203.0.113.66:5555", 1, true, job).is_empty(), "told once");
}

#[test]
fn arguments_need_a_connection() {
    let args = &["/tmp/w/n", "-o", "stratum+ssl://203.0.113.66:443", "-u", "W", "--donate-level=0"];
    let mut lab = Lab::new();
    assert!(lab.exec(20, 9, args).is_empty());
    let found = lab.connect(20, "203.0.113.66:443", 1);
    assert_eq!(kinds(&found), [Miner]);
    assert!(found[0].alert_only, "60: told, not killed");
    for quiet in [
        &["grep", "-rs", "stratum+tcp://", "/etc"][..],
        &["echo", "-o stratum+tcp", "-u user"],
        &["git", "commit", "-m", "drop stratum+tcp://pool.x --donate-level"],
    ] {
        let mut lab = Lab::new();
        lab.exec(20, 9, quiet);
        assert!(lab.connect(20, POOL, 1).is_empty(), "{quiet:?}");
    }
}

#[test]
fn names_and_places_do_not_suffice() {
    let mut lab = Lab::new();
    lab.exec_with(20, 9, &["/tmp/xmrig"], |e| {
        e.task_flags |= state::TASK_DRIFT;
        e.exe.flags |= file::FILE_UPPER;
    });
    assert!(lab.connect(20, POOL, 1).is_empty());
}

fn hello(lab: &mut Lab, host: &str, web: bool) -> Vec<Detection> {
    lab.exec(20, 9, &["/opt/n"]);
    let mut found = lab.connect(20, "203.0.113.66:443", 1);
    found.extend(lab.payload(20, "203.0.113.66:443", 1, false, &tls::sample(host, web)));
    found
}

#[test]
fn pools_over_tls() {
    let mut lab = Lab::new();
    lookup(&mut lab, 9, "pool.supportxmr.com");
    let found = hello(&mut lab, "pool.supportxmr.com", false);
    assert_eq!(kinds(&found), [Miner]);
    assert!(found[0].alert_only, "a name alone never kills");
    assert_eq!(kinds(&hello(&mut Lab::new(), "pool.supportxmr.com", false)), [Miner]);
    // The web site, a browser, and another site on the same address.
    let mut lab = Lab::new();
    lookup(&mut lab, 9, "supportxmr.com");
    assert!(hello(&mut lab, "supportxmr.com", true).is_empty());
    let mut lab = Lab::new();
    lookup(&mut lab, 9, "pool.minexmr.com");
    assert!(hello(&mut lab, "status.lab.test", true).is_empty());
}

#[test]
fn a_lookup_is_not_enough() {
    let mut lab = Lab::new();
    lookup(&mut lab, 9, "pool.minexmr.com");
    lab.exec(20, 9, &["curl", "http://pool.minexmr.com/"]);
    assert!(lab.connect(20, "203.0.113.66:80", 1).is_empty());
    assert!(lab.payload(20, "203.0.113.66:80", 1, false, b"GET / HTTP/1.1\r\n\r\n").is_empty());
    // With a dropped program it is told.
    lab.exec_with(21, 9, &["/tmp/n"], |e| e.task_flags |= state::TASK_DRIFT);
    assert_eq!(kinds(&lab.connect(21, "203.0.113.66:443", 2)), [Miner]);
}

#[test]
fn a_listed_network_is_one_weak_sign() {
    let listed = |networks: &[&str]| {
        let mut lab = Lab::new();
        lab.settings.pool_networks = networks.iter().map(|n| n.parse().unwrap()).collect();
        lab
    };
    // Alone, and with a port that pools use, it is nothing.
    let mut lab = listed(&["203.0.113.0/24"]);
    lab.exec(20, 9, &["/opt/n"]);
    assert!(lab.connect(20, "203.0.113.66:443", 1).is_empty());
    assert!(lab.connect(20, POOL, 2).is_empty());
    // With a miner's name it is told, and not killed.
    lab.exec(21, 9, &["/opt/xmrig"]);
    let found = lab.connect(21, "203.0.113.66:443", 3);
    assert_eq!(kinds(&found), [Miner]);
    assert!(found[0].alert_only);
    assert!(found[0].evidence.iter().any(|e| e.what == "pool_network" && e.detail.contains("203.0.113.0/24")));
    // Elsewhere the same program is not told, and IPv6 networks count as well.
    let mut lab = listed(&["198.51.100.0/24", "2001:db8::/32"]);
    lab.exec(20, 9, &["/opt/xmrig"]);
    assert!(lab.connect(20, "203.0.113.66:443", 1).is_empty());
    assert_eq!(kinds(&lab.connect(20, "[2001:db8::66]:443", 2)), [Miner]);
    // The pool's name and its network are one fact.
    let mut lab = listed(&["203.0.113.66/32"]);
    lookup(&mut lab, 9, "pool.minexmr.com");
    lab.exec(20, 9, &["curl", "x"]);
    assert!(lab.connect(20, "203.0.113.66:80", 1).is_empty());
}

#[test]
fn proxies() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["/opt/n"]);
    lab.connect(20, "10.0.0.1:3128", 1);
    let found = lab.payload(20, "10.0.0.1:3128", 1, false, b"CONNECT pool.minexmr.com:3333 HTTP/1.1\r\n\r\n");
    assert_eq!(kinds(&found), [Miner]);
    let found = lab.payload(20, "10.0.0.1:3128", 1, false, LOGIN);
    assert!(found[0].repeat && !found[0].alert_only, "acted upon, not told again");
}

#[test]
fn wallets_and_telephones() {
    for text in [
        &b"POST / HTTP/1.1\r\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"id\":1}"[..],
        b"{\"jsonrpc\":\"2.0\",\"method\":\"login\",\"params\":{\"login\":\"1000\",\"passwd\":\"x\"}}",
        b"POST / HTTP/1.1\r\n\r\n{\"method\":\"eth_getWork\",\"id\":1}",
    ] {
        let mut lab = Lab::new();
        lab.exec(20, 9, &["/usr/bin/app"]);
        lab.connect(20, POOL, 1);
        for _ in 0..3 {
            assert!(lab.payload(20, POOL, 1, false, text).is_empty(), "{}", String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn mining_against_a_node() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["/opt/n"]);
    lab.connect(20, "203.0.113.66:18081", 1);
    let ask =
        b"POST /json_rpc HTTP/1.1\r\n\r\n{\"method\":\"getblocktemplate\",\"params\":{\"wallet_address\":\"4x\"}}";
    assert!(lab.payload(20, "203.0.113.66:18081", 1, false, ask).is_empty());
    assert_eq!(kinds(&lab.payload(20, "203.0.113.66:18081", 1, false, ask)), [Miner]);
}

#[test]
fn tuning_counts_for_the_miner() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["/opt/n"]);
    lab.exec(21, 20, &["sh", "-c", "/sbin/modprobe msr allow_writes=on > /dev/null 2>&1"]);
    assert!(lab.exec(22, 21, &["/sbin/modprobe", "msr", "allow_writes=on"]).is_empty());
    let huge = open("/sys/vm/nr_hugepages", file::FILE_WRITE, 0);
    assert!(lab.act(20, Body::Open(Box::new(huge))).is_empty());
    assert_eq!(kinds(&lab.connect(20, "203.0.113.66:4443", 1)), [Miner]);
}

#[test]
fn a_respawned_miner_takes_its_watchdog_along() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["sh", "watch.sh"]);
    let mut last = Vec::new();
    for pid in 20..23 {
        lab.exec(pid, 15, &["/opt/n"]);
        lab.connect(pid, POOL, u64::from(pid));
        last = lab.payload(pid, POOL, u64::from(pid), false, LOGIN);
        lab.exit(pid);
        lab.advance(2000);
    }
    assert_eq!(kinds(&last), [Miner]);
    assert!(last[0].repeat, "acted upon, not told again");
    assert_eq!(last[0].accomplices, [Lab::key(15)]);
}
