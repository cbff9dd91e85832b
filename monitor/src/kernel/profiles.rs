//! Profiles in the kernel: program starts that are expected, and which container is held to which.

use super::loader::LoadError;
use super::maps::{Raw, Source, note};
use aya::maps::{HashMap, MapData};
use monitor_common::profile::{Bound, EdgeKey};
use std::collections::HashSet;

/// See the module.
pub struct Profiles {
    edges: HashMap<MapData, Raw<EdgeKey>, u32>,
    bound: HashMap<MapData, u64, Raw<Bound>>,
    last: u32,
}

impl Profiles {
    /// Takes the maps; what a daemon before this one has put in stays in force.
    ///
    /// # Errors
    /// One is not there or of another layout.
    pub(super) fn open(source: &mut Source<'_>) -> Result<Self, LoadError> {
        let edges: HashMap<MapData, Raw<EdgeKey>, u32> = source.of("EDGES")?;
        let last = edges.keys().filter_map(Result::ok).map(|Raw(key)| key.profile).max().unwrap_or(0);
        Ok(Self { edges, bound: source.of("PROFILES")?, last })
    }

    /// Puts a profile in, under a number that no other has. `None` if there is no room: nothing of it stays.
    pub fn put(&mut self, edges: &[EdgeKey]) -> Option<u32> {
        let profile = self.last.checked_add(1)?;
        self.last = profile;
        let put = |edge: &EdgeKey| self.edges.insert(Raw(EdgeKey { profile, ..*edge }), 1, 0).is_ok();
        if edges.iter().all(put) {
            return Some(profile);
        }
        self.remove(|other| other == profile);
        None
    }

    /// Holds a container to a profile from now on: the one before is in force until this one is.
    pub fn bind(&mut self, container: u64, bound: Bound) {
        note("PROFILES", self.bound.insert(container, Raw(bound), 0));
    }

    /// A container is held to none, or is gone.
    pub fn release(&mut self, container: u64) {
        let _ = self.bound.remove(&container);
    }

    /// Containers that are held to one.
    pub fn bound(&self) -> Vec<(u64, Bound)> {
        self.bound.iter().filter_map(Result::ok).map(|(container, Raw(bound))| (container, bound)).collect()
    }

    /// Removes what no container is held to, but for `kept`.
    pub fn sweep(&mut self, kept: &HashSet<u32>) {
        let used: HashSet<u32> = self.bound().into_iter().map(|(_, bound)| bound.profile).collect();
        self.remove(|profile| !used.contains(&profile) && !kept.contains(&profile));
    }

    fn remove(&mut self, is_over: impl Fn(u32) -> bool) {
        let keys: Vec<EdgeKey> = self.edges.keys().filter_map(Result::ok).map(|Raw(key)| key).collect();
        for key in keys.into_iter().filter(|key| is_over(key.profile)) {
            let _ = self.edges.remove(&Raw(key));
        }
    }
}
