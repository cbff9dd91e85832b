//! Every container known on this host, keyed by the id of its cgroup.
//!
//! A container enters when its cgroup is made or found by [`Registry::scan`], before any engine
//! knows of it; the engine's metadata is merged in when it comes. A removed container is kept for
//! a grace period, because its last events and the engine's answer arrive after it is gone, and
//! the number kept so is bounded, so that churn leaves memory flat.

mod table;

use super::hierarchy::Hierarchy;
use super::path::{self, Runtime};
use crate::event::{Cgroup, ContainerKey, HOST};
use crate::finding::ContainerView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use table::Inner;

/// How long a removed container is remembered. Docker's event for a container that lived 50 ms is
/// here within a second; a minute covers an engine that is being restarted.
pub const GRACE: Duration = Duration::from_secs(60);
/// Removed containers remembered at most.
pub const MAX_GONE: usize = 256;
/// Metadata kept for containers whose cgroup has not been seen: the engine announces a container
/// before it makes the cgroup.
pub const MAX_AHEAD: usize = 256;
/// Levels of directories a scan goes down; the deepest real path (a container in a pod in a nested
/// kubelet) has 7.
const MAX_DEPTH: usize = 16;

/// What the engine knows about a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Name, without Docker's leading slash.
    pub name: String,
    /// Image reference as given at creation.
    pub image: String,
    /// Image digest (`sha256:…`): of the repository if the engine has one, else of the image's
    /// config, which is what Docker calls the image id.
    pub digest: String,
    /// Image id (`sha256:…`).
    pub image_id: String,
    /// All tags and digests the image is known under, for the denylist.
    pub references: Vec<String>,
    /// Labels of container and image.
    pub labels: BTreeMap<String, String>,
    /// Nothing more will come.
    pub complete: bool,
}

impl Metadata {
    /// Takes over what `newer` knows.
    fn merge(&mut self, newer: Self) {
        let text = |old: &mut String, new: String| {
            if !new.is_empty() {
                *old = new;
            }
        };
        text(&mut self.name, newer.name);
        text(&mut self.image, newer.image);
        text(&mut self.digest, newer.digest);
        text(&mut self.image_id, newer.image_id);
        if !newer.references.is_empty() {
            self.references = newer.references;
        }
        self.labels.extend(newer.labels);
        self.complete |= newer.complete;
    }
}

/// One container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Id of its outermost cgroup.
    pub key: ContainerKey,
    /// Runtime id, 64 hex digits.
    pub id: String,
    /// Who made it.
    pub runtime: Runtime,
    /// Its pod, if it is in one.
    pub pod_uid: Option<String>,
    /// Path of its cgroup in the watched hierarchy.
    pub path: String,
    /// What the engine told.
    pub metadata: Metadata,
    /// Its cgroup has been removed.
    pub gone: bool,
}

/// What a cgroup event or a scan changed; the loader writes it into the kernel's map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The cgroup that came or went.
    pub cgroup: u64,
    /// The container it belongs to.
    pub container: ContainerKey,
    /// It went.
    pub gone: bool,
}

impl Change {
    /// It is the container's own cgroup, not one nested in it.
    pub fn is_container(&self) -> bool {
        self.cgroup == self.container
    }
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Containers whose cgroup exists.
    pub live: usize,
    /// Removed ones still remembered.
    pub gone: usize,
    /// cgroups of containers, nested ones included.
    pub cgroups: usize,
    /// Metadata waiting for its cgroup.
    pub ahead: usize,
}

/// The shared table. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Registry {
    hierarchy: Arc<Hierarchy>,
    inner: Arc<RwLock<Inner>>,
}

impl Registry {
    /// An empty table for containers of `hierarchy`.
    pub fn new(hierarchy: Hierarchy) -> Self {
        Self { hierarchy: Arc::new(hierarchy), inner: Arc::default() }
    }

    /// The hierarchy the keys belong to.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // A panic of another thread leaves the table usable: every change is completed under one lock.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cgroup came or went. `None`: not a container's, or already known.
    pub fn on_cgroup(&self, event: &Cgroup) -> Option<Change> {
        if event.hierarchy != self.hierarchy.id {
            return None;
        }
        self.on_cgroup_at(event, Instant::now())
    }

    fn on_cgroup_at(&self, event: &Cgroup, now: Instant) -> Option<Change> {
        let mut inner = self.write();
        inner.forget(now);
        if event.gone {
            return inner.removed(event.id, now);
        }
        if let Some(&container) = inner.cgroups.get(&event.parent) {
            return inner.nested(event.id, container);
        }
        let found = path::parse(&event.path)?;
        if found.is_nested(&event.path) {
            // The event that announced the container itself was lost.
            let container = match inner.by_id.get(&found.id) {
                Some(&key) => key,
                None => {
                    let root = found.root(&event.path);
                    let key = self.inode(root)?;
                    inner.add(key, root, &found);
                    key
                }
            };
            return inner.nested(event.id, container);
        }
        inner.add(event.id, &event.path, &found)
    }

    fn inode(&self, path: &str) -> Option<u64> {
        let dir = self.hierarchy.mount.join(path.trim_start_matches('/'));
        std::fs::metadata(dir).ok().map(|m| m.ino())
    }

    /// Registers every container cgroup that exists now; returns what was new, containers before
    /// what is nested in them.
    pub fn scan(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut stack = vec![(String::new(), 0usize, None)];
        while let Some((dir, depth, parent)) = stack.pop() {
            let full = self.hierarchy.mount.join(dir.trim_start_matches('/'));
            // Directories vanish while they are walked.
            let Ok(entries) = std::fs::read_dir(&full) else {
                continue;
            };
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                let (Ok(meta), Some(name)) = (entry.metadata(), entry.file_name().to_str().map(str::to_owned)) else {
                    continue;
                };
                let path = format!("{dir}/{name}");
                let container = self.scanned(meta.ino(), &path, parent, &mut changes);
                if depth < MAX_DEPTH {
                    stack.push((path, depth + 1, container));
                }
            }
        }
        changes
    }

    fn scanned(
        &self,
        cgroup: u64,
        path: &str,
        parent: Option<ContainerKey>,
        changes: &mut Vec<Change>,
    ) -> Option<ContainerKey> {
        let mut inner = self.write();
        if let Some(container) = parent {
            changes.extend(inner.nested(cgroup, container));
            return parent;
        }
        let found = path::parse(path)?;
        changes.extend(inner.add(cgroup, path, &found));
        Some(cgroup)
    }

    /// The engine told something about a container. The key, if its cgroup is known; otherwise it
    /// is kept until the cgroup appears.
    pub fn complete(&self, id: &str, metadata: Metadata) -> Option<ContainerKey> {
        let mut inner = self.write();
        let Some(&key) = inner.by_id.get(id) else {
            inner.keep_ahead(id, metadata);
            return None;
        };
        let container = Arc::make_mut(inner.containers.get_mut(&key)?);
        container.metadata.merge(metadata);
        Some(key)
    }

    /// The container will not come (destroyed without having been started).
    pub fn abandon(&self, id: &str) {
        let mut inner = self.write();
        inner.ahead.remove(id);
        inner.ahead_order.retain(|i| i != id);
    }

    /// Is the metadata of this container complete?
    pub fn is_complete(&self, id: &str) -> bool {
        let inner = self.read();
        match inner.by_id.get(id).and_then(|key| inner.containers.get(key)) {
            Some(container) => container.metadata.complete,
            None => inner.ahead.get(id).is_some_and(|m| m.complete),
        }
    }

    /// A container by its key.
    pub fn get(&self, key: ContainerKey) -> Option<Arc<Container>> {
        self.read().containers.get(&key).cloned()
    }

    /// The key of a container by its runtime id.
    pub fn key_of_id(&self, id: &str) -> Option<ContainerKey> {
        self.read().by_id.get(id).copied()
    }

    /// The container a cgroup path belongs to; [`HOST`] if it is none's. A path that looks like a
    /// container's but is not registered gives `None`.
    pub fn key_of_path(&self, path: &str) -> Option<ContainerKey> {
        match path::parse(path) {
            Some(found) => self.key_of_id(&found.id),
            None => Some(HOST),
        }
    }

    /// The cgroup path of a process in the watched hierarchy, from `/proc/PID/cgroup`'s contents.
    pub fn key_of_process(&self, proc_cgroup: &str) -> Option<ContainerKey> {
        self.key_of_path(super::hierarchy::path_of(proc_cgroup, &self.hierarchy)?)
    }

    /// Containers whose cgroup exists, by key.
    pub fn live(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.read().containers.values().filter(|c| !c.gone).cloned().collect();
        all.sort_by_key(|c| c.key);
        all
    }

    /// Is the cgroup a container's, or nested in one?
    pub fn knows(&self, cgroup: u64) -> bool {
        self.read().cgroups.contains_key(&cgroup)
    }

    /// The cgroups of a container, its own first.
    pub fn cgroups_of(&self, key: ContainerKey) -> Vec<u64> {
        let mut all: Vec<u64> = self.read().cgroups.iter().filter(|(_, c)| **c == key).map(|(g, _)| *g).collect();
        all.sort_by_key(|g| (*g != key, *g));
        all
    }

    /// What a finding says about a container.
    pub fn view(&self, key: ContainerKey) -> ContainerView {
        if key == HOST {
            return ContainerView { id: "host".into(), complete: true, ..ContainerView::default() };
        }
        let Some(container) = self.get(key) else {
            return ContainerView::default();
        };
        let metadata = &container.metadata;
        let mut labels = metadata.labels.clone();
        if let Some(uid) = &container.pod_uid {
            // The name CRI gives it; on a node without a CRI client it is the only sign of the pod.
            labels.entry("io.kubernetes.pod.uid".into()).or_insert_with(|| uid.clone());
        }
        ContainerView {
            id: container.id.clone(),
            runtime: container.runtime.name().into(),
            name: metadata.name.clone(),
            image: metadata.image.clone(),
            digest: metadata.digest.clone(),
            labels,
            complete: metadata.complete,
        }
    }

    /// Puts a container in as a recording has it, in place of what was known.
    pub fn restore(&self, container: Container) {
        let mut inner = self.write();
        inner.cgroups.insert(container.key, container.key);
        inner.by_id.insert(container.id.clone(), container.key);
        inner.containers.insert(container.key, Arc::new(container));
    }

    /// Forgets a container at once, as when replaying.
    pub fn forget(&self, key: ContainerKey) {
        let mut inner = self.write();
        inner.cgroups.retain(|_, container| *container != key);
        if let Some(container) = inner.containers.remove(&key) {
            inner.by_id.remove(&container.id);
        }
    }

    /// Sizes.
    pub fn counts(&self) -> Counts {
        let inner = self.read();
        Counts {
            live: inner.containers.len().saturating_sub(inner.gone.len()),
            gone: inner.gone.len(),
            cgroups: inner.cgroups.len(),
            ahead: inner.ahead.len(),
        }
    }

    /// Where a container's cgroup directory is.
    pub fn directory(&self, key: ContainerKey) -> Option<std::path::PathBuf> {
        let path = self.get(key)?.path.clone();
        Some(Path::new(&self.hierarchy.mount).join(path.trim_start_matches('/')))
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
