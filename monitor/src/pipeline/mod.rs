//! The one way through: event → container and lineage → detectors → response → output. One thread,
//! fed through one bounded queue by the drain, the engine client and the signal thread.

mod compile;
mod facts;
mod finding;
mod older;
mod orders;

pub use compile::{Compiled, boot_ns, classify, fill_maps};
pub use orders::{Settings as ResponseSettings, stop_report};

use crate::container::Registry;
use crate::container::docker::Notice as EngineNotice;
use crate::container::host_mounts::HostMounts;
use crate::container::registry::Change;
use crate::control::Order;
use crate::detect::{Context, Detectors};
use crate::event::{Body, Cgroup, ContainerKey, Event, HOST, Verdict};
use crate::finding::{Detection, Finding, Outcome};
use crate::kernel::loader::Maps;
use crate::output::notice::NoticeKind;
use crate::output::{Notice, Output};
use crate::provenance::ProcessTable;
use crate::respond::{self, Held, Means};
use crate::response::{Origin, Report};
use crate::{container, kernel::classes};
use facts::Facts;
use older::Older;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Findings kept for an amendment while a container's metadata is incomplete.
const UNAMENDED: usize = 1024;

/// What the pipeline's queue carries.
#[derive(Debug)]
pub enum Input {
    /// A kernel event.
    Event(Event),
    /// The engine client has something.
    Engine(EngineNotice),
    /// An order on the control socket.
    Order(Box<Order>),
    /// The engine has stopped a container, or not.
    Stopped(ContainerKey, Box<Report>),
    /// SIGHUP: a new configuration that has been checked already.
    Reload(Box<Compiled>),
    /// SIGTERM or SIGINT.
    Stop,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// Counts for `status`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Events judged.
    pub events: AtomicU64,
    /// Findings reported.
    pub findings: AtomicU64,
    /// Of these, acts that were denied or killed.
    pub prevented: AtomicU64,
    /// Records the kernel half lost, all containers and kinds.
    pub lost: AtomicU64,
    /// Processes remembered now.
    pub processes: AtomicU64,
    /// Containers that are quarantined or frozen.
    pub held: Mutex<Vec<respond::held::View>>,
}

/// See the module.
pub struct Pipeline {
    maps: Maps,
    registry: Registry,
    compiled: Compiled,
    processes: ProcessTable,
    detectors: Detectors,
    facts: Facts,
    older: Older,
    output: Output,
    counts: Arc<Counts>,
    /// Findings about containers whose metadata is incomplete, oldest first.
    unamended: VecDeque<Finding>,
    losses: HashMap<(ContainerKey, u32), u64>,
    serial: u64,
    held: Held,
    stop: Option<respond::Stop>,
}

impl Pipeline {
    /// Puts the stages together.
    pub fn new(
        maps: Maps,
        registry: Registry,
        compiled: Compiled,
        output: Output,
        counts: Arc<Counts>,
        responses: ResponseSettings,
    ) -> Self {
        let mounts = HostMounts::read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the host's mounts cannot be read: writes to them are not told from others");
            HostMounts::from_mountinfo("")
        });
        Self {
            facts: Facts::new(registry.clone(), mounts, compiled.settings.drift_alert),
            processes: ProcessTable::default().with_resolver(Box::new(older::FromProc::new(registry.clone()))),
            detectors: Detectors::new(),
            older: Older::default(),
            unamended: VecDeque::new(),
            losses: HashMap::new(),
            serial: 0,
            held: Held::new(responses.unified, responses.packets),
            stop: responses.stop,
            maps,
            registry,
            compiled,
            output,
            counts,
        }
    }

    /// Takes over what runs already: containers, their policy, their processes; and judges it by
    /// the same rules. A process that starts meanwhile is known to the kernel half already.
    pub fn take_over(&mut self) {
        for change in self.registry.scan() {
            self.changed(&change);
        }
        let lists = &self.compiled.lists;
        let host = self.compiled.watch_host;
        let events = crate::startup::scan(&self.registry, &|name, print| classify(lists, name, print), host);
        match events {
            Ok(events) => {
                for event in events {
                    self.older.note(&mut self.maps, &event);
                    self.on_event(event);
                }
            }
            Err(error) => {
                tracing::error!(%error, "what already runs could not be read; only what starts from now on is judged")
            }
        }
    }

    /// Handles one input; false to stop.
    pub fn on_input(&mut self, input: Input) -> bool {
        match input {
            Input::Event(mut event) => {
                self.older.rename(&mut event);
                self.on_event(event);
            }
            Input::Engine(notice) => self.on_engine(&notice),
            Input::Order(order) => self.on_order(&order),
            Input::Stopped(key, report) => self.on_stopped(key, *report),
            Input::Reload(compiled) => self.reload(*compiled),
            Input::Stop => return false,
        }
        true
    }

    fn on_event(&mut self, event: Event) {
        self.counts.events.fetch_add(1, Ordering::Relaxed);
        if let Body::Cgroup(cgroup) = &event.body {
            self.on_cgroup(cgroup);
            return;
        }
        tracing::trace!(?event);
        self.facts.see(&event);
        self.processes.apply(&event);
        let cx = Context { processes: &self.processes, settings: &self.compiled.settings, containers: &self.facts };
        let detections = self.detectors.on_event(&event, &cx);
        if detections.is_empty() && event.verdict != Verdict::Observed {
            tracing::debug!(id = event.id, reason = ?event.reason, "the kernel half acted and no detector has a finding of its own");
        }
        for detection in detections {
            self.found(&event, detection);
        }
        self.older.forget_if_over(&event);
    }

    /// Acts on a detection and reports it.
    fn found(&mut self, event: &Event, detection: Detection) {
        let descendants = self.processes.descendants(detection.culprit);
        let mut means = Means {
            rules: &self.compiled.rules,
            registry: &self.registry,
            reflex: &mut self.maps,
            held: &mut self.held,
            stop: self.stop.as_ref(),
        };
        let acted = respond::act(&mut means, event, &detection, &descendants);
        let (kind, stopping) = (detection.kind, acted.outcome == Outcome::Stopping);
        let id = (!detection.repeat).then(|| self.report(event, detection, acted.outcome));
        let origin = Origin::Finding { id, kind };
        let pursued = acted.hunt.and_then(|hunt| self.held.pursue(&mut self.maps, &self.registry, hunt));
        for report in acted.reports.into_iter().chain(pursued) {
            self.responded(event.container, origin.clone(), report);
        }
        if stopping && !self.held.is_stopping(event.container) {
            self.held.stopping(event.container, origin);
        }
    }

    /// Reports a detection under an id of its own, which is answered.
    fn report(&mut self, event: &Event, detection: Detection, outcome: Outcome) -> String {
        self.serial += 1;
        let view = self.registry.view(event.container);
        let finding = finding::complete(event, detection, outcome, view, &self.processes, self.serial);
        self.counts.findings.fetch_add(1, Ordering::Relaxed);
        if matches!(finding.outcome, Outcome::Denied { .. } | Outcome::Killed { .. }) {
            self.counts.prevented.fetch_add(1, Ordering::Relaxed);
        }
        if !finding.container.complete && finding.container_key != HOST {
            if self.unamended.len() >= UNAMENDED {
                self.unamended.pop_front();
            }
            self.unamended.push_back(finding.clone());
        }
        let id = finding.id.clone();
        self.output.finding(finding);
        id
    }

    fn on_cgroup(&mut self, cgroup: &Cgroup) {
        match self.registry.on_cgroup(cgroup) {
            Some(change) => self.changed(&change),
            // 64 hex digits, and yet no container: a monitor process's scope.
            None if !cgroup.gone => self.maps.forget(cgroup.id),
            None => {}
        }
    }

    fn changed(&mut self, change: &Change) {
        if change.gone {
            self.maps.forget(change.cgroup);
            if change.is_container() {
                self.facts.forget(change.container);
                self.forget_responses(change.container);
            }
            return;
        }
        let Some(container) = self.registry.get(change.container) else { return };
        self.maps.set_policy(change.cgroup, &self.held.policy(&self.compiled.rules, &container));
        self.fingerprint(&container);
        if change.is_container() && container.metadata.complete {
            self.judge_image(change.container);
        }
    }

    /// Learns what the image's shells and interpreters look like, so that a copy of one is known.
    fn fingerprint(&mut self, container: &container::registry::Container) {
        let Some(pid) = facts::some_process(&self.registry, container.key) else { return };
        for (path, bits) in compile::programs(&self.compiled.lists, &format!("/proc/{pid}/root")) {
            if let Some(print) = classes::fingerprint(&path) {
                self.maps.set_fingerprint(&print, bits);
            }
        }
    }

    fn on_engine(&mut self, notice: &EngineNotice) {
        match notice {
            EngineNotice::Completed(key) => self.completed(*key),
            EngineNotice::Connected { data_root } => {
                if let Some(root) = data_root {
                    self.facts.engine_root(root);
                }
                compile::runtime_sockets(&mut self.maps, &self.compiled.engine_socket);
            }
        }
    }

    /// A container's metadata has arrived: its policy may be another, its image may be a bad one,
    /// and alerts that went out without it are amended.
    fn completed(&mut self, key: ContainerKey) {
        let Some(container) = self.registry.get(key) else { return };
        if let Some(label) = respond::policy::invalid_label(&container) {
            tracing::warn!(container = %container.id, label, "label bulkhead.mode names no mode and is ignored");
        }
        let policy = self.held.policy(&self.compiled.rules, &container);
        for cgroup in self.registry.cgroups_of(key) {
            self.maps.set_policy(cgroup, &policy);
        }
        self.fingerprint(&container);
        let view = self.registry.view(key);
        let (amended, waiting) = self.unamended.drain(..).partition(|finding| finding.container_key == key);
        self.unamended = waiting;
        let amended: VecDeque<Finding> = amended;
        for mut finding in amended {
            finding.container = view.clone();
            finding.amendment = true;
            self.output.finding(finding);
        }
        self.judge_image(key);
    }

    fn judge_image(&mut self, key: ContainerKey) {
        let Some(container) = self.registry.get(key) else { return };
        let Some(found) = self.compiled.denylist.check_container(&container.metadata) else { return };
        if !self.facts.first_bad_image(key) {
            return;
        }
        let detection = container::denylist::detection(&container.metadata, &found);
        let event = facts::container_event(&self.registry, key);
        self.report(&event, detection, Outcome::Observed);
    }

    fn reload(&mut self, compiled: Compiled) {
        self.compiled = compiled;
        self.facts.drift_alert(self.compiled.settings.drift_alert);
        fill_maps(&mut self.maps, &self.compiled);
        self.maps.set_config(&self.compiled.kernel_config());
        for container in self.registry.live() {
            let policy = self.held.policy(&self.compiled.rules, &container);
            for cgroup in self.registry.cgroups_of(container.key) {
                self.maps.set_policy(cgroup, &policy);
            }
        }
        self.output.notice(Notice::new(NoticeKind::State, "reloaded", "configuration reloaded"));
    }

    /// Once a second: responses are kept up with what containers do, and what the kernel half could not hand
    /// over is told.
    pub fn tick(&mut self) {
        for (container, report) in self.held.tick(&mut self.maps, &self.registry) {
            self.responded(container, Origin::Daemon, report);
        }
        let mut total = 0;
        for (key, lost) in self.maps.losses() {
            total += lost;
            let before = self.losses.insert((key.container, key.kind), lost).unwrap_or(0);
            if lost > before {
                let view = self.registry.view(key.container);
                let kind = u16::try_from(key.kind).ok().and_then(|kind| crate::event::Kind::try_from(kind).ok());
                let kind = kind.map_or("unknown".to_owned(), |kind| format!("{kind:?}").to_lowercase());
                self.output.notice(Notice::event_loss(&view.id, &kind, lost - before));
            }
        }
        self.counts.lost.store(total, Ordering::Relaxed);
        self.counts.processes.store(self.processes.len() as u64, Ordering::Relaxed);
    }

    /// Ends the stages; what is left to do is to write what waits.
    pub fn stop(self, why: &str) -> Output {
        self.output.notice(Notice::stopped(why));
        self.output
    }
}
