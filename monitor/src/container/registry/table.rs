//! The tables behind the registry's lock, and the rules by which entries come, move and go.

use super::{Change, Container, GRACE, MAX_AHEAD, MAX_GONE, Metadata};
use crate::container::path::ContainerPath;
use crate::event::ContainerKey;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) containers: HashMap<ContainerKey, Arc<Container>>,
    /// Runtime id → the cgroup it has now.
    pub(super) by_id: HashMap<String, ContainerKey>,
    /// Any live cgroup → its container.
    pub(super) cgroups: HashMap<u64, ContainerKey>,
    /// In the order of removal.
    pub(super) gone: VecDeque<(Instant, ContainerKey)>,
    pub(super) ahead: HashMap<String, Metadata>,
    /// In the order of arrival.
    pub(super) ahead_order: VecDeque<String>,
}

impl Inner {
    pub(super) fn add(&mut self, key: ContainerKey, path: &str, found: &ContainerPath) -> Option<Change> {
        if self.cgroups.contains_key(&key) {
            return None;
        }
        // A restarted container has a new cgroup and the same metadata.
        let before = self.by_id.get(&found.id).and_then(|old| self.containers.get(old));
        let mut metadata = before.map(|c| c.metadata.clone()).unwrap_or_default();
        if let Some(ahead) = self.ahead.remove(&found.id) {
            self.ahead_order.retain(|i| *i != found.id);
            metadata.merge(ahead);
        }
        let container = Container {
            key,
            id: found.id.clone(),
            runtime: found.runtime,
            pod_uid: found.pod_uid.clone(),
            path: path.to_owned(),
            metadata,
            gone: false,
        };
        self.cgroups.insert(key, key);
        self.by_id.insert(found.id.clone(), key);
        self.containers.insert(key, Arc::new(container));
        Some(Change { cgroup: key, container: key, gone: false })
    }

    pub(super) fn nested(&mut self, cgroup: u64, container: ContainerKey) -> Option<Change> {
        let new = self.cgroups.insert(cgroup, container).is_none();
        new.then_some(Change { cgroup, container, gone: false })
    }

    pub(super) fn removed(&mut self, cgroup: u64, now: Instant) -> Option<Change> {
        let container = self.cgroups.remove(&cgroup)?;
        if cgroup == container {
            if let Some(entry) = self.containers.get_mut(&container) {
                Arc::make_mut(entry).gone = true;
            }
            self.gone.push_back((now, container));
            // Nested ones are removed before it; a lost event must not leave them behind.
            self.cgroups.retain(|_, c| *c != container);
        }
        Some(Change { cgroup, container, gone: true })
    }

    /// Drops removed containers whose time is up, and the oldest above the bound.
    pub(super) fn forget(&mut self, now: Instant) {
        while let Some((since, key)) = self.gone.front().copied() {
            if self.gone.len() <= MAX_GONE && now.saturating_duration_since(since) < GRACE {
                break;
            }
            self.gone.pop_front();
            if let Some(container) = self.containers.remove(&key) {
                // After a restart the id already belongs to the new cgroup.
                if self.by_id.get(&container.id) == Some(&key) {
                    self.by_id.remove(&container.id);
                }
            }
        }
    }

    pub(super) fn keep_ahead(&mut self, id: &str, metadata: Metadata) {
        if let Some(known) = self.ahead.get_mut(id) {
            known.merge(metadata);
            return;
        }
        if self.ahead.len() >= MAX_AHEAD
            && let Some(oldest) = self.ahead_order.pop_front()
        {
            self.ahead.remove(&oldest);
        }
        self.ahead.insert(id.to_owned(), metadata);
        self.ahead_order.push_back(id.to_owned());
    }
}
