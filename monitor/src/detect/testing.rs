//! Builders: a process table and events as the kernel half would send them.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::{ContainerFacts, Context, Detectors, NoFacts, Settings};
use crate::event::{
    Body, Connect, ConnectOp, ContainerKey, Event, Exec, File, Fingerprint, Form, Inode, Open, Origin, Payload,
    ProcessKey, Reason, Rung, Stdio, Verdict, state,
};
use crate::finding::{Detection, FindingKind};
use crate::provenance::ProcessTable;
use monitor_common::argv::{SCAN_LEN, Scan};
use std::net::SocketAddr;

pub const CONTAINER: ContainerKey = 4711;
pub const A: &str = "203.0.113.66:4444";

/// The peer's address.
pub fn peer(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A pipe as stdio.
pub fn pipe(ino: u64) -> Stdio {
    Stdio::Pipe(Inode { dev: 12, ino })
}

/// An outbound connection as stdio.
pub fn out(to: &str) -> Stdio {
    Stdio::InetOut(peer(to))
}

/// A table, detectors and a clock. Process 1 is the host's init, 2 the runtime (both outside), 5 the
/// container's first process.
pub struct Lab {
    pub table: ProcessTable,
    pub detectors: Detectors,
    pub settings: Settings,
    pub facts: Box<dyn ContainerFacts>,
    pub container: ContainerKey,
    clock: u64,
    next: u64,
}

impl Lab {
    pub fn new() -> Self {
        let mut lab = Self {
            table: ProcessTable::default(),
            detectors: Detectors::new(),
            settings: Settings::default(),
            facts: Box::new(NoFacts),
            container: state::HOST,
            clock: 1_000_000_000,
            next: 1,
        };
        lab.exec(3, 1, &["containerd-shim"]);
        lab.container = CONTAINER;
        lab.exec(5, 3, &["sleep", "600"]);
        lab.exec(9, 3, &["sh", "-c", "run"]);
        lab
    }

    pub fn key(pid: u32) -> ProcessKey {
        ProcessKey { tgid: pid, start_ns: u64::from(pid) * 1000 }
    }

    pub fn cx(&self) -> Context<'_> {
        Context { processes: &self.table, settings: &self.settings, containers: self.facts.as_ref() }
    }

    /// An event of this process, one millisecond after the last.
    pub fn event(&self, pid: u32, body: Body) -> Event {
        Event {
            id: self.next,
            time_ns: self.clock,
            process: Self::key(pid),
            tid: pid,
            uid: 0,
            container: self.container,
            verdict: Verdict::Observed,
            reason: Reason::None,
            rung: Rung::None,
            peer_tgid: None,
            body,
        }
    }

    pub fn advance(&mut self, ms: u64) {
        self.clock += ms * 1_000_000;
    }

    /// Sends an event through the table and all detectors.
    pub fn send(&mut self, event: Event) -> Vec<Detection> {
        self.next += 1;
        self.advance(1);
        self.table.apply(&event);
        let cx = Context { processes: &self.table, settings: &self.settings, containers: self.facts.as_ref() };
        self.detectors.on_event(&event, &cx)
    }

    pub fn act(&mut self, pid: u32, body: Body) -> Vec<Detection> {
        let event = self.event(pid, body);
        self.send(event)
    }

    pub fn act_for(&mut self, pid: u32, reason: Reason, body: Body) -> Vec<Detection> {
        let mut event = self.event(pid, body);
        event.reason = reason;
        self.send(event)
    }

    pub fn exec(&mut self, pid: u32, parent: u32, args: &[&str]) -> Vec<Detection> {
        let body = exec(parent, args);
        self.act(pid, Body::Exec(Box::new(body)))
    }

    pub fn exec_with(
        &mut self,
        pid: u32,
        parent: u32,
        args: &[&str],
        change: impl FnOnce(&mut Exec),
    ) -> Vec<Detection> {
        let mut body = exec(parent, args);
        change(&mut body);
        self.act(pid, Body::Exec(Box::new(body)))
    }

    pub fn fork(&mut self, pid: u32, parent: u32) {
        let comm = "x".into();
        self.act(pid, Body::Fork { parent: Self::key(parent), comm });
    }

    pub fn exit(&mut self, pid: u32) {
        self.act(pid, Body::Exit { code: 0 });
    }

    pub fn connect(&mut self, pid: u32, to: &str, cookie: u64) -> Vec<Detection> {
        self.act(pid, Body::Connect(self.connection(pid, to, cookie)))
    }

    /// The record of a connect, with the process's flags as the table has them.
    pub fn connection(&self, pid: u32, to: &str, cookie: u64) -> Connect {
        let flags = self.table.get(Self::key(pid)).map_or(0, |p| p.task_flags);
        Connect {
            peer: peer(to),
            protocol: if to.ends_with(":53") { 17 } else { 6 },
            cookie,
            op: ConnectOp::Connect,
            task_flags: flags | state::TASK_NET_OUT,
            sink_tgid: None,
            comm: "x".into(),
        }
    }

    pub fn payload(&mut self, pid: u32, to: &str, cookie: u64, inbound: bool, data: &[u8]) -> Vec<Detection> {
        let body = Payload {
            peer: peer(to),
            protocol: if to.ends_with(":53") { 17 } else { 6 },
            cookie,
            inbound,
            index: 0,
            segment: u32::try_from(data.len()).unwrap(),
            data: data.to_vec(),
        };
        self.act(pid, Body::Payload(Box::new(body)))
    }
}

/// An exec as the kernel half would tell it: class bits by name, form by arguments.
pub fn exec(parent: u32, args: &[&str]) -> Exec {
    let name = args[0].rsplit('/').next().unwrap();
    let class = match name {
        "sh" | "bash" | "dash" | "ash" | "zsh" => state::CLASS_SHELL | state::CLASS_FLAG_C,
        "python3" => state::CLASS_INTERPRETER | state::CLASS_FLAG_C,
        "perl" | "node" => state::CLASS_INTERPRETER | state::CLASS_FLAG_E,
        _ => 0,
    };
    let mut block: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
    let (length, complete) = (block.len().min(SCAN_LEN), block.len() <= SCAN_LEN);
    block.resize(SCAN_LEN, 0);
    let bytes: [u8; SCAN_LEN] = block.try_into().unwrap();
    let form = if class == 0 {
        Form::Unknown
    } else {
        let length = u32::try_from(length).unwrap();
        Scan::default().read(&bytes, length, complete, class, 1).form
    };
    let mut task_flags = 0;
    if class & state::CLASS_SHELL != 0 {
        task_flags |= state::TASK_SHELL;
    }
    if class & state::CLASS_INTERPRETER != 0 {
        task_flags |= state::TASK_INTERPRETER;
    }
    if form == Form::Stdin {
        task_flags |= state::TASK_READS_STDIN;
    }
    let ino = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let path = if args[0].starts_with('/') { args[0].to_owned() } else { format!("/usr/bin/{name}") };
    Exec {
        parent: Lab::key(parent),
        flags: 0,
        task_flags,
        form,
        exe: File { inode: Inode { dev: 1, ino }, path: path.into(), ..File::default() },
        fingerprint: Fingerprint::default(),
        stdio: [Stdio::Device, Stdio::Device, Stdio::Device],
        origin: None,
        comm: name.chars().take(15).collect(),
        filename: args[0].into(),
        args: args.iter().map(|a| (*a).into()).collect(),
        args_cut: false,
    }
}

/// An open of `path` with these `FILE_*` and `TASK_*` bits.
pub fn open(path: &str, flags: u32, task_flags: u32) -> Open {
    Open {
        file: File { inode: Inode { dev: 1, ino: 99 }, flags, path: path.into(), ..File::default() },
        origin: None,
        sensitive: Reason::None,
        task_flags,
    }
}

/// Bytes fetched by this process.
pub fn origin(pid: u32) -> Origin {
    Origin { process: Lab::key(pid), hops: 0, peer: Some(peer("203.0.113.66:80")), time_ns: 1 }
}

/// The kinds found.
pub fn kinds(found: &[Detection]) -> Vec<FindingKind> {
    found.iter().map(|d| d.kind).collect()
}
