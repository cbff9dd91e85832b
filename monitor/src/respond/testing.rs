//! A kernel half that only takes notes.

use super::reflex::{Reflex, descends};
use super::{Held, Means, Rules};
use crate::container::Registry;
use crate::event::{ContainerKey, Event, ProcessKey};
use crate::finding::{Detection, Outcome};
use monitor_common::policy::Policy;
use monitor_common::state::{CutKey, Task};
use std::collections::HashMap;

/// See the module.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) policies: HashMap<u64, Policy>,
    pub(crate) bits: u32,
    pub(crate) cuts: HashMap<CutKey, ContainerKey>,
    pub(crate) doomed: HashMap<u32, ContainerKey>,
    pub(crate) born: HashMap<u32, u64>,
    pub(crate) tasks: HashMap<u32, Task>,
}

impl Reflex for Notes {
    fn policy(&mut self, cgroup: u64, policy: &Policy) {
        self.policies.insert(cgroup, *policy);
    }
    fn responses(&mut self, bits: u32) {
        self.bits = bits;
    }
    fn in_force(&self) -> u32 {
        self.bits
    }
    fn cut(&mut self, key: CutKey, container: ContainerKey) -> bool {
        self.cuts.insert(key, container);
        true
    }
    fn uncut(&mut self, key: CutKey) {
        self.cuts.remove(&key);
    }
    fn doom(&mut self, lineage: u32, container: ContainerKey) {
        self.doomed.insert(lineage, container);
    }
    fn born(&self, lineage: u32) -> u64 {
        self.born.get(&lineage).copied().unwrap_or(0)
    }
    fn pardon(&mut self, lineage: u32) {
        self.doomed.remove(&lineage);
    }
    fn task(&self, tgid: u32) -> Option<Task> {
        self.tasks.get(&tgid).copied()
    }
    fn members(&self, container: ContainerKey, lines: &[u32]) -> Vec<(u32, Task)> {
        let all = self.tasks.iter().filter(|(_, task)| task.container == container && descends(task, lines));
        all.map(|(tgid, task)| (*tgid, *task)).collect()
    }
}

/// [`super::act`] without a kernel half.
pub(crate) fn act(
    rules: &Rules,
    registry: &Registry,
    event: &Event,
    detection: &Detection,
    descendants: &[ProcessKey],
) -> Outcome {
    let (mut notes, mut held) = (Notes::default(), Held::default());
    let mut means = Means { rules, registry, reflex: &mut notes, held: &mut held, stop: None };
    let acted = super::act(&mut means, event, detection, descendants);
    if let Some(hunt) = acted.hunt {
        held.pursue(&mut notes, registry, hunt);
    }
    acted.outcome
}
