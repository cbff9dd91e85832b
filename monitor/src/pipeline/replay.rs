//! Judging a recording: the same detectors on the same facts, with a configuration of one's choice. Nothing is asked of
//! this machine, so that the same recording and configuration give the same findings, byte for byte.

use super::facts::{Facts, standing_for};
use super::{Compiled, baselines, finding};
use crate::baseline::entry::What;
use crate::baseline::{Baseline, Baselines};
use crate::container::host_mounts::HostMounts;
use crate::container::registry::Container;
use crate::container::{self, Registry, hierarchy::Hierarchy};
use crate::detect::{ContainerFacts, Context, Detectors, looks_like_host_file};
use crate::event::{Body, ContainerKey, Event, File, HOST, Inode, ProcessKey};
use crate::finding::{Action, Detection, Finding};
use crate::output::Clock;
use crate::provenance::{Process, ProcessTable, Resolve};
use crate::recording::{Entry, Head, Notes, Question, Reader, RecordingError};
use crate::respond;
use jiff::Timestamp;
use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

/// A finding of a replay.
#[derive(Clone, Debug)]
pub struct Judged {
    /// As a daemon would report it. Its id and its latency are the recording's: no process made it, and no time passed.
    pub finding: Finding,
    /// What this configuration says is to be done; `None` where it touches nothing.
    pub due: Option<Action>,
}

/// What a replay went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events judged.
    pub events: u64,
    /// Events that the recording says are missing.
    pub lost: u64,
    /// Findings.
    pub findings: u64,
    /// Findings that an exception keeps back.
    pub excepted: u64,
    /// Acts that were compared with a baseline.
    pub compared: u64,
}

/// See the module.
pub struct Replay<'a> {
    compiled: &'a Compiled,
    registry: Registry,
    facts: Told,
    processes: ProcessTable,
    detectors: Detectors,
    resolved: Resolved,
    /// A candidate that the acts are compared with.
    candidate: Option<Baselines>,
    now_ns: u64,
    totals: Totals,
    /// Answers for the next event have come.
    has_answers: bool,
}

impl<'a> Replay<'a> {
    /// With a configuration.
    pub fn new(compiled: &'a Compiled) -> Self {
        let registry = Registry::new(Hierarchy::nowhere());
        let mounts = HostMounts::from_mountinfo("");
        let mut facts = Facts::new(registry.clone(), mounts, compiled.settings.drift_alert, Notes::default());
        facts.exceptions(&compiled.rules.exceptions);
        let resolved = Resolved::default();
        Self {
            compiled,
            facts: Told { facts, host_files: HashMap::new(), answers: HashMap::new() },
            processes: ProcessTable::default().with_resolver(Box::new(resolved.clone())),
            registry,
            detectors: Detectors::new(),
            resolved,
            candidate: None,
            now_ns: 0,
            totals: Totals::default(),
            has_answers: false,
        }
    }

    /// Judges a recording to its end and hands over each finding.
    ///
    /// # Errors
    /// The recording is damaged. What came before was judged.
    pub fn run(mut self, from: &mut Reader<impl Read>, found: impl FnMut(Judged)) -> Result<Totals, RecordingError> {
        self.read(from, found)?;
        Ok(self.totals)
    }

    /// Judges a recording to its end, as what comes after those that were read before.
    ///
    /// # Errors
    /// The recording is damaged. What came before was judged.
    pub fn read(&mut self, from: &mut Reader<impl Read>, mut found: impl FnMut(Judged)) -> Result<(), RecordingError> {
        self.now_ns = self.now_ns.max(from.head().boot_ns);
        while let Some(entry) = from.next_entry()? {
            self.take(entry, &mut found);
        }
        Ok(())
    }

    /// What it went through so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Judges a recording to its end: what a baseline does not expect of what came with no finding, and how often.
    ///
    /// # Errors
    /// The recording is damaged.
    pub fn against(
        mut self,
        from: &mut Reader<impl Read>,
        baseline: Baseline,
    ) -> Result<(Vec<(What, u64)>, Totals), RecordingError> {
        self.candidate = Some(Baselines::candidate(baseline, self.compiled.baseline.runtime_exec));
        self.now_ns = from.head().boot_ns;
        while let Some(entry) = from.next_entry()? {
            self.take(entry, &mut |_| {});
        }
        let counts = self.candidate.as_ref().map(Baselines::counts).unwrap_or_default();
        self.totals.compared = counts.conforming + counts.deviating;
        let noted = self.candidate.as_mut().map(Baselines::noted).unwrap_or_default();
        Ok((noted, self.totals))
    }

    fn take(&mut self, entry: Entry, found: &mut impl FnMut(Judged)) {
        self.has_answers |= matches!(entry, Entry::Resolved(_) | Entry::HostFile(..) | Entry::Answer(..));
        match entry {
            Entry::Event(event) => self.judge(&event, found),
            Entry::Container(container) => self.container(*container, found),
            Entry::Gone(key) => {
                self.facts.facts.forget(key);
                self.registry.forget(key);
            }
            Entry::Process(process) => {
                self.facts.facts.older(&process);
                self.processes.insert(*process);
            }
            Entry::Resolved(process) => self.resolved.put(*process),
            Entry::HostFile(inode, answer) => drop(self.facts.host_files.insert(inode, answer)),
            Entry::Answer(question, answer) => drop(self.facts.answers.insert(question, answer)),
            Entry::Lost(events) => self.totals.lost += events,
        }
    }

    fn judge(&mut self, event: &Event, found: &mut impl FnMut(Judged)) {
        self.totals.events += 1;
        self.now_ns = self.now_ns.max(event.time_ns);
        if matches!(event.body, Body::Cgroup(_)) {
            return;
        }
        self.facts.facts.see(event);
        self.processes.apply(event);
        let cx = Context { processes: &self.processes, settings: &self.compiled.settings, containers: &self.facts };
        let detections = self.detectors.on_event(event, &cx);
        if let Some(candidate) = &mut self.candidate {
            baselines::compare(candidate, event, &detections, &cx);
        }
        for detection in detections {
            self.report(event, detection, found);
        }
        if std::mem::take(&mut self.has_answers) {
            self.facts.host_files.clear();
            self.facts.answers.clear();
            self.resolved.clear();
        }
    }

    fn container(&mut self, container: Container, found: &mut impl FnMut(Judged)) {
        let (key, metadata) = (container.key, container.metadata.clone());
        self.registry.restore(container.clone());
        if let Some(candidate) = &mut self.candidate {
            for (event, act) in candidate.container(&container) {
                let cx =
                    Context { processes: &self.processes, settings: &self.compiled.settings, containers: &self.facts };
                if candidate.judge(&event, &act, &cx).is_some() {
                    candidate.note_deviation(&event, &act, &cx);
                }
            }
        }
        if !metadata.complete {
            return;
        }
        let Some(bad) = self.compiled.denylist.check_container(&metadata) else { return };
        if self.facts.facts.first_bad_image(key) {
            let detection = container::denylist::detection(&metadata, &bad);
            self.report(&standing_for(key, 0, self.now_ns), detection, found);
        }
    }

    fn report(&mut self, event: &Event, detection: Detection, found: &mut impl FnMut(Judged)) {
        if detection.repeat {
            return;
        }
        if detection.excepted.is_some() {
            self.totals.excepted += 1;
            return;
        }
        self.totals.findings += 1;
        let due = self.due(event.container, &detection);
        let view = self.registry.view(event.container);
        let outcome = respond::kernel_outcome(event);
        let mut finding = finding::complete(event, detection, outcome, view, &self.processes, self.totals.findings);
        finding.id = format!("{:x}-{:x}", event.id, self.totals.findings);
        found(Judged { finding, due });
    }

    /// What the configuration says about it.
    fn due(&self, container: ContainerKey, detection: &Detection) -> Option<Action> {
        let container = self.registry.get(container).filter(|container| container.key != HOST)?;
        let rules = &self.compiled.rules;
        let action = rules.action(detection.kind);
        let acts = action != Action::Alert && !detection.alert_only;
        (acts && respond::may_act(rules, &container)).then_some(action)
    }
}

/// The recording machine's clock, for the rows.
pub fn clock(head: &Head) -> Clock {
    Clock::fixed(Timestamp::from_nanosecond(i128::from(head.wall_ns)).unwrap_or(Timestamp::UNIX_EPOCH), head.boot_ns)
}

/// What the daemon knew of the containers.
struct Told {
    facts: Facts,
    host_files: HashMap<Inode, bool>,
    answers: HashMap<Question, Option<u64>>,
}

impl Told {
    fn said(&self, question: Question) -> Option<u64> {
        self.answers.get(&question).copied().flatten()
    }
}

impl ContainerFacts for Told {
    fn init(&self, container: ContainerKey) -> Option<ProcessKey> {
        self.facts.init(container)
    }

    fn started_ns(&self, container: ContainerKey) -> Option<u64> {
        self.facts.started_ns(container)
    }

    fn is_host_file(&self, _container: ContainerKey, file: &File) -> bool {
        self.host_files.get(&file.inode).copied().unwrap_or_else(|| looks_like_host_file(file))
    }

    fn excepted(&self, event: &Event, detection: &Detection, processes: &ProcessTable) -> Option<String> {
        self.facts.excepted(event, detection, processes)
    }

    fn shares_mounts(&self, container: ContainerKey, namespace: u64, except: u32) -> bool {
        self.said(Question::SharesMounts(container, namespace, except)) != Some(0)
    }

    fn is_own_user_namespace(&self, container: ContainerKey, namespace: u64) -> bool {
        self.said(Question::OwnUserNamespace(container, namespace)) != Some(0)
    }

    fn inner_pid(&self, tgid: u32) -> Option<u32> {
        self.said(Question::InnerPid(tgid)).and_then(|pid| u32::try_from(pid).ok())
    }

    fn drift_alerts(&self, container: ContainerKey) -> bool {
        self.facts.drift_alerts(container)
    }
}

/// What /proc answered.
#[derive(Clone, Default)]
struct Resolved(Arc<Mutex<HashMap<ProcessKey, Process>>>);

impl Resolved {
    fn put(&self, process: Process) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(process.key, process);
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Resolve for Resolved {
    fn resolve(&mut self, key: ProcessKey) -> Option<Process> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // With a start of 0 any will do: `Process::key` is as it was asked for.
        known.get(&key).cloned()
    }
}
