//! Pieces of evidence, and what a command line gives away.

use crate::event::{Event, last_component};
use crate::finding::Evidence;
use smol_str::SmolStr;
use std::net::SocketAddr;

/// Evidence of one program life.
#[derive(Debug, Default)]
pub struct Suspect {
    /// Latest exec counter seen.
    pub generation: u32,
    /// Each kind once.
    pub evidence: Vec<Evidence>,
    /// Latest peer that counts.
    pub peer: Option<SocketAddr>,
    /// Has connected: arguments and names count only then.
    pub connected: bool,
    /// HTTP calls for work so far.
    pub work_calls: u32,
    /// An alert went out.
    pub told: bool,
    /// So did one that may kill.
    pub told_kill: bool,
}

/// Adds one piece, each kind once, the heavier one.
pub fn add(suspect: &mut Suspect, event: &Event, what: &str, weight: u32, detail: String) {
    let piece = Evidence { what: what.to_owned(), detail, weight, event: event.id };
    match suspect.evidence.iter_mut().find(|e| e.what == what) {
        Some(old) if old.weight >= weight => {}
        Some(old) => *old = piece,
        None => suspect.evidence.push(piece),
    }
}

/// The sum; a name looked up and the same name in the TLS hello are one fact, and the pool's network,
/// which that name leads to, adds nothing to it.
pub fn score(evidence: &[Evidence]) -> u32 {
    let weight = |what: &str| evidence.iter().find(|e| e.what == what).map_or(0, |e| e.weight);
    let (lookup, hello) = (weight("pool_connect"), weight("pool_sni"));
    let names = lookup.max(hello) + if lookup.min(hello) > 0 { 10 } else { 0 };
    let place = ["pool_connect", "pool_sni", "pool_network"];
    let rest: u32 = evidence.iter().filter(|e| !place.contains(&e.what.as_str())).map(|e| e.weight).sum();
    names.max(weight("pool_network")) + rest
}

/// xmrig's own call (`src/hw/msr/Msr_linux.cpp`).
pub fn is_msr_modprobe(args: &[SmolStr]) -> bool {
    args.first().is_some_and(|a| last_component(a) == "modprobe")
        && args.iter().any(|a| a == "msr")
        && args.iter().any(|a| a == "allow_writes=on")
}

/// Arguments that only miners take: a pool URL as a whole argument or an option's value, tuning
/// flags, algorithm names. A word inside a longer text (grep, a commit message) is none.
pub fn arguments(args: &[SmolStr]) -> Vec<String> {
    const SCHEMES: &[&str] = &[
        "stratum+tcp://",
        "stratum2+tcp://",
        "stratum+ssl://",
        "stratum2+ssl://",
        "stratum+tls://",
        "stratum://",
        "stratum1+tcp://",
        "daemon+http://",
    ];
    const FLAGS: &[&str] = &[
        "--donate-level",
        "--randomx-",
        "--coin=",
        "--algo=",
        "--rig-id",
        "--nicehash",
        "--cpu-max-threads-hint",
        "--cpu-priority",
        "--opencl",
        "--cuda-devices",
        "--no-huge-pages",
        "--keepalive-pool",
    ];
    const ALGOS: &[&str] =
        &["rx/", "cn/", "cn-", "randomx", "cryptonight", "kawpow", "ethash", "astrobwt", "argon2/", "ghostrider"];
    let algo = |value: &str| ALGOS.iter().any(|a| value.starts_with(a));
    let mut found = Vec::new();
    let mut previous = "";
    for arg in args.iter().skip(1) {
        let is_long = arg.starts_with("--");
        let value = Some(arg).filter(|_| is_long).and_then(|arg| arg.split_once('=')).map_or(arg.as_str(), |(_, v)| v);
        let url = value.starts_with(['s', 'd'])
            && SCHEMES.iter().any(|s| value.starts_with(s) && !value[s.len()..].contains(char::is_whitespace));
        let flag = is_long && FLAGS.iter().any(|f| arg.starts_with(f) && (*f != "--algo=" || algo(value)));
        let named = matches!(previous, "-a" | "--algo" | "--coin") && (algo(value) || previous == "--coin");
        if url || flag || named {
            found.push(arg.chars().take(80).collect());
        }
        previous = arg;
    }
    found
}
