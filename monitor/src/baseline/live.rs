//! Baselines at work: which container has which, what is learned, what deviates.

mod promote;

use super::entry::{Act, Seen, What};
use super::file::{Baseline, Identity, Stage};
use super::learn::{Held, Learner};
use super::observe::Observer;
use super::store::{News, Profile, Store};
use crate::config::RuntimeExec;
use crate::config::value::Glob;
use crate::container::denylist::spellings;
use crate::container::registry::Container;
use crate::detect::Context;
use crate::detect::bounded::Bounded;
use crate::event::{Body, ContainerKey, Event, HOST, Reason, file};
use crate::finding::{Detection, FindingKind};
use crate::output::Clock;
pub use promote::Promotion;
use promote::Watch;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Label by which a container says what its baseline is for: `off`, `learn`, `monitor`, `protect`.
pub const LABEL: &str = "bulkhead.baseline";
/// Containers remembered, those that are gone included: what they did is still to be learned.
const CONTAINERS: usize = 8192;
/// Acts kept of a container until it is known which image it is of, and containers with such.
const EARLY: usize = 64;
const EARLY_CONTAINERS: usize = 128;
/// How long a container's image may take to be known, ns: as long as the registry remembers a container that is gone.
const UNNAMED_NS: u64 = 60_000_000_000;

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where the files are.
    pub folder: PathBuf,
    /// Images that get a baseline if they have none.
    pub learn: Vec<Glob>,
    /// How long an act is held back, ns.
    pub settle_ns: u64,
    /// How often what was learned is written, ns.
    pub write_ns: u64,
    /// What sessions from outside are.
    pub runtime_exec: RuntimeExec,
    /// Programs that are not the image's are never expected.
    pub drift_lock: bool,
    /// What is promoted without a person.
    pub promotion: Promotion,
}

/// Numbers for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Baselines in force.
    pub files: usize,
    /// Files that are not accepted.
    pub refused: usize,
    /// Acts that were expected.
    pub conforming: u64,
    /// Acts that were not.
    pub deviating: u64,
    /// Acts that found no room to be learned.
    pub unlearned: u64,
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Of the folder.
    Folder(News),
    /// New entries were learned.
    Learned {
        /// Name of the baseline.
        name: String,
        /// So many.
        new: usize,
        /// Entries that became fewer.
        merged: Vec<String>,
        /// Acts that found no room in it.
        refused: u64,
    },
    /// What was seen cannot be written; it is tried again.
    Unwritten(String),
    /// It was quiet long enough.
    Promoted {
        /// Name of the baseline.
        name: String,
        /// Its mode from now on.
        to: Stage,
    },
}

/// What a container is to its baseline.
#[derive(Clone, Debug)]
struct Bound {
    identity: Identity,
    label: Option<Stage>,
    is_off: bool,
    /// Name of the baseline.
    name: Option<String>,
    stage: Option<Stage>,
    id: String,
}

/// See the module.
pub struct Baselines {
    settings: Settings,
    store: Store,
    observer: Observer,
    learner: Learner,
    bound: Bounded<ContainerKey, Bound>,
    known: Vec<ContainerKey>,
    early: BTreeMap<ContainerKey, Vec<(Event, Act)>>,
    watch: Watch,
    written_ns: u64,
    /// The last failure to write, so that it is told once.
    failure: Option<String>,
    counts: Counts,
}

impl Baselines {
    /// With what is in the folder; what is not accepted is told.
    pub fn new(settings: Settings) -> (Self, Vec<Told>) {
        let mut store = Store::new(&settings.folder);
        let news =
            store.refresh().into_iter().filter(|news| !matches!(news, News::Changed(_))).map(Told::Folder).collect();
        (Self::with(settings, store), news)
    }

    /// With one baseline only, in monitor: for judging a recording.
    pub fn candidate(baseline: Baseline, runtime_exec: RuntimeExec) -> Self {
        let baseline = Baseline { stage: Stage::Monitor, ..baseline };
        Self::with(Settings { runtime_exec, ..Settings::default() }, Store::only(baseline))
    }

    fn with(settings: Settings, store: Store) -> Self {
        Self {
            settings,
            store,
            observer: Observer::default(),
            learner: Learner::default(),
            bound: Bounded::new(CONTAINERS),
            known: Vec::new(),
            early: BTreeMap::new(),
            watch: Watch::default(),
            written_ns: 0,
            failure: None,
            counts: Counts::default(),
        }
    }

    /// Another configuration.
    pub fn configure(&mut self, settings: Settings) -> Vec<Told> {
        let mut news = Vec::new();
        if settings.folder != self.settings.folder {
            self.store = Store::new(&settings.folder);
            news = self.store.refresh().into_iter().map(Told::Folder).collect();
        }
        self.settings = settings;
        self.bind_all();
        news
    }

    /// What the event's process did.
    pub fn observe(&mut self, event: &Event, cx: &Context<'_>) -> Option<Act> {
        self.observer.observe(event, cx)
    }

    /// A container is known (better). Returns what it did before that, to be judged.
    pub fn container(&mut self, container: &Container) -> Vec<(Event, Act)> {
        let Some(identity) = Identity::of(container) else { return Vec::new() };
        let label = container.metadata.labels.get(LABEL).map(String::as_str);
        let stage = label.and_then(Stage::parse);
        if let Some(text) = label.filter(|text| stage.is_none() && *text != "off") {
            tracing::warn!(container = %container.id, label = text, "label bulkhead.baseline says nothing known and is ignored");
        }
        let id = container.id.get(..12).unwrap_or(&container.id).to_owned();
        let mut bound = Bound { identity, label: stage, is_off: label == Some("off"), name: None, stage: None, id };
        self.bind(&mut bound);
        if self.bound.get(&container.key).is_none() {
            self.known.push(container.key);
        }
        self.bound.insert(container.key, bound);
        self.early.remove(&container.key).unwrap_or_default()
    }

    fn bind(&self, bound: &mut Bound) {
        let found = self.store.of(&bound.identity);
        bound.name = found.map(|(name, _)| name.to_owned());
        bound.stage = match found {
            _ if bound.is_off => None,
            Some((_, profile)) => Some(bound.label.unwrap_or(profile.baseline.stage)),
            None => (bound.label == Some(Stage::Learn) || self.is_to_learn(&bound.identity)).then_some(Stage::Learn),
        };
    }

    fn is_to_learn(&self, identity: &Identity) -> bool {
        let image = if identity.image.is_empty() { &identity.container } else { &identity.image };
        let names = spellings(image);
        self.settings.learn.iter().any(|glob| names.iter().any(|name| glob.is_match(name)))
    }

    fn bind_all(&mut self) {
        let mut known = std::mem::take(&mut self.known);
        known.retain(|key| {
            let Some(mut bound) = self.bound.get(key).cloned() else { return false };
            self.bind(&mut bound);
            if let Some(old) = self.bound.get_mut(key) {
                *old = bound;
            }
            true
        });
        self.known = known;
    }

    /// What the kernel half is to hold a container to: the name of its baseline, that, and whether sessions from
    /// outside as well.
    pub fn held(&self, container: ContainerKey) -> Option<(&str, &Arc<Profile>, bool)> {
        let bound = self.bound.get(&container).filter(|bound| bound.stage == Some(Stage::Protect))?;
        let name = bound.name.as_deref()?;
        Some((name, self.store.get(name)?, self.settings.runtime_exec == RuntimeExec::Deny))
    }

    /// Are programs that are not the image's never expected?
    pub fn drift_lock(&self) -> bool {
        self.settings.drift_lock
    }

    /// So many program starts were expected, and counted where they were compared.
    pub fn counted(&mut self, name: &str, execs: u64) {
        self.counts.conforming += execs;
        if execs > 0 {
            self.watch.act(name);
        }
    }

    /// Is it known which image a container is of?
    pub fn is_named(&self, container: ContainerKey) -> bool {
        self.bound.get(&container).is_some()
    }

    /// Compares an act with the container's baseline.
    pub fn judge(&mut self, event: &Event, act: &Act, cx: &Context<'_>) -> Option<Detection> {
        let Some(bound) = self.bound.get(&event.container) else {
            self.keep_early(event, act);
            return None;
        };
        let stage = bound.stage.filter(|stage| *stage != Stage::Learn)?;
        let name = bound.name.as_ref()?;
        let profile = self.store.get(name)?;
        let session = is_session(event, cx);
        if session && self.settings.runtime_exec == RuntimeExec::Allow {
            return None;
        }
        // What the kernel half says it has no entry for is told, whatever is found here.
        let locked = self.settings.drift_lock && act.is_drift();
        let refused = matches!(event.reason, Reason::BaselineExec | Reason::BaselineConnect);
        if profile.expects(act) && !locked && !refused {
            self.counts.conforming += 1;
            self.watch.act(name);
            return None;
        }
        self.counts.deviating += 1;
        self.watch.news(name);
        let mut detection = deviation(event, act, name);
        // What the daemon could do about a connection would be to end its maker, after the fact; about a port likewise.
        let too_late = !matches!(act, Act::Exec { .. } | Act::File { .. });
        let spared = session && self.settings.runtime_exec != RuntimeExec::Deny;
        detection.alert_only = stage != Stage::Protect || too_late || spared;
        Some(detection)
    }

    fn keep_early(&mut self, event: &Event, act: &Act) {
        if !self.early.contains_key(&event.container) && self.early.len() >= EARLY_CONTAINERS {
            self.early.pop_first();
        }
        let acts = self.early.entry(event.container).or_default();
        if acts.len() < EARLY {
            acts.push((event.clone(), act.clone()));
        }
    }

    /// Holds an act back to be learned, if its container's baseline learns or may.
    pub fn learn(&mut self, event: &Event, act: &Act, cx: &Context<'_>) {
        let may = match self.bound.get(&event.container) {
            Some(bound) => bound.stage == Some(Stage::Learn),
            None => true,
        };
        let spared = self.settings.runtime_exec == RuntimeExec::Allow && is_session(event, cx);
        if may && !spared {
            self.learner.note(event, act, cx);
            self.watch_learned(event.container, act);
        }
    }

    /// Notes an act that a candidate does not expect.
    pub fn note_deviation(&mut self, event: &Event, act: &Act, cx: &Context<'_>) {
        self.learner.note(event, act, cx);
    }

    /// Everything noted that came with no finding, and how often.
    pub fn noted(&mut self) -> Vec<(What, u64)> {
        let mut all: BTreeMap<(u8, String), (What, u64)> = BTreeMap::new();
        for (_, held) in self.learner.take(u64::MAX) {
            let what = What::of(&held.act);
            all.entry(super::merge::key(&what)).or_insert((what, 0)).1 += held.count;
        }
        all.into_values().collect()
    }

    /// Something was found that is not about baselines: nothing is learned of who did it.
    pub fn found(&mut self, event: &Event, detection: &Detection, cx: &Context<'_>) {
        let about = matches!(
            detection.kind,
            FindingKind::BaselineExec
                | FindingKind::BaselineConnect
                | FindingKind::BaselineFile
                | FindingKind::EventLoss
        );
        if about || detection.excepted.is_some() {
            return;
        }
        self.unsure(event.container);
        if self.learner.found(event, detection, cx) {
            tracing::info!(kind = detection.kind.name(), "nothing is learned of this process tree any more");
        }
    }

    /// Nothing is learned of a container that was made from a bad image.
    pub fn is_bad(&mut self, container: ContainerKey) {
        self.learner.mark_container(container);
    }

    /// Once a second: the folder is looked at, and from time to time what was learned is written.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Told> {
        let news = self.store.refresh();
        if !news.is_empty() {
            self.bind_all();
        }
        news.iter().for_each(|news| self.watch.news(news.name()));
        let mut told: Vec<Told> = news.into_iter().map(Told::Folder).collect();
        if now_ns.saturating_sub(self.written_ns) >= self.settings.write_ns {
            self.written_ns = now_ns;
            told.extend(self.write(now_ns));
        }
        told.extend(self.promote(now_ns));
        told
    }

    /// Writes what has been held back long enough.
    pub fn write(&mut self, now_ns: u64) -> Vec<Told> {
        let clock = Clock::now();
        let mut by_identity: BTreeMap<Identity, Vec<(ContainerKey, Held)>> = BTreeMap::new();
        for (container, held) in self.learner.take(now_ns.saturating_sub(self.settings.settle_ns)) {
            match self.bound.get(&container) {
                Some(bound) if bound.stage == Some(Stage::Learn) => {
                    by_identity.entry(bound.identity.clone()).or_default().push((container, held));
                }
                Some(_) => {}
                None if now_ns.saturating_sub(held.first_ns) < UNNAMED_NS => self.learner.again(container, held),
                None => {}
            }
        }
        let mut told = Vec::new();
        for (identity, held) in by_identity {
            let id = |container: &ContainerKey| self.bound.get(container).map_or("", |bound| bound.id.as_str());
            let acts = held.iter().map(|(c, held)| (held.act.clone(), seen(held, id(c), &clock))).collect();
            match self.store.learn(&identity, acts) {
                Ok(Some((name, added))) => {
                    self.failure = None;
                    let merged =
                        added.merged.iter().map(|merged| format!("{} entries -> {}", merged.from, merged.into));
                    let merged: Vec<String> = merged.collect();
                    self.counts.unlearned += added.refused;
                    if !added.new.is_empty() || added.refused > 0 {
                        self.watch.news(&name);
                        told.push(Told::Learned { name, new: added.new.len(), merged, refused: added.refused });
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    held.into_iter().for_each(|(container, held)| self.learner.again(container, held));
                    told.extend(self.unwritten(error.to_string()));
                }
            }
        }
        if !told.is_empty() {
            self.bind_all();
        }
        told
    }

    /// A file could not be written; the same reason is told once.
    fn unwritten(&mut self, why: String) -> Option<Told> {
        let is_new = self.failure.as_ref() != Some(&why);
        self.failure = Some(why.clone());
        is_new.then_some(Told::Unwritten(why))
    }

    /// Numbers for `status`.
    pub fn counts(&self) -> Counts {
        let unlearned = self.counts.unlearned + self.learner.missed;
        Counts { files: self.store.all().count(), refused: self.store.refused(), unlearned, ..self.counts }
    }
}

fn seen(held: &Held, container: &str, clock: &Clock) -> Seen {
    let whole = |ns| clock.at(ns).round(jiff::Unit::Second).unwrap_or_else(|_| clock.at(ns));
    Seen {
        count: held.count,
        first: whole(held.first_ns),
        last: whole(held.last_ns),
        containers: [container.to_owned()].into(),
    }
}

/// Is it in a session that was started from outside, rather than below the container's first process?
fn is_session(event: &Event, cx: &Context<'_>) -> bool {
    event.container != HOST && cx.is_of_entry_point(event) == Some(false)
}

fn deviation(event: &Event, act: &Act, name: &str) -> Detection {
    let kind = match act {
        Act::Exec { .. } => FindingKind::BaselineExec,
        Act::Connect { .. } | Act::Listen { .. } => FindingKind::BaselineConnect,
        Act::File { .. } => FindingKind::BaselineFile,
    };
    let message = match (&event.body, act) {
        (Body::Open(open), Act::Exec { parent, exe, layer, .. }) if open.file.has(file::FILE_MAPPED) => {
            format!("{parent} maps code of {exe} ({}): the baseline {name} is locked to the image's", layer.name())
        }
        _ => format!("{act}: the baseline {name} has no such entry"),
    };
    let mut detection = Detection::new(kind, event.process, message).with(
        event.id,
        "baseline",
        0,
        format!("would be: {}", What::of(act)),
    );
    match act {
        Act::Exec { exe, .. } => detection.file = Some(exe.clone()),
        Act::Connect { peer, .. } => detection.peer = Some(*peer),
        Act::File { path, .. } => detection.file = Some(path.clone()),
        Act::Listen { .. } => {}
    }
    detection
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
