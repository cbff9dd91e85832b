//! The process table: bounded, tolerant of missing and late events.

use super::process::{Neighbour, Outbound, Process, Program};
use crate::event::{Body, Connect, ConnectOp, ContainerKey, Event, Exec, HOST, ProcessKey};
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use smol_str::SmolStr;
use std::sync::Arc;

/// Ancestors that stay reachable however long ago they ended.
pub const ANCESTORS: usize = 16;

/// UDP in `IPPROTO_*`.
const UDP: u16 = 17;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Processes, living and ended. A node costs about 0.5 KiB, 1.5 KiB with long arguments.
    pub processes: usize,
    /// How long an ended process is remembered: curl is gone before bash has read its output.
    pub linger_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { processes: 8192, linger_ns: 60_000_000_000 }
    }
}

/// Fills in a process the events did not tell about: one that is older than the monitor, or whose
/// record comes later (verdicts have their own ring).
pub trait Resolve: Send {
    /// What is known of it, e.g. from /proc. Must check the start time.
    fn resolve(&mut self, key: ProcessKey) -> Option<Process>;
}

/// All processes that matter now.
pub struct ProcessTable {
    limits: Limits,
    nodes: HashMap<ProcessKey, Process>,
    by_tgid: HashMap<u32, ProcessKey>,
    /// Where processes were first seen and moved to; what has left since is taken out at the next sweep.
    by_container: HashMap<ContainerKey, HashSet<ProcessKey>>,
    resolver: Option<Box<dyn Resolve>>,
    now_ns: u64,
    swept_ns: u64,
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl ProcessTable {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        let (nodes, by_tgid, by_container) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { limits, nodes, by_tgid, by_container, resolver: None, now_ns: 0, swept_ns: 0 }
    }

    /// Asks `resolver` about processes that no event told of.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Box<dyn Resolve>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Takes an event in. To be called before the detectors see it.
    pub fn apply(&mut self, event: &Event) {
        self.now_ns = self.now_ns.max(event.time_ns);
        match &event.body {
            Body::Exec(exec) => self.exec(event, exec),
            Body::Fork { parent, comm } => self.fork(event, *parent, comm),
            Body::Exit { .. } => {
                if let Some(node) = self.nodes.get_mut(&event.process) {
                    node.exited_at = Some(event.time_ns);
                }
            }
            Body::Connect(connect) => self.connect(event, connect),
            Body::Open(open) => drop(self.flags(event, open.task_flags)),
            Body::Moved { task_flags, .. } => drop(self.flags(event, *task_flags)),
            Body::Reach(reach) => drop(self.flags(event, reach.task_flags)),
            Body::Payload(payload) if payload.inbound => {
                if let Some(node) = self.nodes.get_mut(&event.process) {
                    for out in node.outbound.iter_mut().filter(|o| o.cookie == payload.cookie) {
                        out.answered = true;
                    }
                }
            }
            Body::UnixPeer { listener } => self.neighbour(event, *listener),
            Body::Payload(_) | Body::UnixConnect { .. } | Body::Tamper { .. } => {
                self.ensure(event.process, event.container)
            }
            Body::Cgroup(_) => {}
        }
        self.sweep_if_due();
    }

    /// Puts in a process found by other means (the scan at start).
    pub fn insert(&mut self, process: Process) {
        self.put(process);
        self.sweep_if_due();
    }

    /// Number of processes held.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Nothing is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All that are held, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.nodes.values()
    }

    /// One process.
    pub fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.nodes.get(&key)
    }

    /// The youngest process that has or had this id.
    pub fn lookup_tgid(&self, tgid: u32) -> Option<&Process> {
        self.by_tgid.get(&tgid).and_then(|key| self.nodes.get(key))
    }

    /// Its parent.
    pub fn parent(&self, key: ProcessKey) -> Option<&Process> {
        self.get(key).and_then(|p| p.parent).and_then(|p| self.get(p))
    }

    /// Its ancestors, parent first, at most [`ANCESTORS`].
    pub fn ancestors(&self, key: ProcessKey) -> impl Iterator<Item = &Process> {
        let mut at = self.get(key);
        std::iter::from_fn(move || {
            at = at.and_then(|p| p.parent).and_then(|p| self.get(p));
            at
        })
        .take(ANCESTORS)
    }

    /// Its living descendants, in no particular order.
    pub fn descendants(&self, key: ProcessKey) -> Vec<ProcessKey> {
        // Most culprits have none, and to see that is cheap.
        if !self.nodes.values().any(|p| p.parent == Some(key)) {
            return Vec::new();
        }
        self.nodes
            .values()
            .filter(|p| p.alive() && self.ancestors(p.key).any(|a| a.key == key))
            .map(|p| p.key)
            .collect()
    }

    /// The living processes of a container.
    pub fn in_container(&self, container: ContainerKey) -> impl Iterator<Item = &Process> {
        let keys = self.by_container.get(&container).into_iter().flatten();
        keys.filter_map(|key| self.nodes.get(key)).filter(move |p| p.container == container && p.alive())
    }

    /// Top of the tree `key` belongs to: its outermost ancestor inside the same container. On the
    /// host the init process is left out, or everything would be one tree.
    pub fn tree_root(&self, key: ProcessKey) -> ProcessKey {
        let Some(process) = self.get(key) else {
            return key;
        };
        self.ancestors(key)
            .take_while(|a| a.container == process.container && a.key.tgid > 2)
            .last()
            .map_or(key, |a| a.key)
    }

    /// The process and those it was forked from without an exec in between: they hold the same
    /// descriptors.
    pub fn same_program(&self, key: ProcessKey) -> impl Iterator<Item = &Process> {
        let own = self.get(key);
        own.into_iter()
            .chain(self.ancestors(key).take_while(move |a| own.is_some_and(|o| Arc::ptr_eq(&a.program, &o.program))))
    }

    /// Connections the program of `key` has made, its fork parents' included; latest first.
    pub fn outbound(&self, key: ProcessKey) -> impl Iterator<Item = &Outbound> {
        self.same_program(key).flat_map(|p| p.outbound.iter().rev())
    }

    /// Was it started from outside its container (a runtime's exec, or the first process)?
    pub fn entered(&self, key: ProcessKey) -> Option<bool> {
        let process = self.get(key)?;
        self.parent(key).map(|parent| parent.container != process.container)
    }

    fn exec(&mut self, event: &Event, exec: &Exec) {
        self.ensure(exec.parent, HOST);
        let program = Arc::new(Program::new(exec, event.id, event.time_ns));
        self.place(event.process, event.container);
        let node = self.node(event.process, event.container);
        node.replaced = (!node.program.exe.is_empty()).then_some(node.program.inode);
        let replaced = std::mem::replace(&mut node.program, program);
        if event.container == HOST && node.generation > 0 && node.began_as.is_none() {
            node.began_as = Some(replaced);
        }
        node.generation += 1;
        node.comm.clone_from(&exec.comm);
        node.uid = event.uid;
        node.container = event.container;
        node.task_flags = exec.task_flags;
        node.outbound.clear();
        node.listening = false;
        // A fork record tells the true parent; the one seen at exec may be an adopter.
        if node.parent.is_none() && exec.parent != event.process {
            node.parent = Some(exec.parent);
        }
    }

    fn fork(&mut self, event: &Event, parent: ProcessKey, comm: &SmolStr) {
        self.ensure(parent, event.container);
        let inherited = self.get(parent).map(|p| (Arc::clone(&p.program), p.task_flags, p.listening, p.comm.clone()));
        let program = inherited.as_ref().map(|(program, ..)| Arc::clone(program));
        self.index(event.process);
        self.place(event.process, event.container);
        let make = || Process::running(event.process, event.container, program.unwrap_or_default());
        let node = self.nodes.entry(event.process).or_insert_with(make);
        if parent != event.process {
            node.parent = Some(parent);
        }
        // Its exec may have come first (verdicts have their own ring): then that counts.
        if node.generation == 0 {
            node.comm.clone_from(comm);
            node.container = event.container;
            node.uid = event.uid;
            if let Some((program, flags, listening, name)) = inherited {
                // Of a fork that is told late nobody knows it any more.
                if comm.is_empty() {
                    node.comm = name;
                }
                node.program = program;
                node.task_flags = flags;
                node.listening = listening;
            }
        }
    }

    fn connect(&mut self, event: &Event, connect: &Connect) {
        let Some(node) = self.flags(event, connect.task_flags) else { return };
        if node.comm.is_empty() {
            node.comm.clone_from(&connect.comm);
        }
        if connect.op == ConnectOp::Listen {
            node.listening = true;
        } else if !(connect.protocol == UDP && connect.peer.port() == 53) {
            // A name lookup carries nobody's commands or programs.
            node.connected(Outbound {
                peer: connect.peer,
                protocol: connect.protocol,
                cookie: connect.cookie,
                time_ns: event.time_ns,
                answered: false,
            });
        }
    }

    fn neighbour(&mut self, event: &Event, listener: u32) {
        self.ensure(event.process, event.container);
        let Some(listener) = self.by_tgid.get(&listener).copied() else { return };
        if let Some(node) = self.nodes.get_mut(&event.process) {
            node.speaks_to(Neighbour { listener, time_ns: event.time_ns });
        }
    }

    fn flags(&mut self, event: &Event, task_flags: u32) -> Option<&mut Process> {
        self.ensure(event.process, event.container);
        let node = self.nodes.get_mut(&event.process)?;
        node.task_flags = task_flags;
        Some(node)
    }

    /// Makes sure there is a node: from the resolver, else a bare one.
    fn ensure(&mut self, key: ProcessKey, container: ContainerKey) {
        if key.tgid == 0 || self.nodes.contains_key(&key) {
            return;
        }
        let resolved = self.resolver.as_mut().and_then(|r| r.resolve(key));
        // Without a resolver an unknown parent stays unknown: a made-up container would be a lie.
        if let Some(process) = resolved {
            self.put(process);
        } else if container != HOST {
            self.place(key, container);
            self.node(key, container);
        }
    }

    fn put(&mut self, process: Process) {
        self.index(process.key);
        self.place(process.key, process.container);
        self.nodes.insert(process.key, process);
    }

    /// The process is, or will be, in this container.
    fn place(&mut self, key: ProcessKey, container: ContainerKey) {
        if self.nodes.get(&key).is_none_or(|node| node.container != container) {
            self.by_container.entry(container).or_default().insert(key);
        }
    }

    /// The node, made bare if it is missing.
    fn node(&mut self, key: ProcessKey, container: ContainerKey) -> &mut Process {
        self.index(key);
        self.nodes.entry(key).or_insert_with(|| Process::unknown(key, container))
    }

    fn index(&mut self, key: ProcessKey) {
        let slot = self.by_tgid.entry(key.tgid).or_insert(key);
        if key.start_ns >= slot.start_ns {
            *slot = key;
        }
    }

    fn sweep_if_due(&mut self) {
        let due = self.now_ns.saturating_sub(self.swept_ns) >= self.limits.linger_ns / 6;
        if due || self.nodes.len() > self.limits.processes {
            self.swept_ns = self.now_ns;
            self.sweep();
        }
    }

    /// Forgets what ended long ago and no living process descends from; over the limit, of those containers
    /// that have more than their share, also what ended lately, then ancestors, then the oldest living.
    fn sweep(&mut self) {
        let mut needed: HashSet<ProcessKey> = HashSet::new();
        for process in self.nodes.values().filter(|p| p.alive()) {
            needed.extend(self.ancestors(process.key).map(|a| a.key));
        }
        let horizon = self.now_ns.saturating_sub(self.limits.linger_ns);
        let by_tgid = &mut self.by_tgid;
        self.nodes.retain(|key, p| {
            let stays = p.exited_at.is_none_or(|at| at > horizon) || needed.contains(key);
            if !stays {
                unindex(by_tgid, *key);
            }
            stays
        });
        if self.nodes.len() > self.limits.processes {
            self.shrink(&needed);
        }
        let nodes = &self.nodes;
        self.by_container.retain(|container, keys| {
            keys.retain(|key| nodes.get(key).is_some_and(|p| p.container == *container));
            !keys.is_empty()
        });
    }

    fn shrink(&mut self, needed: &HashSet<ProcessKey>) {
        // An eighth at a time, so that the next processes do not each pay for a sweep.
        let excess = self.nodes.len() - (self.limits.processes - self.limits.processes / 8);
        let mut by_container: HashMap<ContainerKey, usize> = HashMap::new();
        self.nodes.values().for_each(|p| *by_container.entry(p.container).or_default() += 1);
        // Someone is at least average; who floods is far above.
        let average = self.nodes.len() / by_container.len().max(1);
        let is_small = |p: &Process| by_container.get(&p.container).is_none_or(|count| *count < average);
        let mut order: Vec<(bool, u8, u64, ProcessKey)> = self
            .nodes
            .values()
            .map(|p| match p.exited_at {
                Some(at) if !needed.contains(&p.key) => (is_small(p), 0, at, p.key),
                Some(at) => (is_small(p), 1, at, p.key),
                None => (is_small(p), 2, p.key.start_ns, p.key),
            })
            .collect();
        // Only which ones, not their order.
        order.select_nth_unstable(excess);
        for (_, _, _, key) in order.into_iter().take(excess) {
            self.nodes.remove(&key);
            unindex(&mut self.by_tgid, key);
        }
    }
}

/// The process is forgotten: its id leads nowhere, unless it has come again.
fn unindex(by_tgid: &mut HashMap<u32, ProcessKey>, key: ProcessKey) {
    if by_tgid.get(&key.tgid) == Some(&key) {
        by_tgid.remove(&key.tgid);
    }
}
