//! Baselines on the way of an event: compared with, learned from, and told of.

use super::Pipeline;
use crate::baseline::compile::{Connects, connects, edges};
use crate::baseline::live::Told;
use crate::baseline::store::News;
use crate::baseline::{Baselines, Profile};
use crate::container::registry::Container;
use crate::detect::{ContainerFacts as _, Context, Detectors};
use crate::event::{ContainerKey, Event};
use crate::finding::Detection;
use crate::kernel::profiles::Parts;
use crate::output::Notice;
use crate::output::notice::NoticeKind;
use monitor_common::profile::{BOUND_CODE, BOUND_CONNECTS, BOUND_EXECS, Bound};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

/// Compares what an event shows with the baseline of its container, or learns from it. `found` is what the detectors made
/// of the event.
pub(super) fn on_event(
    baselines: &mut Baselines,
    detectors: &mut Detectors,
    event: &Event,
    found: &[Detection],
    cx: &Context<'_>,
) -> Option<Detection> {
    for detection in found {
        baselines.found(event, detection, cx);
    }
    let act = baselines.observe(event, cx)?;
    baselines.learn(event, &act, cx);
    let detection = baselines.judge(event, &act, cx)?;
    detectors.admit(event, detection, cx)
}

/// The same with a candidate on a recording: notes what it does not expect.
pub(super) fn compare(candidate: &mut Baselines, event: &Event, found: &[Detection], cx: &Context<'_>) {
    for detection in found {
        candidate.found(event, detection, cx);
    }
    if let Some(act) = candidate.observe(event, cx)
        && candidate.judge(event, &act, cx).is_some()
    {
        candidate.note_deviation(event, &act, cx);
    }
}

/// A baseline in the kernel.
pub(super) struct Compiled {
    pub(super) of: Arc<Profile>,
    /// Its number there, and which parts are; `None` if none can be.
    pub(super) number: Option<(u32, u32)>,
}

impl Pipeline {
    /// A container's image is known: it has its baseline from here on, also for what it did before.
    pub(super) fn bind_baseline(&mut self, container: &Container) {
        for (event, act) in self.baselines.container(container) {
            let cx = Context { processes: &self.processes, settings: &self.compiled.settings, containers: &self.facts };
            let detection = self.baselines.judge(&event, &act, &cx);
            if let Some(detection) = detection.and_then(|detection| self.detectors.admit(&event, detection, &cx)) {
                self.found(&event, detection);
            }
        }
        self.hold(container.key);
    }

    /// Holds a container to its baseline in the kernel, as far as that is possible.
    pub(super) fn hold(&mut self, container: ContainerKey) {
        let is_new = self.baselines.held(container).is_some_and(|(name, profile, _)| {
            self.profiles.get(name).is_none_or(|known| !Arc::ptr_eq(&known.of, profile))
        });
        if is_new {
            self.hold_all();
        } else if let Some(bound) = self.bound(container) {
            self.maps.bind(container, bound);
        }
        if self.waits(container) {
            self.unheld.insert(container);
        }
    }

    /// Brings what the kernel half holds containers to in line with the baselines. A changed one is put in under a new
    /// number first, then containers go over to it one by one, then the old one is removed.
    pub(super) fn hold_all(&mut self) {
        let live = self.registry.live();
        let mut current: HashMap<String, Compiled> = HashMap::new();
        for container in &live {
            let Some((name, profile, _)) = self.baselines.held(container.key) else { continue };
            if current.contains_key(name) {
                continue;
            }
            let known = self.profiles.remove(name).filter(|known| Arc::ptr_eq(&known.of, profile));
            let (name, profile) = (name.to_owned(), profile.clone());
            let compiled = known.unwrap_or_else(|| self.put(&name, profile));
            current.insert(name, compiled);
        }
        self.profiles = current;
        let wanted: HashMap<ContainerKey, Bound> =
            live.iter().filter_map(|container| Some((container.key, self.bound(container.key)?))).collect();
        self.unheld = live.iter().map(|container| container.key).filter(|key| self.waits(*key)).collect();
        let former: HashMap<ContainerKey, Bound> = self.maps.profiles.bound().into_iter().collect();
        for (container, bound) in wanted.iter().filter(|(container, bound)| former.get(container) != Some(bound)) {
            self.maps.bind(*container, *bound);
        }
        let own = |container: &ContainerKey| self.canaries.is_own(*container);
        let over: Vec<ContainerKey> = former.into_keys().filter(|key| !wanted.contains_key(key) && !own(key)).collect();
        for container in over {
            // Of one that the engine has not named yet, what a daemon before this one knew holds.
            if self.baselines.is_named(container) || self.registry.get(container).is_none_or(|c| c.gone) {
                self.maps.release(container);
            }
        }
        self.maps.profiles.sweep(&self.profiles.values().filter_map(|compiled| Some(compiled.number?.0)).collect());
    }

    fn put(&mut self, name: &str, profile: Arc<Profile>) -> Compiled {
        let edges = edges(&profile.baseline, self.baselines.drift_lock());
        let connects = connects(&profile.baseline);
        let parts = Parts {
            edges: edges.as_deref(),
            ports: connects.as_ref().map_or(&[], |connects| &connects.ports),
            destinations: connects.as_ref().map(|connects| connects.destinations.as_slice()),
        };
        let number = self.maps.profiles.put(&parts);
        let holds = number.map_or(0, |(_, holds)| holds);
        if edges.is_none() {
            tracing::warn!(baseline = name, "program starts with patterns in it: the daemon alone holds to them");
        } else if holds & BOUND_EXECS == 0 {
            tracing::error!(
                baseline = name,
                "no room in the kernel for its program starts: the daemon alone holds to them"
            );
        }
        if holds & BOUND_CONNECTS == 0 {
            tracing::error!(baseline = name, "no room in the kernel for its connections: they are told only");
        } else if let Some(Connects { widened: widened @ 1.., .. }) = connects {
            tracing::info!(
                baseline = name,
                entries = widened,
                "connections by name or pattern: to their ports any is let pass, and told"
            );
        }
        let lock = if self.baselines.drift_lock() { BOUND_CODE } else { 0 };
        Compiled { of: profile, number: number.map(|(number, holds)| (number, holds | lock)) }
    }

    /// Is its first process all that is missing?
    fn waits(&self, container: ContainerKey) -> bool {
        let number = self.baselines.held(container).and_then(|(name, _, _)| self.profiles.get(name)?.number);
        number.is_some() && self.bound(container).is_none()
    }

    /// What a container is to be held to.
    fn bound(&self, container: ContainerKey) -> Option<Bound> {
        let (name, _, sessions) = self.baselines.held(container)?;
        let (profile, holds) = self.profiles.get(name)?.number?;
        if sessions {
            return Some(Bound { profile, init: 0, holds });
        }
        let line = self.maps.task(self.facts.init(container)?.tgid)?.lineage;
        line.first().filter(|outermost| **outermost != 0).map(|outermost| Bound { profile, init: *outermost, holds })
    }

    /// Tells what became of baselines, and publishes their numbers.
    pub(super) fn tell_baselines(&mut self, told: Vec<Told>) {
        if !told.is_empty() {
            self.hold_all();
        }
        for told in told {
            let (kind, action, message) = words(&told);
            match kind {
                NoticeKind::PipelineError => tracing::error!("{message}"),
                _ => tracing::info!("{message}"),
            }
            self.output.notice(Notice::new(kind, action, message));
        }
        *self.counts.baselines.lock().unwrap_or_else(PoisonError::into_inner) = self.baselines.counts();
    }
}

fn words(told: &Told) -> (NoticeKind, &'static str, String) {
    match told {
        Told::Folder(News::Changed(name)) => (
            NoticeKind::State,
            "baseline_changed",
            format!("the baseline {name} was changed on disk and is read again"),
        ),
        Told::Folder(News::Gone(name)) => {
            (NoticeKind::State, "baseline_gone", format!("the baseline {name} is gone, and does not hold any more"))
        }
        Told::Folder(News::Refused { name, why, keeps }) => {
            let rest = if *keeps { "the one before stays in force" } else { "none is in force" };
            (
                NoticeKind::PipelineError,
                "baseline_refused",
                format!("the baseline {name} is not accepted, {rest}: {why}"),
            )
        }
        Told::Learned { name, new, merged, refused } => {
            let mut message = format!("the baseline {name} has {new} new entries");
            if !merged.is_empty() {
                message = format!("{message}; merged: {}", merged.join("; "));
            }
            if *refused > 0 {
                message = format!("{message}; it is full, {refused} acts found no room");
            }
            (NoticeKind::State, "baseline_learned", message)
        }
        Told::Promoted { name, to } => (
            NoticeKind::State,
            "baseline_promoted",
            format!("the baseline {name} was quiet long enough: its mode is {} from now on", to.name()),
        ),
        Told::Unwritten(why) => (
            NoticeKind::PipelineError,
            "baseline_unwritten",
            format!("what was learned cannot be written and is kept: {why}"),
        ),
    }
}
