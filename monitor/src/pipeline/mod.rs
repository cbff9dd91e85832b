//! The one way through: event → container and lineage → detectors → response → output. One thread,
//! fed through one bounded queue by the drain, the engine client and the signal thread.

mod account;
mod baselines;
mod canaries;
mod compile;
mod excepted;
mod facts;
mod finding;
mod held_back;
mod incident;
mod losses;
mod older;
mod orders;
pub mod replay;
mod stranger;
mod told;

pub use account::Account;
pub use canaries::View as CanaryView;
pub use compile::{Compiled, classify, fill_maps};
pub use excepted::ExceptionView;
pub use held_back::View as HeldBackView;
pub use incident::Incidents;
pub use orders::{Settings as ResponseSettings, stop_report};
pub use stranger::{Gate, gate};

use crate::baseline::{self, Baselines};
use crate::container::Registry;
use crate::container::docker::Notice as EngineNotice;
use crate::container::host_mounts::HostMounts;
use crate::container::registry::Change;
use crate::control::Order;
use crate::detect::{ContainerFacts as _, Context, Detectors};
use crate::event::{Attempt, Body, Cgroup, ContainerKey, Event, HOST, Verdict};
use crate::finding::{Detection, Finding, Outcome};
use crate::kernel::clock::boot_ns;
use crate::kernel::maps::Maps;
use crate::output::notice::NoticeKind;
use crate::output::{Events, Notice, Output};
use crate::provenance::ProcessTable;
use crate::recording::{Notes, Taps, Wish};
use crate::respond::{self, Held, Means};
use crate::response::{Origin, Report};
use crate::startup::STARTUP_ID;
use crate::startup::own::Own;
use crate::{container, kernel::classes};
use facts::Facts;
use losses::{Loss, Losses};
use older::Older;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Findings kept for an amendment while a container's metadata is incomplete.
const UNAMENDED: usize = 1024;

/// What the pipeline's queue carries.
#[derive(Debug)]
pub enum Input {
    /// A kernel event. In a box, as the queue has the room of its longest for all that it can hold.
    Event(Box<Event>),
    /// The engine client has something.
    Engine(EngineNotice),
    /// An order on the control socket.
    Order(Box<Order>),
    /// Somebody records.
    Record(Wish),
    /// A process of a container has come to the control socket.
    Stranger(u32),
    /// The engine has stopped a container, or not.
    Stopped(ContainerKey, Box<Report>),
    /// SIGHUP: a new configuration that has been checked already.
    Reload(Box<Compiled>),
    /// SIGTERM or SIGINT.
    Stop,
    /// Another daemon takes over.
    Handover,
}

/// What is to be done after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next one.
    Go,
    /// The end.
    Stop,
    /// The end, for another daemon to go on.
    Handover,
}

/// What the pipeline is made of.
pub struct Parts {
    /// The kernel half's maps.
    pub maps: Maps,
    /// The containers.
    pub registry: Registry,
    /// The configuration.
    pub compiled: Compiled,
    /// Where alerts go.
    pub output: Output,
    /// Where all events go.
    pub events: Option<Events>,
    /// Counts for `status`.
    pub counts: Arc<Counts>,
    /// Bookkeeping of records.
    pub account: Account,
    /// What is Bulkhead's own.
    pub own: Own,
    /// What containers are stopped and cut off with.
    pub responses: ResponseSettings,
    /// What daemons before this one have found.
    pub incidents: Incidents,
    /// Where cgroups of canaries are made; why there is no such place.
    pub canary_home: Result<PathBuf, String>,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(Box::new(event))
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
    /// Records lost on any way, all daemons since the maps were made.
    pub lost: AtomicU64,
    /// Processes remembered now.
    pub processes: AtomicU64,
    /// Containers that are quarantined or frozen.
    pub held: Mutex<Vec<respond::held::View>>,
    /// What baselines came to.
    pub baselines: Mutex<baseline::live::Counts>,
    /// How long ago each was seen to be enforced.
    pub canaries: Mutex<Vec<CanaryView>>,
    /// What the kernel half counted instead of telling it.
    pub held_back: Mutex<Vec<HeldBackView>>,
    /// The exceptions of the configuration.
    pub exceptions: Mutex<Vec<ExceptionView>>,
    /// The global mode's name; a reload may change it.
    pub mode: Mutex<&'static str>,
}

/// Every so many seconds it is asked which programs the kernel left out: where it preempts them that is often, and
/// one notice is to sum it up.
const MISSED_TICKS: u32 = 5;

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
    events: Option<Events>,
    counts: Arc<Counts>,
    account: Account,
    /// Findings about containers whose metadata is incomplete, oldest first.
    unamended: VecDeque<Finding>,
    losses: Losses,
    serial: u64,
    ticks: u32,
    incidents: Incidents,
    baselines: Baselines,
    /// Those that are in the kernel, by name.
    profiles: HashMap<String, baselines::Compiled>,
    /// Containers to be held to theirs as soon as their first process is known.
    unheld: HashSet<ContainerKey>,
    /// Whether they are still enforced.
    canaries: canaries::Canaries,
    /// What the kernel half had counted of each container at the last look.
    counted: HashMap<ContainerKey, monitor_common::state::Held>,
    /// What is still to be told of them.
    untold: Vec<baseline::live::Told>,
    /// Today, by which exceptions end.
    day: jiff::civil::Date,
    held: Held,
    own: Own,
    stop: Option<respond::Stop>,
    taps: Taps,
}

impl Pipeline {
    /// Puts the stages together.
    pub fn new(parts: Parts) -> Self {
        let Parts { maps, registry, compiled, output, events, counts, account, own, responses, incidents, canary_home } =
            parts;
        let mounts = HostMounts::read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the host's mounts cannot be read: writes to them are not told from others");
            HostMounts::from_mountinfo("")
        });
        let notes = Notes::default();
        let (baselines, untold) = Baselines::new(compiled.baseline.clone());
        let resolver = notes.taken_of(Box::new(older::FromProc::new(registry.clone())));
        Self {
            facts: Facts::new(registry.clone(), mounts, compiled.settings.drift_alert, notes.clone()),
            processes: ProcessTable::default().with_resolver(resolver),
            detectors: Detectors::new(),
            older: Older::default(),
            unamended: VecDeque::new(),
            losses: Losses::new(maps.ledger.losses_told()),
            serial: 0,
            ticks: 0,
            incidents,
            baselines,
            profiles: HashMap::new(),
            unheld: HashSet::new(),
            canaries: canaries::Canaries::new(canary_home),
            counted: HashMap::new(),
            untold,
            day: respond::exceptions::today(),
            held: Held::new(responses.unified, responses.packets),
            stop: responses.stop,
            taps: Taps::new(notes),
            own,
            maps,
            registry,
            compiled,
            output,
            events,
            counts,
            account,
        }
    }

    /// Takes over what runs already: containers, their policy, their processes; and judges it by
    /// the same rules. A process that starts meanwhile is known to the kernel half already.
    pub fn take_over(&mut self) {
        self.heed_exceptions();
        let quarantined = self.quarantined_before();
        for change in self.registry.scan() {
            self.changed(&change);
        }
        self.inherit(quarantined);
        self.own.tell(&mut self.maps, &self.registry);
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
        let untold = std::mem::take(&mut self.untold);
        self.tell_baselines(untold);
        self.hold_all();
        self.account.set_rules(self.compiled.rules_id);
        self.maps.ledger.set_handover(&self.account.handover());
    }

    /// Handles one input.
    pub fn on_input(&mut self, input: Input) -> Flow {
        match input {
            Input::Event(event) if self.canaries.is_own(event.container) => {
                // Of processes the host may know of.
                if matches!(event.body, Body::Exit { .. }) {
                    self.processes.apply(&event);
                }
                self.account.judged();
                self.settle();
            }
            Input::Event(mut event) => {
                self.older.rename(&mut event);
                if let Some(events) = &mut self.events {
                    events.event(&event, self.registry.get(event.container).as_deref());
                }
                let copy = self.taps.before(&event, &self.registry);
                self.on_event(*event);
                self.taps.after(copy);
                self.account.judged();
                self.settle();
            }
            Input::Engine(notice) => self.on_engine(&notice),
            Input::Order(order) => self.on_order(&order),
            Input::Record(wish) => {
                self.taps.begin(wish, &self.registry, &self.processes);
                self.hold_back();
            }
            Input::Stranger(tgid) => self.on_stranger(tgid),
            Input::Stopped(key, report) => self.on_stopped(key, *report),
            Input::Reload(compiled) => self.reload(*compiled),
            Input::Stop => return Flow::Stop,
            Input::Handover => return Flow::Handover,
        }
        Flow::Go
    }

    /// Notes how many records are dealt with. True if some wait for the outputs.
    pub fn settle(&mut self) -> bool {
        if let Some(handover) = self.account.settle(&self.output, self.events.as_ref()) {
            self.maps.ledger.set_handover(&handover);
        }
        self.account.is_pending()
    }

    fn on_event(&mut self, event: Event) {
        self.counts.events.fetch_add(1, Ordering::Relaxed);
        if let Body::Cgroup(cgroup) = &event.body {
            self.on_cgroup(cgroup);
            return;
        }
        tracing::trace!(?event);
        if matches!(event.body, Body::Tamper { attempt: Attempt::Cgroup, .. }) && event.prevented() {
            self.own.go_home();
        }
        self.facts.see(&event);
        self.processes.apply(&event);
        if matches!(event.body, Body::Exec(_)) && self.unheld.remove(&event.container) {
            self.hold(event.container);
        }
        let cx = Context { processes: &self.processes, settings: &self.compiled.settings, containers: &self.facts };
        let mut detections = self.detectors.on_event(&event, &cx);
        detections.extend(baselines::on_event(&mut self.baselines, &mut self.detectors, &event, &detections, &cx));
        if detections.is_empty() && event.verdict != Verdict::Observed {
            tracing::debug!(id = event.id, reason = ?event.reason, "the kernel half acted and no detector has a finding of its own");
        }
        for detection in detections {
            self.found(&event, detection);
        }
        self.older.forget_if_over(&event);
    }

    /// Acts on a detection and reports it.
    fn found(&mut self, event: &Event, mut detection: Detection) {
        if let Some(reason) = detection.excepted.take() {
            self.excepted(event, detection, reason);
            return;
        }
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
        let told = self.is_told(event, &detection);
        if detection.repeat {
            self.incident(event, &detection);
        }
        let id = (!detection.repeat && !told).then(|| self.report(event, detection, acted.outcome));
        let origin = Origin::Finding { id, kind };
        let pursued = acted.hunt.and_then(|hunt| self.held.pursue(&mut self.maps, &self.registry, hunt));
        for report in acted.reports.into_iter().chain(pursued) {
            self.responded(event.container, origin.clone(), report);
        }
        if stopping && !self.held.is_stopping(event.container) {
            self.held.stopping(event.container, origin);
        }
    }

    /// Did a daemon before this one report it? It is remembered for the next.
    fn is_told(&mut self, event: &Event, detection: &Detection) -> bool {
        if detection.repeat {
            return false;
        }
        let key = told::key(detection.kind, detection.culprit);
        if event.id & STARTUP_ID != 0 && self.maps.ledger.was_told(&key) {
            tracing::debug!(kind = ?detection.kind, pid = detection.culprit.tgid, "told by a daemon before this one");
            return true;
        }
        self.maps.ledger.tell(&key, event.time_ns);
        false
    }

    /// Reports a detection under an id of its own, which is answered.
    fn report(&mut self, event: &Event, detection: Detection, outcome: Outcome) -> String {
        let finding = self.finding(event, detection, outcome, None);
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
            // 64 hex digits, and yet no container: a monitor process's scope. One that is known is told of again where it
            // was found by a scan before, or while former programs are still attached beside these.
            None if !cgroup.gone && !self.registry.knows(cgroup.id) => self.maps.forget(cgroup.id),
            None => {}
        }
    }

    fn changed(&mut self, change: &Change) {
        if change.gone {
            self.maps.forget(change.cgroup);
            if change.is_container() {
                self.facts.forget(change.container);
                self.taps.gone(change.container);
                self.maps.release(change.container);
                self.unheld.remove(&change.container);
                self.forget_responses(change.container);
            }
            return;
        }
        let Some(container) = self.registry.get(change.container) else { return };
        if !self.is_confirmed(change.cgroup, &container) {
            self.maps.set_policy(change.cgroup, &self.held.policy(&self.compiled.rules, &container));
        }
        self.fingerprint(&container);
        if change.is_container() && container.metadata.complete {
            self.bind_baseline(&container);
            self.judge_image(change.container);
        }
    }

    /// Has a daemon before this one matched the container, by the same rules, with labels and an image that
    /// are not known here yet? Then its policy holds until they are.
    fn is_confirmed(&self, cgroup: u64, container: &container::registry::Container) -> bool {
        self.compiled.engine
            && !container.metadata.complete
            && self.account.handover().rules == self.compiled.rules_id
            && self.maps.policy(cgroup).is_some_and(|policy| {
                policy.root == container.key && policy.flags & monitor_common::policy::POLICY_CONFIRMED != 0
            })
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
        self.bind_baseline(&container);
        self.judge_image(key);
    }

    fn judge_image(&mut self, key: ContainerKey) {
        let Some(container) = self.registry.get(key) else { return };
        let Some(found) = self.compiled.denylist.check_container(&container.metadata) else { return };
        if !self.facts.first_bad_image(key) {
            return;
        }
        self.baselines.is_bad(key);
        let detection = container::denylist::detection(&container.metadata, &found);
        let told = told::container(key);
        if self.maps.ledger.was_told(&told) {
            return;
        }
        self.maps.ledger.tell(&told, boot_ns());
        let event = facts::container_event(&self.registry, key);
        if let Some(reason) = self.facts.excepted(&event, &detection, &self.processes) {
            self.excepted(&event, detection, reason);
            return;
        }
        self.report(&event, detection, Outcome::Observed);
    }

    fn reload(&mut self, compiled: Compiled) {
        self.compiled = compiled;
        self.facts.drift_alert(self.compiled.settings.drift_alert);
        let told = self.baselines.configure(self.compiled.baseline.clone());
        self.tell_baselines(told);
        // What is compiled depends on the configuration too.
        self.profiles.clear();
        self.hold_all();
        fill_maps(&mut self.maps, &self.compiled);
        self.account.set_rules(self.compiled.rules_id);
        self.heed_exceptions();
        *self.counts.mode.lock().unwrap_or_else(PoisonError::into_inner) = self.compiled.rules.default_mode.name();
        self.set_policies();
        self.output.notice(Notice::new(NoticeKind::State, "reloaded", "configuration reloaded"));
    }

    /// Writes the policy of every container anew.
    fn set_policies(&mut self) {
        self.maps.set_config(&self.compiled.kernel_config());
        for container in self.registry.live() {
            let policy = self.held.policy(&self.compiled.rules, &container);
            for cgroup in self.registry.cgroups_of(container.key) {
                self.maps.set_policy(cgroup, &policy);
            }
        }
    }

    /// Once a second: the heartbeat; responses are kept up with what containers do, and what the kernel half could
    /// not hand over is told.
    pub fn tick(&mut self) {
        self.maps.beat(boot_ns());
        self.own.tell(&mut self.maps, &self.registry);
        self.expire_exceptions();
        let told = self.baselines.tick(boot_ns());
        self.tell_baselines(told);
        self.canary_step();
        self.hold_back();
        self.count_held_back();
        for (container, report) in self.held.tick(&mut self.maps, &self.registry) {
            self.responded(container, Origin::Daemon, report);
        }
        for loss in self.losses.due(boot_ns(), &self.maps.losses()) {
            self.lost(&loss);
        }
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(MISSED_TICKS) {
            let missed = self.maps.missed.grown();
            if !missed.is_empty() {
                self.output.notice(Notice::missed_runs(&missed));
            }
        }
        if let Some(lost) = self.account.lost_with_former() {
            self.output.notice(Notice::handover_loss(lost));
        }
        self.settle();
        let handover = self.account.handover();
        self.maps.ledger.set_handover(&handover);
        self.counts.lost.store(handover.lost + self.maps.ring_full(), Ordering::Relaxed);
        self.counts.processes.store(self.processes.len() as u64, Ordering::Relaxed);
    }

    /// Tells of a container whose records found no room.
    fn lost(&mut self, loss: &Loss) {
        self.baselines.unsure(loss.container);
        if loss.is_new {
            let event = facts::container_event(&self.registry, loss.container);
            self.report(&event, loss.detection(&event), Outcome::Observed);
        }
        let view = self.registry.view(loss.container);
        self.output.notice(Notice::event_loss(&view.id, &loss.kinds));
        for (key, count) in &loss.counts {
            self.maps.ledger.tell_loss(key, *count);
        }
    }

    /// Is enforcement to end with the daemon?
    pub fn releases(&self) -> bool {
        self.compiled.release
    }

    /// Ends the stages and writes what waits; `false` if that took longer than `patience`.
    pub fn stop(mut self, why: &str, patience: Duration) -> bool {
        let told = self.baselines.write(boot_ns());
        self.tell_baselines(told);
        self.output.notice(Notice::stopped(why));
        let events = self.events.take().is_none_or(|events| events.close(patience));
        let written = self.output.close(patience) && events;
        if written {
            self.maps.ledger.set_handover(&self.account.all_written());
        }
        written
    }
}
