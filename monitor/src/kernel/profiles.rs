//! Profiles in the kernel: program starts and connections that are expected, and which container is held to which.

use super::loader::LoadError;
use super::maps::{Raw, Source, note};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use monitor_common::profile::{BOUND_CONNECTS, BOUND_EXECS, Bound, Destination, EdgeKey, PortKey};
use std::collections::HashSet;

/// What a profile is made of; a part that is missing is not held to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// Program starts.
    pub edges: Option<&'a [EdgeKey]>,
    /// Ranges of ports: bits that count, range, number.
    pub ports: &'a [(u32, PortKey, u32)],
    /// Connections: bits that count, and where to.
    pub destinations: Option<&'a [(u32, Destination)]>,
}

/// See the module.
pub struct Profiles {
    edges: HashMap<MapData, Raw<EdgeKey>, u32>,
    ports: LpmTrie<MapData, Raw<PortKey>, u32>,
    destinations: LpmTrie<MapData, Raw<Destination>, u32>,
    bound: HashMap<MapData, u64, Raw<Bound>>,
    last: u32,
}

impl Profiles {
    /// Takes the maps; what a daemon before this one has put in stays in force.
    ///
    /// # Errors
    /// One is not there or of another layout.
    pub(super) fn open(source: &mut Source<'_>) -> Result<Self, LoadError> {
        let (edges, ports) = (source.of("EDGES")?, source.of("PORTS")?);
        let (destinations, bound) = (source.of("DESTINATIONS")?, source.of("PROFILES")?);
        let mut profiles = Self { edges, ports, destinations, bound, last: 0 };
        let numbers = profiles.numbers();
        profiles.last = numbers.into_iter().max().unwrap_or(0);
        Ok(profiles)
    }

    /// Puts a profile in, under a number that no other has, and tells which parts are there now (`BOUND_*`). Of a part
    /// that finds no room nothing stays.
    pub fn put(&mut self, parts: &Parts<'_>) -> Option<(u32, u32)> {
        let profile = self.last.checked_add(1)?;
        self.last = profile;
        let mut holds = 0;
        if let Some(edges) = parts.edges {
            let mut put = |edge: &EdgeKey| self.edges.insert(Raw(EdgeKey { profile, ..*edge }), 1, 0).is_ok();
            if edges.iter().all(&mut put) {
                holds |= BOUND_EXECS;
            } else {
                self.remove_edges(|other| other == profile);
            }
        }
        if let Some(destinations) = parts.destinations {
            if self.put_connects(profile, parts.ports, destinations) {
                holds |= BOUND_CONNECTS;
            } else {
                self.remove_connects(|other| other == profile);
            }
        }
        (holds != 0).then_some((profile, holds))
    }

    fn put_connects(&mut self, profile: u32, ports: &[(u32, PortKey, u32)], to: &[(u32, Destination)]) -> bool {
        ports.iter().all(|(bits, key, number)| {
            self.ports.insert(&Key::new(*bits, Raw(PortKey { profile, ..*key })), *number, 0).is_ok()
        }) && to.iter().all(|(bits, key)| {
            self.destinations.insert(&Key::new(*bits, Raw(Destination { profile, ..*key })), 1, 0).is_ok()
        })
    }

    /// Holds a container to a profile from now on: the one before is in force until this one is.
    pub(super) fn bind(&mut self, container: u64, bound: Bound) {
        note("PROFILES", self.bound.insert(container, Raw(bound), 0));
    }

    /// A container is held to none, or is gone.
    pub(super) fn release(&mut self, container: u64) {
        let _ = self.bound.remove(&container);
    }

    /// Is a container held to one?
    pub(super) fn is_bound(&self, container: u64) -> bool {
        self.bound.get(&container, 0).is_ok()
    }

    /// Containers that are held to one.
    pub fn bound(&self) -> Vec<(u64, Bound)> {
        self.bound.iter().filter_map(Result::ok).map(|(container, Raw(bound))| (container, bound)).collect()
    }

    /// Removes what no container is held to, but for `kept`.
    pub fn sweep(&mut self, kept: &HashSet<u32>) {
        let used: HashSet<u32> = self.bound().into_iter().map(|(_, bound)| bound.profile).collect();
        let is_over = |profile| !used.contains(&profile) && !kept.contains(&profile);
        self.remove_edges(is_over);
        self.remove_connects(is_over);
    }

    fn numbers(&self) -> HashSet<u32> {
        let edges = self.edges.keys().filter_map(Result::ok).map(|Raw(key)| key.profile);
        let ports = self.ports.keys().filter_map(Result::ok).map(|key| key.data().0.profile);
        let to = self.destinations.keys().filter_map(Result::ok).map(|key| key.data().0.profile);
        edges.chain(ports).chain(to).collect()
    }

    fn remove_edges(&mut self, is_over: impl Fn(u32) -> bool) {
        let keys: Vec<EdgeKey> = self.edges.keys().filter_map(Result::ok).map(|Raw(key)| key).collect();
        for key in keys.into_iter().filter(|key| is_over(key.profile)) {
            let _ = self.edges.remove(&Raw(key));
        }
    }

    fn remove_connects(&mut self, is_over: impl Fn(u32) -> bool) {
        let keys: Vec<Key<Raw<Destination>>> = self.destinations.keys().filter_map(Result::ok).collect();
        for key in keys.iter().filter(|key| is_over(key.data().0.profile)) {
            let _ = self.destinations.remove(key);
        }
        let keys: Vec<Key<Raw<PortKey>>> = self.ports.keys().filter_map(Result::ok).collect();
        for key in keys.iter().filter(|key| is_over(key.data().0.profile)) {
            let _ = self.ports.remove(key);
        }
    }
}
