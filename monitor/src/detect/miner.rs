//! A program mines: evidence from arguments, names, files, name lookups and first payload bytes adds
//! up per program. One weak sign never alerts; the protocol itself is strong.

pub(crate) mod dns;
mod evidence;
mod http;
mod json;
mod names;
mod stratum;
mod stream;
mod tls;

use super::Detector;
use super::bounded::Bounded;
use super::context::Context;
use super::settings::PoolName;
use crate::event::{Body, Connect, ConnectOp, Event, Exec, Kind, Open, Payload, ProcessKey, file, state};
use crate::finding::{Detection, Evidence, FindingKind};
use evidence::{Suspect, add, arguments, is_msr_modprobe, score};
use names::PoolAnswers;
use smol_str::SmolStr;
use stream::{Sign, Streams};

/// Programs whose evidence is held.
const SUSPECTS: usize = 1024;
/// Respawns by the same parent after which the parent goes as well.
const RESPAWNS: u32 = 2;

/// See the module.
pub struct Miner {
    suspects: Bounded<ProcessKey, Suspect>,
    streams: Streams,
    answers: PoolAnswers,
    respawns: Bounded<(ProcessKey, SmolStr), u32>,
}

impl Default for Miner {
    fn default() -> Self {
        Self {
            suspects: Bounded::new(SUSPECTS),
            streams: Streams::default(),
            answers: PoolAnswers::default(),
            respawns: Bounded::new(SUSPECTS),
        }
    }
}

impl Detector for Miner {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Exec, Kind::Connect, Kind::Open, Kind::Payload]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        match &event.body {
            Body::Exec(exec) => self.exec(event, exec, cx),
            Body::Connect(connect) => self.connect(event, connect, cx),
            Body::Open(open) => self.open(event, open, cx),
            Body::Payload(payload) => self.payload(event, payload, cx),
            _ => None,
        }
    }
}

impl Miner {
    /// A new program: what its name, file and arguments say. They count once it connects.
    fn exec(&mut self, event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
        self.suspects.remove(&event.process);
        let w = &cx.settings.weights;
        if is_msr_modprobe(&exec.args) {
            return self.tuning(event, exec.parent, w.msr, "msr", "loads msr with writes allowed", cx);
        }
        let (comm, exe, filename) = (exec.comm.as_str(), exec.exe.name(), exec.filename.as_str());
        // Mostly all three are one name.
        let name =
            [Some(comm), Some(exe).filter(|exe| *exe != comm), Some(filename).filter(|name| *name != exec.exe.path)]
                .into_iter()
                .flatten()
                .find(|n| cx.settings.is_miner_name(n));
        let args = arguments(&exec.args);
        let foreign = exec.task_flags & (state::TASK_DRIFT | state::TASK_EXE_TAINTED) != 0
            || exec.exe.has(file::FILE_MEMFD)
            || exec.exe.has(file::FILE_UNLINKED);
        if name.is_none() && args.is_empty() && !foreign {
            return None;
        }
        let suspect = self.suspect(event.process, cx)?;
        if let Some(name) = name {
            add(suspect, event, "miner_name", w.name, format!("named {name}"));
        }
        for (i, arg) in args.iter().take(2).enumerate() {
            let (what, weight) = if i == 0 { ("miner_argument", w.argv) } else { ("miner_argument_2", w.argv_more) };
            add(suspect, event, what, weight, format!("argument `{arg}`"));
        }
        if foreign {
            let place = super::drift::layer(&exec.exe);
            add(suspect, event, "drift", w.drift, format!("{} lies in {place}", exec.exe.path));
        }
        None
    }

    fn connect(&mut self, event: &Event, connect: &Connect, cx: &Context<'_>) -> Option<Detection> {
        let lookup = connect.peer.port() == 53;
        if lookup || connect.op == ConnectOp::Listen || connect.peer.port() == 0 {
            return None;
        }
        let w = &cx.settings.weights;
        let named = self.answers.name_of(event.container, connect.peer.ip(), event.time_ns);
        let named = named.map(|(name, kind)| (name.to_owned(), kind));
        let port = cx.settings.pool_ports.contains(&connect.peer.port());
        let network = cx.settings.pool_network(connect.peer.ip());
        if named.is_none() && network.is_none() && !port && self.suspects.get(&event.process).is_none() {
            return None;
        }
        let suspect = self.suspect(event.process, cx)?;
        suspect.connected = true;
        suspect.peer = Some(connect.peer);
        if let Some((name, kind)) = named {
            let weight = if kind == PoolName::Pool { w.pool_connect } else { w.pool_site };
            let detail = format!("connects to {}, the address it was given for {name}", connect.peer);
            add(suspect, event, "pool_connect", weight, detail);
        }
        if let Some(network) = network {
            let detail = format!("connects to {}, in the pool network {network}", connect.peer);
            add(suspect, event, "pool_network", w.pool_network, detail);
        }
        if port {
            add(suspect, event, "pool_port", w.port, format!("port {} is common for pools", connect.peer.port()));
        }
        self.judge(event.process, cx)
    }

    /// Tuning that xmrig does before it mines.
    fn open(&mut self, event: &Event, open: &Open, cx: &Context<'_>) -> Option<Detection> {
        if !open.file.has(file::FILE_WRITE) {
            return None;
        }
        let w = &cx.settings.weights;
        let path = open.file.path.as_str();
        if path.ends_with("/msr") {
            self.tuning(event, event.process, w.msr, "msr", "writes CPU registers (msr)", cx)
        } else if path.ends_with("nr_hugepages") {
            self.tuning(event, event.process, w.huge_pages, "huge_pages", "asks for huge pages", cx)
        } else {
            None
        }
    }

    /// Counts for the process and, since it is done by helpers, for its nearest ancestors that are
    /// under suspicion already or have connected.
    fn tuning(
        &mut self,
        event: &Event,
        by: ProcessKey,
        weight: u32,
        what: &str,
        detail: &str,
        cx: &Context<'_>,
    ) -> Option<Detection> {
        let chain: Vec<ProcessKey> = std::iter::once(by)
            .chain(cx.processes.ancestors(by).take(2).map(|a| a.key))
            .filter(|key| cx.processes.get(*key).is_some_and(|p| p.container == event.container))
            .collect();
        let mut found = None;
        for key in chain {
            let shell = cx.processes.get(key).is_some_and(|p| p.has(state::TASK_SHELL));
            if shell {
                continue;
            }
            if let Some(suspect) = self.suspect(key, cx) {
                add(suspect, event, what, weight, detail.to_owned());
            }
            found = found.or_else(|| self.judge(key, cx));
        }
        found
    }

    fn payload(&mut self, event: &Event, payload: &Payload, cx: &Context<'_>) -> Option<Detection> {
        if payload.peer.port() == 53 {
            if payload.inbound {
                self.answers.learn(event, payload, cx.settings);
            }
            return None;
        }
        let signs = self.streams.feed(payload);
        let mut any = false;
        for sign in signs {
            any |= self.sign(event, payload, sign, cx);
        }
        if !any {
            return None;
        }
        self.judge(event.process, cx)
    }

    /// Turns what a stream showed into evidence.
    fn sign(&mut self, event: &Event, payload: &Payload, sign: Sign, cx: &Context<'_>) -> bool {
        let w = &cx.settings.weights;
        let peer = payload.peer;
        let (what, weight, detail) = match sign {
            Sign::Request(method) => ("stratum_request", w.stratum_request, format!("sent `{method}` to {peer}")),
            Sign::Answer(kind) => ("stratum_answer", w.stratum_answer, format!("{peer} answered with {kind}")),
            Sign::Submit(method) => ("submit_block", w.submit_block, format!("sent `{method}` to {peer}")),
            Sign::Work { method, wallet } => {
                let Some(suspect) = self.suspect(event.process, cx) else {
                    return false;
                };
                suspect.work_calls += 1;
                if suspect.work_calls < 2 {
                    return false;
                }
                let weight = if wallet { w.template_for_wallet } else { w.getwork };
                ("getwork", weight, format!("asks {peer} for work again and again (`{method}`)"))
            }
            Sign::Proxy(host) => match cx.settings.pool(&host) {
                Some(_) => ("pool_proxy", w.pool_proxy, format!("asks the proxy {peer} for {host}")),
                None => return false,
            },
            Sign::ServerName { host, web } => match (cx.settings.pool(&host), web) {
                (Some(PoolName::Pool), false) => ("pool_sni", w.pool_sni, format!("TLS to {host} at {peer}")),
                (Some(_), _) => {
                    self.not_a_pool(event.process, w.pool_site);
                    ("pool_sni", w.pool_site, format!("TLS to {host} at {peer}"))
                }
                (None, _) => {
                    // The address is shared (a CDN): the name asked for is what counts.
                    self.not_a_pool(event.process, 0);
                    return false;
                }
            },
            Sign::Web => {
                self.not_a_pool(event.process, w.pool_site);
                return false;
            }
        };
        let Some(suspect) = self.suspect(event.process, cx) else {
            return false;
        };
        suspect.connected = true;
        suspect.peer = Some(peer);
        add(suspect, event, what, weight, detail);
        true
    }

    /// The connection to a pool's address turned out to be something else.
    fn not_a_pool(&mut self, process: ProcessKey, weight: u32) {
        if let Some(suspect) = self.suspects.get_mut(&process) {
            for e in suspect.evidence.iter_mut().filter(|e| e.what == "pool_connect") {
                e.weight = e.weight.min(weight);
            }
        }
    }

    fn suspect(&mut self, key: ProcessKey, cx: &Context<'_>) -> Option<&mut Suspect> {
        let generation = cx.processes.get(key).map_or(0, |p| p.generation);
        let suspect = self.suspects.entry(key, Suspect::default)?;
        suspect.generation = suspect.generation.max(generation);
        Some(suspect)
    }

    fn judge(&mut self, key: ProcessKey, cx: &Context<'_>) -> Option<Detection> {
        let inherited = self.inherited(key, cx);
        let suspect = self.suspects.get_mut(&key)?;
        for evidence in inherited {
            if !suspect.evidence.iter().any(|e| e.what == evidence.what) {
                suspect.evidence.push(evidence);
            }
        }
        // The connection may be older than the first evidence.
        if let Some(outbound) = cx.processes.outbound(key).next() {
            suspect.connected = true;
            suspect.peer = suspect.peer.or(Some(outbound.peer));
        }
        let score = score(&suspect.evidence);
        let kill = score >= cx.settings.miner_kill;
        if !suspect.connected || score < cx.settings.miner_alert || suspect.told_kill {
            return None;
        }
        if suspect.told && !kill {
            return None;
        }
        suspect.told = true;
        suspect.told_kill = kill;
        let mut evidence = suspect.evidence.clone();
        evidence.sort_by_key(|e| std::cmp::Reverse(e.weight));
        let peer = suspect.peer;
        let to = peer.map_or_else(String::new, |p| format!(" with {p}"));
        let message = format!("{} mines{to} (score {score})", cx.describe(key));
        let mut detection = Detection::new(FindingKind::Miner, key, message);
        detection.evidence = evidence;
        detection.peer = peer;
        detection.alert_only = !kill;
        detection.accomplices = self.watchdog(key, cx).into_iter().collect();
        Some(detection)
    }

    /// A thread pool forked after the exec: what the program's own start showed counts for it.
    fn inherited(&self, key: ProcessKey, cx: &Context<'_>) -> Vec<Evidence> {
        cx.processes
            .same_program(key)
            .skip(1)
            .filter_map(|p| self.suspects.get(&p.key))
            .flat_map(|s| s.evidence.iter())
            .filter(|e| {
                matches!(
                    e.what.as_str(),
                    "miner_name" | "miner_argument" | "miner_argument_2" | "drift" | "msr" | "huge_pages"
                )
            })
            .cloned()
            .collect()
    }

    /// The shell loop that starts the miner again, once it has done so.
    fn watchdog(&mut self, key: ProcessKey, cx: &Context<'_>) -> Option<ProcessKey> {
        let process = cx.processes.get(key)?;
        let parent = cx.processes.parent(key)?;
        let entry = (parent.key, process.program.exe.clone());
        let count = self.respawns.entry(entry, || 0)?;
        *count += 1;
        // The container's first process is the service itself: never along with the miner.
        let inner = cx.processes.entered(parent.key) == Some(false);
        let same = parent.container == process.container;
        (*count >= RESPAWNS && inner && same && parent.has(state::TASK_SHELL)).then_some(parent.key)
    }
}

#[cfg(test)]
mod tests;
