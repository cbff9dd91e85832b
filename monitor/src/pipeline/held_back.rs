//! What baselines expect and the kernel half counts instead of telling it (docs/adr/0016).

use super::Pipeline;
use crate::event::ContainerKey;
use monitor_common::state::Held;
use std::collections::HashMap;
use std::sync::PoisonError;

/// For `status`: one container's.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct View {
    /// Name of its baseline.
    pub baseline: String,
    /// The beginning of its id.
    pub container: String,
    /// Program starts.
    pub execs: u64,
    /// Forks.
    pub forks: u64,
    /// Ends of processes of which nothing was told.
    pub exits: u64,
}

impl Pipeline {
    /// Nothing is held back from who wants all events.
    pub(super) fn hold_back(&mut self) {
        self.maps.hold_back(self.events.is_none() && !self.taps.are_on());
    }

    /// Reads the counts.
    pub(super) fn count_held_back(&mut self) {
        let now: HashMap<ContainerKey, Held> = self.maps.held().into_iter().collect();
        let mut views = Vec::new();
        for (key, held) in &now {
            let Some((name, _, _)) = self.baselines.held(*key) else { continue };
            let before = self.counted.get(key).map_or(0, |before| before.execs);
            let (name, Held { execs, forks, exits }) = (name.to_owned(), *held);
            self.baselines.counted(&name, execs.saturating_sub(before));
            let container = self.registry.get(*key).map(|c| c.id.get(..12).unwrap_or(&c.id).to_owned());
            views.push(View { baseline: name, container: container.unwrap_or_default(), execs, forks, exits });
        }
        views.sort_by(|a, b| (&a.baseline, &a.container).cmp(&(&b.baseline, &b.container)));
        self.counted = now;
        *self.counts.held_back.lock().unwrap_or_else(PoisonError::into_inner) = views;
    }
}
