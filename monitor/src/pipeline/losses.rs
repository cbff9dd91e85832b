//! Records that found no room in the kernel half's rings: counted there by container and kind, told here, each
//! container's once in a while.

use crate::event::{ContainerKey, Event, HOST, Kind};
use crate::finding::{Detection, FindingKind};
use monitor_common::state::LossKey;
use std::collections::HashMap;

/// A container that goes on losing is told of this often.
const EVERY_NS: u64 = 10_000_000_000;
/// Without a loss for so long, the next one is an incident of its own.
const QUIET_NS: u64 = 60_000_000_000;
/// What the kernel half charges a container engine's own records to.
const ENGINE: ContainerKey = 0;

/// News of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Whose.
    pub container: ContainerKey,
    /// Records lost since it was last told, by kind.
    pub kinds: Vec<(String, u64)>,
    /// The first of an incident: an alert, not a number only.
    pub is_new: bool,
    /// Counts that are told with it.
    pub counts: Vec<(LossKey, u64)>,
}

impl Loss {
    /// Records of all kinds.
    pub fn total(&self) -> u64 {
        self.kinds.iter().map(|(_, count)| count).sum()
    }

    /// The alert.
    pub fn detection(&self, event: &Event) -> Detection {
        let message = format!(
            "makes more events than there is room for: {} were lost, and with them what they would have shown",
            self.total()
        );
        let detection = Detection::new(FindingKind::EventLoss, event.process, message);
        self.kinds.iter().fold(detection, |detection, (kind, count)| {
            detection.with(event.id, &format!("lost_{kind}"), 0, format!("{count} {kind} events"))
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Losses {
    /// Counts as they were last told.
    told: HashMap<LossKey, u64>,
    /// When each container was last told of.
    last_ns: HashMap<ContainerKey, u64>,
}

impl Losses {
    /// Goes on from what a daemon before this one has told.
    pub fn new(told: Vec<(LossKey, u64)>) -> Self {
        Self { told: told.into_iter().collect(), last_ns: HashMap::new() }
    }

    /// What is to be told now, of all that is counted; `now_ns` is the time since boot.
    pub fn due(&mut self, now_ns: u64, counted: &[(LossKey, u64)]) -> Vec<Loss> {
        let mut due: HashMap<ContainerKey, Loss> = HashMap::new();
        for (key, count) in counted {
            // A count that was pushed out of the kernel's table has begun anew.
            let told = self.told.get(key).filter(|told| *told <= count).copied().unwrap_or(0);
            if *count == told {
                continue;
            }
            let container = if key.container == ENGINE { HOST } else { key.container };
            let last_ns = self.last_ns.get(&container).copied();
            if last_ns.is_some_and(|last| now_ns.saturating_sub(last) < EVERY_NS) {
                continue;
            }
            let is_new = last_ns.is_none_or(|last| now_ns.saturating_sub(last) >= QUIET_NS);
            let empty = Loss { container, kinds: Vec::new(), is_new, counts: Vec::new() };
            let loss = due.entry(container).or_insert(empty);
            loss.kinds.push((kind(key.kind), count - told));
            loss.counts.push((*key, *count));
        }
        let mut due: Vec<Loss> = due.into_values().collect();
        due.sort_by_key(|loss| loss.container);
        for loss in &due {
            self.last_ns.insert(loss.container, now_ns);
            self.told.extend(loss.counts.iter().copied());
        }
        self.last_ns.retain(|_, last| now_ns.saturating_sub(*last) < QUIET_NS);
        if self.told.len() > counted.len() {
            self.told.retain(|key, _| counted.iter().any(|(there, _)| there == key));
        }
        due
    }
}

fn kind(number: u32) -> String {
    let kind = u16::try_from(number).ok().and_then(|number| Kind::try_from(number).ok());
    kind.map_or("unknown".to_owned(), |kind| format!("{kind:?}").to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(container: ContainerKey, kind: Kind) -> LossKey {
        LossKey { container, kind: kind as u32, reserved: 0 }
    }

    fn told(losses: &mut Losses, at_s: u64, counted: &[(LossKey, u64)]) -> Vec<(ContainerKey, u64, bool)> {
        let due = losses.due(at_s * SECOND, counted);
        due.iter().map(|loss| (loss.container, loss.total(), loss.is_new)).collect()
    }

    #[test]
    fn each_container_is_told_of_by_itself_and_once_in_a_while() {
        let (exec, open, other) = (key(7, Kind::Exec), key(7, Kind::Open), key(8, Kind::Exec));
        let mut losses = Losses::new(vec![(exec, 100)]);
        assert_eq!(told(&mut losses, 1000, &[(exec, 100)]), [], "a daemon before has told it");
        assert_eq!(told(&mut losses, 1001, &[(exec, 105), (open, 1)]), [(7, 6, true)]);
        assert_eq!(told(&mut losses, 1002, &[(exec, 109), (open, 1), (other, 2)]), [(8, 2, true)]);
        assert_eq!(told(&mut losses, 1011, &[(exec, 120), (open, 1), (other, 2)]), [(7, 15, false)]);
        assert_eq!(told(&mut losses, 1100, &[(exec, 121), (open, 1), (other, 2)]), [(7, 1, true)], "a new incident");
    }

    #[test]
    fn a_count_that_was_pushed_out_begins_anew() {
        let exec = key(7, Kind::Exec);
        let mut losses = Losses::new(vec![(exec, 100)]);
        assert_eq!(told(&mut losses, 1000, &[(exec, 3)]), [(7, 3, true)]);
        assert_eq!(told(&mut losses, 2000, &[]), []);
        assert_eq!(told(&mut losses, 3000, &[(exec, 3)]), [(7, 3, true)]);
    }

    #[test]
    fn what_the_engine_lost_is_the_hosts() {
        let mut losses = Losses::default();
        let counted = [(key(ENGINE, Kind::Cgroup), 1), (key(HOST, Kind::Exec), 2)];
        let due = losses.due(SECOND, &counted);
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].container, due[0].total()), (HOST, 3));
        assert_eq!(due[0].kinds, [("cgroup".to_owned(), 1), ("exec".to_owned(), 2)]);
    }
}
