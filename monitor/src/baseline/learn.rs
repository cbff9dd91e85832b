//! What is to be learned, held back until it is clear that it was no attack: what comes with a finding is not learned, nor
//! anything of the same process tree, before or after.

use super::entry::{Act, What};
use crate::detect::Context;
use crate::detect::bounded::Bounded;
use crate::event::{ContainerKey, Event, HOST, ProcessKey};
use crate::finding::{Detection, FindingKind};
use std::collections::HashMap;

/// Acts held back, of all containers together and of one.
const HELD: usize = 32_768;
const HELD_OF_ONE: usize = 4096;
/// Trees and containers remembered that nothing is learned of.
const MARKED: usize = 4096;

/// Acts of one process tree that one entry covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// One of them.
    pub act: Act,
    /// How many.
    pub count: u64,
    /// When the first was, ns since boot.
    pub first_ns: u64,
    /// And the last.
    pub last_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Learner {
    held: HashMap<(ContainerKey, ProcessKey, What), Held>,
    by_container: HashMap<ContainerKey, usize>,
    trees: Bounded<(ContainerKey, ProcessKey), ()>,
    containers: Bounded<ContainerKey, ()>,
    /// Acts for which there was no room.
    pub missed: u64,
}

impl Default for Learner {
    fn default() -> Self {
        Self {
            held: HashMap::new(),
            by_container: HashMap::new(),
            trees: Bounded::new(MARKED),
            containers: Bounded::new(MARKED),
            missed: 0,
        }
    }
}

impl Learner {
    /// Holds an act back.
    pub fn note(&mut self, event: &Event, act: &Act, cx: &Context<'_>) {
        let tree = tree(event.container, event.process, cx);
        if event.prevented() || self.is_marked(event.container, tree) {
            return;
        }
        let key = (event.container, tree, What::of(act));
        if let Some(held) = self.held.get_mut(&key) {
            held.count += 1;
            held.last_ns = held.last_ns.max(event.time_ns);
            return;
        }
        let count = self.by_container.entry(event.container).or_default();
        if self.held.len() >= HELD || *count >= HELD_OF_ONE {
            self.missed += 1;
            return;
        }
        *count += 1;
        let at = event.time_ns;
        self.held.insert(key, Held { act: act.clone(), count: 1, first_ns: at, last_ns: at });
    }

    /// Something was found: nothing is learned of the trees it was done by. True if that is news.
    pub fn found(&mut self, event: &Event, detection: &Detection, cx: &Context<'_>) -> bool {
        let container = event.container;
        if container == HOST {
            return false;
        }
        if detection.kind == FindingKind::ImageDenylist {
            return self.mark_container(container);
        }
        let processes = [event.process, detection.culprit].into_iter().chain(detection.accomplices.iter().copied());
        let mut news = false;
        for process in processes.filter(|process| process.tgid != 0) {
            // Everything descends from the first process.
            if cx.containers.init(container) == Some(process) {
                return self.mark_container(container);
            }
            let tree = tree(container, process, cx);
            if self.trees.get(&(container, tree)).is_none() {
                self.trees.insert((container, tree), ());
                self.held.retain(|(c, t, _), _| *c != container || *t != tree);
                self.count();
                news = true;
            }
        }
        news
    }

    /// Nothing is learned of a container, such as one made from a bad image.
    pub fn mark_container(&mut self, container: ContainerKey) -> bool {
        if self.containers.get(&container).is_some() {
            return false;
        }
        self.containers.insert(container, ());
        self.held.retain(|(c, _, _), _| *c != container);
        self.count();
        true
    }

    /// What has waited since `until_ns` at the latest.
    pub fn take(&mut self, until_ns: u64) -> Vec<(ContainerKey, Held)> {
        let mut due = Vec::new();
        self.held.retain(|(container, _, _), held| {
            let stays = held.first_ns > until_ns;
            if !stays {
                due.push((*container, held.clone()));
            }
            stays
        });
        self.count();
        due
    }

    /// Holds an act back for longer: it is not known yet whose it is.
    pub fn again(&mut self, container: ContainerKey, held: Held) {
        // The tree does not matter any more: nothing was found within the time.
        self.held.insert((container, ProcessKey::default(), What::of(&held.act)), held);
    }

    fn is_marked(&self, container: ContainerKey, tree: ProcessKey) -> bool {
        self.containers.get(&container).is_some() || self.trees.get(&(container, tree)).is_some()
    }

    fn count(&mut self) {
        self.by_container.clear();
        for (container, _, _) in self.held.keys() {
            *self.by_container.entry(*container).or_default() += 1;
        }
    }
}

/// The outermost process that it descends from, below the container's first one: a service forks its workers and runs
/// its tools there, and a session begins there.
fn tree(container: ContainerKey, process: ProcessKey, cx: &Context<'_>) -> ProcessKey {
    let init = cx.containers.init(container);
    let above = cx.processes.ancestors(process).take_while(|a| a.container == container && Some(a.key) != init);
    above.last().map_or(process, |outermost| outermost.key)
}
