//! Baselines on the way of an event: compared with, learned from, and told of.

use super::Pipeline;
use crate::baseline::Baselines;
use crate::baseline::live::Told;
use crate::baseline::store::News;
use crate::container::registry::Container;
use crate::detect::{Context, Detectors};
use crate::event::Event;
use crate::finding::Detection;
use crate::output::Notice;
use crate::output::notice::NoticeKind;
use std::sync::PoisonError;

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
    }

    /// Tells what became of baselines, and publishes their numbers.
    pub(super) fn tell_baselines(&mut self, told: Vec<Told>) {
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
        Told::Unwritten(why) => (
            NoticeKind::PipelineError,
            "baseline_unwritten",
            format!("what was learned cannot be written and is kept: {why}"),
        ),
    }
}
