//! Which containers are quarantined or frozen, and which kills are not finished yet. Lives as long as the
//! daemon and outlives a reload; a container that ends is forgotten.

use super::freezer::{FreezeError, Freezer, LIMIT};
use super::kill_set::Hunt;
use super::network::{self, Marks};
use super::policy::Rules;
use super::reflex::Reflex;
use crate::container::Registry;
use crate::container::registry::Container;
use crate::event::ContainerKey;
use crate::response::{Deed, Done, Origin, Report};
use monitor_common::policy::{POLICY_QUARANTINE, Policy};
use monitor_common::state::{CutKey, RESPONSE_CGROUP, RESPONSE_DOOM, RESPONSE_NETNS, RESPONSE_SOCKET};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Ticks (seconds) a kill that was not finished is gone on with.
const HUNT_TICKS: u32 = 30;

/// Time that kills in one container may take from the pipeline in a second. An attack in a loop must not keep
/// other containers' attacks waiting: what comes after that is hunted together, at the tick.
const HUNTING: Duration = Duration::from_millis(50);
/// Kills that may wait for the tick; a quarter of what the kernel half can be told.
const JOINED: usize = 256;

/// What is done to one container.
#[derive(Debug, Default)]
struct State {
    quarantine: Option<Marks>,
    frozen: bool,
}

/// One line of `bulkhead status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// Runtime id.
    pub id: String,
    /// Name, if known.
    pub name: String,
    /// Cut off from its networks.
    pub quarantined: bool,
    /// Frozen.
    pub frozen: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Held {
    containers: BTreeMap<ContainerKey, State>,
    hunts: Vec<(Hunt, u32)>,
    /// Time spent on kills in the second at hand, by container.
    spent: BTreeMap<ContainerKey, Duration>,
    /// Containers the engine is stopping, and who asked for it.
    stopping: BTreeMap<ContainerKey, Origin>,
    /// A mount of the cgroup v2 root.
    unified: Option<PathBuf>,
    /// The packet programs are attached: established connections are cut too.
    packets: bool,
}

impl Held {
    /// Nothing yet.
    pub fn new(unified: Option<PathBuf>, packets: bool) -> Self {
        Self { unified, packets, ..Self::default() }
    }

    /// A container's policy: what the rules say, and the quarantine.
    pub fn policy(&self, rules: &Rules, container: &Container) -> Policy {
        let mut policy = rules.compile(container);
        if self.is_quarantined(container.key) {
            policy.flags |= POLICY_QUARANTINE;
        }
        policy
    }

    /// Does anything quarantined bear this mark?
    pub fn bears(&self, mark: &CutKey) -> bool {
        let mut marks = self.containers.values().filter_map(|state| state.quarantine.as_ref());
        marks.any(|marks| marks.keys.contains(mark))
    }

    /// Is it cut off?
    pub fn is_quarantined(&self, key: ContainerKey) -> bool {
        self.containers.get(&key).is_some_and(|state| state.quarantine.is_some())
    }

    /// Was it frozen by us?
    pub fn is_frozen(&self, key: ContainerKey) -> bool {
        self.containers.get(&key).is_some_and(|state| state.frozen)
    }

    /// Is the engine stopping it?
    pub fn is_stopping(&self, key: ContainerKey) -> bool {
        self.stopping.contains_key(&key)
    }

    /// The engine was asked to stop it.
    pub fn stopping(&mut self, key: ContainerKey, origin: Origin) {
        self.stopping.insert(key, origin);
    }

    /// The engine has answered: who had asked.
    pub fn stopped(&mut self, key: ContainerKey) -> Origin {
        self.stopping.remove(&key).unwrap_or(Origin::Daemon)
    }

    /// For `status`.
    pub fn views(&self, registry: &Registry) -> Vec<View> {
        let view = |(key, state): (&ContainerKey, &State)| {
            let container = registry.get(*key)?;
            Some(View {
                id: container.id.clone(),
                name: container.metadata.name.clone(),
                quarantined: state.quarantine.is_some(),
                frozen: state.frozen,
            })
        };
        self.containers.iter().filter_map(view).collect()
    }

    fn set_policies(&self, reflex: &mut dyn Reflex, registry: &Registry, rules: &Rules, container: &Container) {
        let policy = self.policy(rules, container);
        for cgroup in registry.cgroups_of(container.key) {
            reflex.policy(cgroup, &policy);
        }
    }

    /// Tells the kernel half which kinds of marks there are.
    pub fn arm(&self, reflex: &mut dyn Reflex) {
        let network = RESPONSE_NETNS | RESPONSE_CGROUP | RESPONSE_SOCKET;
        let bits = self.containers.values().filter_map(|state| state.quarantine.as_ref());
        let bits = bits.fold(reflex.in_force() & !network, |bits, marks| bits | marks.bits());
        reflex.responses(bits);
    }

    fn marks(&self, registry: &Registry, container: &Container, ports: bool) -> Marks {
        let unified = self.unified.as_deref().unwrap_or(std::path::Path::new("/nonexistent"));
        network::marks(registry, container, unified, ports)
    }

    /// Tells the kernel half of a container's marks; false if not all found room.
    fn mark(&mut self, reflex: &mut dyn Reflex, key: ContainerKey, marks: Marks) -> bool {
        let room = marks.keys.iter().all(|mark| reflex.cut(*mark, key));
        self.containers.entry(key).or_default().quarantine = Some(marks);
        self.arm(reflex);
        room
    }

    /// Cuts a container off from every network.
    pub fn quarantine(
        &mut self,
        reflex: &mut dyn Reflex,
        registry: &Registry,
        rules: &Rules,
        container: &Container,
    ) -> Report {
        Report::of(Deed::Quarantine, || {
            if self.is_quarantined(container.key) {
                return Err("it is quarantined already".into());
            }
            // First the policy: a socket made while the marks are read belongs to a container that may
            // not connect any more.
            self.containers.entry(container.key).or_default().quarantine = Some(Marks::default());
            self.set_policies(reflex, registry, rules, container);
            let marks = self.marks(registry, container, false);
            let (bits, mut by) = (marks.bits(), marks.names());
            let told = bits != 0;
            let mut room = self.mark(reflex, container.key, marks);
            if bits & RESPONSE_SOCKET != 0 {
                // What is open is cut by now; what is accepted from now on is told by its port.
                let marks = self.marks(registry, container, true);
                room &= self.mark(reflex, container.key, marks);
            }
            by.push("connects denied".into());
            let remark = match (self.packets, told, room) {
                (false, ..) => "established connections go on: this kernel refused the packet programs",
                (_, false, _) => "it has no processes yet: packets are dropped as soon as it has",
                (.., false) => "not all of its sockets found room in the kernel's map",
                _ => "",
            };
            Ok(Done { by, remark: remark.into(), ..Done::default() })
        })
    }

    /// Ends a quarantine.
    pub fn release(
        &mut self,
        reflex: &mut dyn Reflex,
        registry: &Registry,
        rules: &Rules,
        container: &Container,
    ) -> Report {
        Report::of(Deed::Release, || {
            let state = self.containers.get_mut(&container.key);
            let Some(marks) = state.and_then(|state| state.quarantine.take()) else {
                return Err("it is not quarantined".into());
            };
            self.drop_idle();
            self.uncut(reflex, &marks.keys);
            self.set_policies(reflex, registry, rules, container);
            self.arm(reflex);
            Ok(Done::default())
        })
    }

    /// Takes back the marks that no other container bears.
    fn uncut(&self, reflex: &mut dyn Reflex, keys: &BTreeSet<CutKey>) {
        for key in keys {
            let held = self.containers.values().any(|s| s.quarantine.as_ref().is_some_and(|m| m.keys.contains(key)));
            if !held {
                reflex.uncut(*key);
            }
        }
    }

    fn drop_idle(&mut self) {
        self.containers.retain(|_, state| state.frozen || state.quarantine.is_some());
    }

    /// Stops every process of a container where it is.
    pub fn freeze(&mut self, registry: &Registry, container: &Container) -> Report {
        Report::of(Deed::Freeze, || {
            let freezer = freezer(registry, container)?;
            if freezer.is_frozen().is_ok_and(|frozen| frozen) {
                return Err("it is frozen already".into());
            }
            let result = freezer.set(true, LIMIT);
            if matches!(result, Ok(()) | Err(FreezeError::Pending { .. })) {
                self.containers.entry(container.key).or_default().frozen = true;
            }
            result.map_err(|error| error.to_string())?;
            Ok(Done { by: vec![freezer.name().into()], ..Done::default() })
        })
    }

    /// Lets it go on, whoever has frozen it.
    pub fn thaw(&mut self, registry: &Registry, container: &Container) -> Report {
        Report::of(Deed::Thaw, || {
            let freezer = freezer(registry, container)?;
            if !self.is_frozen(container.key) && !freezer.is_frozen().map_err(|error| error.to_string())? {
                return Err("it is not frozen".into());
            }
            freezer.set(false, LIMIT).map_err(|error| error.to_string())?;
            if let Some(state) = self.containers.get_mut(&container.key) {
                state.frozen = false;
            }
            self.drop_idle();
            Ok(Done { by: vec![freezer.name().into()], ..Done::default() })
        })
    }

    /// A container is gone; true if something was done to it.
    pub fn forget(&mut self, reflex: &mut dyn Reflex, key: ContainerKey) -> bool {
        let Some(state) = self.containers.remove(&key) else { return false };
        if let Some(marks) = state.quarantine {
            self.uncut(reflex, &marks.keys);
            self.arm(reflex);
        }
        true
    }

    /// May a kill in this container take time at once?
    pub fn may_hunt(&self, container: ContainerKey) -> bool {
        self.spent.get(&container).is_none_or(|spent| *spent < HUNTING)
    }

    /// Goes on with a kill until nobody is left, and tells of all that were killed; what is not finished
    /// then, or is one of too many, is gone on with at every tick.
    pub fn pursue(&mut self, reflex: &mut dyn Reflex, registry: &Registry, hunt: Hunt) -> Option<Report> {
        let mut hunt = self.at_once(hunt)?;
        let over = hunt.run(reflex, registry);
        *self.spent.entry(hunt.container()).or_default() += hunt.age();
        let (processes, took_us) = hunt.take_killed();
        let born = hunt.born(reflex);
        if over {
            hunt.end(reflex, self.hunts.is_empty());
        } else {
            self.hunts.push((hunt, HUNT_TICKS));
        }
        let mut remarks = Vec::new();
        if born > 0 {
            remarks.push(format!("{born} more died in the kernel as they were born"));
        }
        if !over {
            remarks.push("not finished in time: gone on with".into());
        }
        let done = Done { by: vec!["pidfd".into()], processes, remark: remarks.join("; ") };
        (!done.processes.is_empty() || !done.remark.is_empty()).then_some(Report {
            deed: Deed::Kill,
            result: Ok(done),
            took_us,
        })
    }

    /// What is to be hunted now, if anything: of a container that has had its time for this second, nothing
    /// before many are waiting.
    fn at_once(&mut self, hunt: Hunt) -> Option<Hunt> {
        let container = hunt.container();
        if self.may_hunt(container) {
            return Some(hunt);
        }
        let Some(place) = self.hunts.iter().position(|(waiting, _)| waiting.container() == container) else {
            self.hunts.push((hunt, HUNT_TICKS));
            return None;
        };
        let (waiting, ticks) = &mut self.hunts[place];
        waiting.join(hunt);
        *ticks = HUNT_TICKS;
        (waiting.size() >= JOINED).then(|| self.hunts.swap_remove(place).0)
    }

    /// Once a second: finds what quarantined containers have made since (namespaces, sockets), and goes on
    /// with kills. Answers what was killed.
    pub fn tick(&mut self, reflex: &mut dyn Reflex, registry: &Registry) -> Vec<(ContainerKey, Report)> {
        let keys: Vec<ContainerKey> =
            self.containers.iter().filter(|(_, state)| state.quarantine.is_some()).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(container) = registry.get(key) else { continue };
            let now = self.marks(registry, &container, true);
            let Some(marks) = self.containers.get_mut(&key).and_then(|state| state.quarantine.as_mut()) else {
                continue;
            };
            if now.keys.is_empty() {
                continue; // its last process has ended, or /proc could not be read
            }
            for mark in now.keys.difference(&marks.keys) {
                let _ = reflex.cut(*mark, key);
            }
            // The number of a namespace that is gone is given out again: it must not cut off who gets it.
            let old: BTreeSet<CutKey> = marks.keys.difference(&now.keys).copied().collect();
            *marks = now;
            self.uncut(reflex, &old);
        }
        self.arm(reflex);
        self.hunt_on(reflex, registry)
    }

    fn hunt_on(&mut self, reflex: &mut dyn Reflex, registry: &Registry) -> Vec<(ContainerKey, Report)> {
        self.spent.clear();
        let mut done = Vec::new();
        for (mut hunt, ticks) in std::mem::take(&mut self.hunts) {
            let over = hunt.run(reflex, registry);
            let (processes, took_us) = hunt.take_killed();
            if !processes.is_empty() {
                let by = vec!["pidfd".into()];
                let result = Ok(Done { by, processes, remark: String::new() });
                done.push((hunt.container(), Report { deed: Deed::Kill, result, took_us }));
            }
            if over || ticks == 0 {
                hunt.end(reflex, false);
            } else {
                self.hunts.push((hunt, ticks - 1));
            }
        }
        if self.hunts.is_empty() && reflex.in_force() & RESPONSE_DOOM != 0 {
            let bits = reflex.in_force() & !RESPONSE_DOOM;
            reflex.responses(bits);
        }
        done
    }
}

fn freezer(registry: &Registry, container: &Container) -> Result<Freezer, String> {
    let member = network::member(registry, container);
    Freezer::of(registry, container, member).map_err(|error| error.to_string())
}
