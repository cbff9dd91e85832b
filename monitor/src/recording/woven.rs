//! Recordings laid beside each other in time, over and over: a long recording of many containers made of short ones, to
//! measure judgement with. Each time they are other containers and processes, with pids of their own, so that nothing is
//! known from the time before; what they do, and when, is as it was recorded.

use super::{Entry, Head, Question, Reader, RecordingError};
use crate::container::registry::Container;
use crate::event::{Body, ContainerKey, Event, HOST, Origin, ProcessKey, Reached, Reason, Rung, Verdict};
use crate::provenance::Process;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

/// Pids of one recording are apart from those of the next; the kernel has as many (`PID_MAX_LIMIT`).
const PIDS: u32 = 1 << 22;
/// Time between the end of a round and the next.
const PAUSE_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Woven {
    head: Option<Head>,
    recordings: u64,
    /// When in a round, of which recording, in its order: what.
    entries: Vec<(u64, u64, Entry)>,
    span_ns: u64,
    events: u64,
}

impl Woven {
    /// Adds a recording. What still runs at its end ends there, and its containers go.
    ///
    /// # Errors
    /// It is damaged.
    pub fn add(&mut self, from: &mut Reader<impl Read>) -> Result<(), RecordingError> {
        let place = self.recordings;
        let began_ns = from.head().boot_ns;
        let base_ns = self.head.get_or_insert_with(|| from.head().clone()).boot_ns;
        let to_base = Shift { number: place, ns: base_ns.wrapping_sub(began_ns), pids: pids_of(place) };
        let (mut at_ns, mut running, mut containers) = (0, BTreeMap::new(), BTreeSet::new());
        let mut add = |at_ns, entry: Entry| {
            self.events += u64::from(matches!(entry, Entry::Event(_)));
            self.entries.push((at_ns, place, to_base.entry(entry)));
        };
        let mut waiting = Vec::new();
        while let Some(entry) = from.next_entry()? {
            note(&entry, &mut running, &mut containers);
            // What stands before an event belongs to it; an order by time must not part them.
            if let Entry::Event(event) = &entry {
                at_ns = event.time_ns.saturating_sub(began_ns).max(at_ns);
                waiting.drain(..).for_each(|entry| add(at_ns, entry));
                add(at_ns, entry);
            } else {
                waiting.push(entry);
            }
        }
        waiting.drain(..).for_each(|entry| add(at_ns, entry));
        for (process, container) in running {
            let exit = exit(process, container, began_ns.saturating_add(at_ns));
            add(at_ns, Entry::Event(exit));
        }
        containers.into_iter().for_each(|container| add(at_ns, Entry::Gone(container)));
        self.recordings += 1;
        self.span_ns = self.span_ns.max(at_ns + PAUSE_NS);
        Ok(())
    }

    /// Events of a round.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Of the first recording.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// One round as a recording of its own. Judged one after the other, they are one long recording.
    pub fn round(&mut self, number: u64) -> Vec<u8> {
        self.entries.sort_by_key(|(at_ns, place, _)| (*at_ns, *place));
        let Some(head) = &self.head else { return Vec::new() };
        let ns = self.span_ns.wrapping_mul(number);
        let shift = Shift { number: self.recordings.wrapping_mul(number), ns, pids: 0 };
        let mut bytes = Head { boot_ns: shift.time(head.boot_ns), ..head.clone() }.bytes();
        for (_, _, entry) in &self.entries {
            shift.entry(entry.clone()).write(&mut bytes);
        }
        bytes
    }
}

fn pids_of(place: u64) -> u32 {
    u32::try_from(place % 1024).unwrap_or(0) * PIDS
}

/// Who runs, and which containers are there.
fn note(entry: &Entry, running: &mut BTreeMap<ProcessKey, ContainerKey>, containers: &mut BTreeSet<ContainerKey>) {
    match entry {
        Entry::Container(container) => drop(containers.insert(container.key)),
        Entry::Gone(container) => drop(containers.remove(container)),
        Entry::Process(process) => drop(running.insert(process.key, process.container)),
        Entry::Event(event) => match event.body {
            Body::Exec(_) | Body::Fork { .. } => drop(running.insert(event.process, event.container)),
            Body::Exit { .. } => drop(running.remove(&event.process)),
            _ => {}
        },
        _ => {}
    }
}

fn exit(process: ProcessKey, container: ContainerKey, time_ns: u64) -> Event {
    Event {
        id: 0,
        time_ns,
        process,
        tid: process.tgid,
        uid: 0,
        container,
        verdict: Verdict::Observed,
        reason: Reason::None,
        rung: Rung::None,
        peer_tgid: None,
        body: Body::Exit { code: 0 },
    }
}

/// How numbers change. Those that mean that something is not known do not, nor do the host's own.
struct Shift {
    number: u64,
    ns: u64,
    pids: u32,
}

impl Shift {
    fn time(&self, ns: u64) -> u64 {
        if ns == 0 { 0 } else { ns.wrapping_add(self.ns) }
    }

    fn pid(&self, tgid: u32) -> u32 {
        if tgid <= 2 { tgid } else { tgid.wrapping_add(self.pids) }
    }

    fn process(&self, key: ProcessKey) -> ProcessKey {
        ProcessKey { tgid: self.pid(key.tgid), start_ns: self.time(key.start_ns) }
    }

    fn container(&self, key: ContainerKey) -> ContainerKey {
        if key <= HOST { key } else { key.wrapping_add(self.number << 36) }
    }

    /// Socket cookies and event ids.
    fn id(&self, id: u64) -> u64 {
        if id == 0 { 0 } else { id.wrapping_add(self.number << 28) }
    }

    fn entry(&self, entry: Entry) -> Entry {
        match entry {
            Entry::Container(container) => Entry::Container(Box::new(self.whole_container(*container))),
            Entry::Gone(key) => Entry::Gone(self.container(key)),
            Entry::Process(process) => Entry::Process(Box::new(self.whole_process(*process))),
            Entry::Resolved(process) => Entry::Resolved(Box::new(self.whole_process(*process))),
            Entry::Event(mut event) => {
                self.event(&mut event);
                Entry::Event(event)
            }
            Entry::Answer(question, answer) => Entry::Answer(self.question(question), answer),
            other @ (Entry::HostFile(..) | Entry::Lost(_)) => other,
        }
    }

    fn whole_container(&self, mut container: Container) -> Container {
        container.key = self.container(container.key);
        let tail = container.id.get(16..).unwrap_or_default().to_owned();
        container.id = format!("{:016x}{tail}", container.key);
        container
    }

    fn whole_process(&self, mut process: Process) -> Process {
        process.key = self.process(process.key);
        process.parent = process.parent.map(|parent| self.process(parent));
        process.container = self.container(process.container);
        process.exited_at = process.exited_at.map(|at| self.time(at));
        let program = Arc::make_mut(&mut process.program);
        program.exec_event = self.id(program.exec_event);
        program.time_ns = self.time(program.time_ns);
        for outbound in &mut process.outbound {
            outbound.cookie = self.id(outbound.cookie);
            outbound.time_ns = self.time(outbound.time_ns);
        }
        process
    }

    fn question(&self, question: Question) -> Question {
        match question {
            Question::SharesMounts(container, namespace, tgid) => {
                Question::SharesMounts(self.container(container), namespace, self.pid(tgid))
            }
            Question::OwnUserNamespace(container, namespace) => {
                Question::OwnUserNamespace(self.container(container), namespace)
            }
            Question::InnerPid(tgid) => Question::InnerPid(self.pid(tgid)),
        }
    }

    fn event(&self, event: &mut Event) {
        event.id = self.id(event.id);
        event.time_ns = self.time(event.time_ns);
        event.process = self.process(event.process);
        event.tid = self.pid(event.tid);
        event.container = self.container(event.container);
        event.peer_tgid = event.peer_tgid.map(|tgid| self.pid(tgid));
        match &mut event.body {
            Body::Exec(exec) => {
                exec.parent = self.process(exec.parent);
                self.origin(exec.origin.as_mut());
            }
            Body::Fork { parent, .. } => *parent = self.process(*parent),
            Body::Connect(connect) => {
                connect.cookie = self.id(connect.cookie);
                connect.sink_tgid = connect.sink_tgid.map(|tgid| self.pid(tgid));
            }
            Body::Open(open) => self.origin(open.origin.as_mut()),
            Body::Payload(payload) => payload.cookie = self.id(payload.cookie),
            Body::Cgroup(cgroup) => {
                (cgroup.id, cgroup.parent) = (self.container(cgroup.id), self.container(cgroup.parent));
            }
            Body::Reach(reach) => {
                if let Reached::Trace { container, tgid } = &mut reach.what {
                    (*container, *tgid) = (self.container(*container), self.pid(*tgid));
                }
            }
            Body::UnixPeer { listener } => *listener = self.pid(*listener),
            Body::Exit { .. } | Body::Moved { .. } | Body::UnixConnect { .. } | Body::Tamper { .. } => {}
        }
    }

    fn origin(&self, origin: Option<&mut Origin>) {
        if let Some(origin) = origin {
            origin.process = self.process(origin.process);
            origin.time_ns = self.time(origin.time_ns);
        }
    }
}
