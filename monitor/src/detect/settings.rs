//! Thresholds and lists, with their defaults and where they come from.

use crate::event::{last_component, state};
use crate::provenance::Process;
use foldhash::HashSet;
use ipnet::IpNet;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::net::IpAddr;

/// Weights of the miner detector's evidence. A finding needs [`Settings::miner_alert`]; nothing but
/// the protocol itself reaches that alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// A stratum request: no other protocol has these methods with these fields.
    pub stratum_request: u32,
    /// A pool's answer: a job with blob and target, `mining.notify`. Not in the miner's hands.
    pub stratum_answer: u32,
    /// `getwork`/`getblocktemplate` over HTTP, asked again and again.
    pub getwork: u32,
    /// A block or share handed in over HTTP (`submitblock`).
    pub submit_block: u32,
    /// A block template asked for a given wallet again and again: solo mining against a node.
    pub template_for_wallet: u32,
    /// xmrig's `modprobe msr allow_writes=on`, or a write to `/dev/cpu/N/msr`.
    pub msr: u32,
    /// A connection to an address from the answer to the container's own query for a pool's name.
    pub pool_connect: u32,
    /// A connection into a network that the configuration lists as a pool's.
    pub pool_network: u32,
    /// TLS server name of a pool, from a client that is no web client.
    pub pool_sni: u32,
    /// The same from a web client, or for the pool's web site.
    pub pool_site: u32,
    /// CONNECT or SOCKS request for a pool's name.
    pub pool_proxy: u32,
    /// Miner arguments in a process that connects.
    pub argv: u32,
    /// A second kind of miner argument (tuning flags beside the pool's URL).
    pub argv_more: u32,
    /// A miner's name as executable name, comm or invocation name.
    pub name: u32,
    /// The executable is not from the image.
    pub drift: u32,
    /// Huge pages were asked for.
    pub huge_pages: u32,
    /// The port is one that pools use.
    pub port: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            stratum_request: 90,
            stratum_answer: 90,
            getwork: 50,
            submit_block: 50,
            template_for_wallet: 60,
            msr: 50,
            pool_connect: 50,
            pool_network: 50,
            pool_sni: 60,
            pool_site: 20,
            pool_proxy: 70,
            argv: 50,
            argv_more: 10,
            name: 30,
            drift: 20,
            huge_pages: 15,
            port: 5,
        }
    }
}

/// What the detectors are told by the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Report drift alone, everywhere.
    pub drift_alert: bool,
    /// How long a container's entry point counts as starting up (writes its own crontab, sets up
    /// users), ns.
    pub startup_ns: u64,
    /// Score from which a miner is reported.
    pub miner_alert: u32,
    /// Score from which it may be killed.
    pub miner_kill: u32,
    /// Weights of the miner's evidence.
    pub weights: Weights,
    /// Pool domains: a name matches itself and everything below it.
    pub pools: Vec<String>,
    /// Pool domains that are web sites as well: only mining host names below them count.
    pub pool_sites: Vec<String>,
    /// Networks of pools.
    pub pool_networks: Vec<IpNet>,
    /// Miner program names, without extension, lower case.
    pub miner_names: HashSet<String>,
    /// Ports that pools use and few others do. Context only.
    pub pool_ports: Vec<u16>,
    /// Programs out of the image whose downloads are trusted: package managers and version
    /// control. Names of executables, or of the script an interpreter runs.
    pub trusted_writers: Vec<String>,
    /// Programs on the host that unpack images and feed containers.
    pub runtimes: Vec<String>,
    /// Programs out of the image that talk to kubelets by design.
    pub kubelet_clients: Vec<String>,
    /// Shell lines sent to this peer port are log shipping.
    pub log_ports: Vec<u16>,
    /// Rounds (in, then out) on a shell's own connection that make it a conversation.
    pub shell_rounds: u32,
    /// Times bytes may have been rewritten between the connection and the program before a
    /// `download_exec` is only told, never acted upon (a compiler's output after three).
    pub certain_hops: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            drift_alert: false,
            startup_ns: monitor_common::state::STARTUP_NS,
            miner_alert: 60,
            miner_kill: 90,
            weights: Weights::default(),
            pools: owned(POOLS),
            pool_sites: owned(POOL_SITES),
            pool_networks: Vec::new(),
            miner_names: owned(MINER_NAMES).into_iter().collect(),
            pool_ports: POOL_PORTS.to_vec(),
            trusted_writers: owned(TRUSTED_WRITERS),
            runtimes: owned(RUNTIMES),
            kubelet_clients: owned(KUBELET_CLIENTS),
            log_ports: vec![514, 601, 6514, 2003, 2004, 5140, 12201, 24224],
            shell_rounds: 4,
            certain_hops: 2,
        }
    }
}

impl Settings {
    /// Is the program, out of the image, one whose downloads are trusted?
    pub fn is_trusted_writer(&self, process: &Process) -> bool {
        if !super::Context::is_from_image(process) {
            return false;
        }
        let listed = |name: &str| {
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            self.trusted_writers.iter().any(|w| w == name || (!stem.is_empty() && w == stem))
        };
        if listed(process.program.name()) || listed(&process.comm) {
            return true;
        }
        // Only an interpreter's operand is a program; curl's is where the attack comes from.
        if !process.has(state::TASK_INTERPRETER | state::TASK_SHELL) {
            return false;
        }
        // `python3 /usr/bin/pip`, `python3 -m pip`, `node …/npm-cli.js`: the script is the program.
        let args = &process.program.args;
        let script = match args.get(1).map(SmolStr::as_str) {
            Some("-m") => args.get(2),
            _ => args.iter().skip(1).find(|a| !a.starts_with('-')),
        };
        script.is_some_and(|s| {
            let name = s.rsplit('/').next().unwrap_or(s);
            let outside = s.starts_with("/tmp/") || s.starts_with("/var/tmp/") || s.starts_with("/dev/");
            !outside && listed(name.trim_end_matches(".js").trim_end_matches("-cli"))
        })
    }

    /// Is the name a pool's?
    pub fn pool(&self, host: &str) -> Option<PoolName> {
        let host = lower(host.trim_end_matches('.'));
        if let Some(base) = self.pools.iter().find(|p| is_below(&host, p)) {
            let rest = host.len() - base.len();
            let site = rest == 0 || matches!(&host[..rest], "www." | "api." | "web.");
            return Some(if site { PoolName::Site } else { PoolName::Pool });
        }
        let base = self.pool_sites.iter().find(|p| is_below(&host, p) && host.len() > p.len())?;
        let label = &host[..host.len() - base.len() - 1];
        ["stratum", "xmr", "mine", "pool", "rx", "eth", "zec", "dash", "ss", "btm"]
            .iter()
            .any(|prefix| label.starts_with(prefix))
            .then_some(PoolName::Pool)
    }

    /// The listed pool network that the address lies in.
    pub fn pool_network(&self, ip: IpAddr) -> Option<&IpNet> {
        self.pool_networks.iter().find(|network| network.contains(&ip))
    }

    /// Is it a miner's program name (path, version and extension left away)?
    pub fn is_miner_name(&self, name: &str) -> bool {
        let base = lower(last_component(name));
        let base = base.strip_suffix(".bin").unwrap_or(&base);
        let cuts = base.match_indices(['-', '_', '.']).map(|(at, _)| at);
        cuts.chain([base.len()]).any(|end| self.miner_names.contains(&base[..end]))
    }
}

/// What a name on the list stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolName {
    /// A mining endpoint.
    Pool,
    /// The pool's web site or API.
    Site,
}

/// In lower case; copied only where it is not already.
fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|b| b.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

fn is_below(host: &str, base: &str) -> bool {
    host.strip_suffix(base).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// Falco's `miner_domains` (Apache-2.0) reduced to registrable names, Sigma's mining pool rules
/// (DRL 1.1, Florian Roth, Nextron), and well-known ones. `pool.example` is reserved (RFC 2606): the
/// demo and the scenarios mine there.
const POOLS: &[&str] = &[
    "crypto-pool.fr",
    "dwarfpool.com",
    "ethermine.org",
    "ethpool.org",
    "hashvault.pro",
    "minergate.com",
    "minexmr.com",
    "moneropool.com",
    "nanopool.org",
    "slushpool.com",
    "supportxmr.com",
    "xmrpool.net",
    "c3pool.com",
    "c3pool.org",
    "hashcity.org",
    "moneroocean.stream",
    "xmrpool.eu",
    "monerohash.com",
    "herominers.com",
    "miner.rocks",
    "gntl.co.uk",
    "fairpool.xyz",
    "semipool.com",
    "prohash.net",
    "poolto.be",
    "cryptonotepool.org",
    "extremepool.org",
    "multipooler.com",
    "walpool.com",
    "coinfoundry.org",
    "xmr.pt",
    "kryptex.network",
    "zpool.ca",
    "zergpool.com",
    "prohashing.com",
    "rplant.xyz",
    "p2pool.io",
    "xmrig.com",
    "pool.example",
];

/// Names that are exchanges or sites as well.
const POOL_SITES: &[&str] = &[
    "antpool.com",
    "unmineable.com",
    "2miners.com",
    "f2pool.com",
    "nicehash.com",
    "viabtc.com",
    "braiins.com",
    "poolin.com",
];

/// Falco's `miner_binaries` (Apache-2.0), StackRox (without geth, a node), and names seen in
/// campaigns.
const MINER_NAMES: &[&str] = &[
    "xmrig",
    "xmr-stak",
    "minerd",
    "minergate",
    "cpuminer",
    "ccminer",
    "ethminer",
    "cgminer",
    "bfgminer",
    "sgminer",
    "claymore",
    "nbminer",
    "t-rex",
    "gminer",
    "lolminer",
    "phoenixminer",
    "teamredminer",
    "nanominer",
    "bminer",
    "wildrig",
    "srbminer",
    "xmrminer",
    "xmrigdaemon",
    "jaav",
    "kdevtmpfsi",
    "kinsing",
    "log_rot",
    "pnsd",
    "c3pool_miner",
    "moneroocean_miner",
    "perfctl",
    "perfcc",
    "wntkyg",
    "ddgs",
    "kworkerds",
    "dbused",
];

/// Falco's list without the ports that honest services use.
const POOL_PORTS: &[u16] = &[3333, 3334, 3335, 3336, 3357, 5588, 5730, 7777, 9999, 10128, 14433, 14444, 45560, 45700];

const TRUSTED_WRITERS: &[&str] = &[
    "apt",
    "apt-get",
    "aptitude",
    "dpkg",
    "apk",
    "rpm",
    "yum",
    "dnf",
    "microdnf",
    "zypper",
    "pacman",
    "pip",
    "pipx",
    "uv",
    "poetry",
    "conda",
    "mamba",
    "npm",
    "npx",
    "yarn",
    "pnpm",
    "corepack",
    "cargo",
    "rustup",
    "go",
    "mvn",
    "gradle",
    "gem",
    "bundle",
    "bundler",
    "composer",
    "git",
    "git-remote-http",
    "git-remote-https",
    "unattended-upgrade",
    "debootstrap",
    "snapd",
    "flatpak",
    "nix",
];

const RUNTIMES: &[&str] = &[
    "dockerd",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "runc",
    "crun",
    "crio",
    "conmon",
    "podman",
    "buildkitd",
    "buildkit-runc",
    "kubelet",
    "docker",
    "nerdctl",
    "ctr",
    "docker-untar",
    "unpigz",
    "docker-proxy",
];

const KUBELET_CLIENTS: &[&str] = &["kube-apiserver", "metrics-server", "prometheus", "otelcol", "otelcol-contrib"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_names() {
        let s = Settings::default();
        assert_eq!(s.pool("pool.supportxmr.com"), Some(PoolName::Pool));
        assert_eq!(s.pool("XMR.crypto-pool.FR."), Some(PoolName::Pool));
        assert_eq!(s.pool("supportxmr.com"), Some(PoolName::Site));
        assert_eq!(s.pool("stratum.antpool.com"), Some(PoolName::Pool));
        assert_eq!(s.pool("www.f2pool.com"), None);
        assert_eq!(s.pool("notsupportxmr.com"), None);
        assert_eq!(s.pool("status.lab.test"), None);
    }

    #[test]
    fn miner_names() {
        let s = Settings::default();
        assert!(s.is_miner_name("/tmp/xmrig") && s.is_miner_name("xmrig-6.21.0"));
        assert!(!s.is_miner_name("xmrigger") && !s.is_miner_name("geth"));
    }
}
