//! One incident, one alert. A dropper trips the same detector a dozen times, a watchdog respawns
//! its miner every two seconds: the first detection is reported, the others of the same program are
//! dropped, and those of further processes of the same tree go on as `repeat`, so that they are
//! acted upon without being told again.

use super::bounded::Bounded;
use super::context::Context;
use crate::event::{ContainerKey, Event, HOST, ProcessKey};
use crate::finding::{Detection, FindingKind};

/// Quiet time after which the same tree is a new incident.
const QUIET_NS: u64 = 10_000_000_000;
/// An incident that goes on is told again after this long.
const AGAIN_NS: u64 = 60_000_000_000;
/// Incidents and culprits remembered.
const REMEMBERED: usize = 2048;

#[derive(Clone, Copy, Debug)]
struct Incident {
    first_ns: u64,
    last_ns: u64,
    prevented: bool,
}

/// What one program life is reported for once: the kind, and the file if it is about one, or what was tried.
type Culprit = (FindingKind, ProcessKey, u32, Option<String>);
type Tree = (FindingKind, ContainerKey, ProcessKey);

/// See the module.
#[derive(Debug)]
pub struct Dedupe {
    /// Whether the culprit was only to be told of so far.
    culprits: Bounded<Culprit, bool>,
    trees: Bounded<Tree, Incident>,
}

impl Default for Dedupe {
    fn default() -> Self {
        Self { culprits: Bounded::new(REMEMBERED), trees: Bounded::new(REMEMBERED) }
    }
}

impl Dedupe {
    /// The connection of a shell that is known to be remote-controlled is no news.
    pub fn is_known_shell(&self, event: &Event, detection: &Detection, cx: &Context<'_>) -> bool {
        let root = || incident_root(event, detection.culprit, cx);
        detection.kind == FindingKind::ShellConnect
            && self
                .trees
                .get(&(FindingKind::ReverseShell, event.container, root()))
                .is_some_and(|i| event.time_ns.saturating_sub(i.last_ns) < AGAIN_NS)
    }

    /// Lets a detection through, marks it as a repeat, or drops it.
    pub fn admit(&mut self, event: &Event, mut detection: Detection, cx: &Context<'_>) -> Option<Detection> {
        let kind = detection.kind;
        let root = incident_root(event, detection.culprit, cx);
        if self.is_known_shell(event, &detection, cx) {
            return None;
        }
        let generation = cx.processes.get(detection.culprit).map_or(0, |p| p.generation);
        // Upon Bulkhead itself one program may try several things.
        let tried = detection.evidence.first().filter(|_| kind == FindingKind::Tamper).map(|first| first.what.clone());
        let culprit = (kind, detection.culprit, generation, detection.file.clone().or(tried));
        if let Some(only_told) = self.culprits.get_mut(&culprit) {
            // Evidence has grown until it may be acted upon: no second alert, but the action.
            detection.repeat = *only_told && !detection.alert_only;
            *only_told &= detection.alert_only;
            return detection.repeat.then_some(detection);
        }
        self.culprits.insert(culprit, detection.alert_only);

        let now = event.time_ns;
        let tree = (kind, event.container, root);
        if let Some(incident) = self.trees.get_mut(&tree)
            && now.saturating_sub(incident.last_ns) < QUIET_NS
            && now.saturating_sub(incident.first_ns) < AGAIN_NS
        {
            incident.last_ns = now;
            // The first prevention of an incident that was only seen so far is told: an alert must
            // not say "observed" about an attack that was stopped.
            let news = event.prevented() && !incident.prevented;
            incident.prevented |= event.prevented();
            detection.repeat = !news;
            return Some(detection);
        }
        let incident = Incident { first_ns: now, last_ns: now, prevented: event.prevented() };
        self.trees.insert(tree, incident);
        Some(detection)
    }
}

/// What makes two culprits one incident: the tree inside the container. The host is one large tree
/// under its service manager, so there it is the parent.
fn incident_root(event: &Event, culprit: ProcessKey, cx: &Context<'_>) -> ProcessKey {
    if event.container != HOST {
        return cx.processes.tree_root(culprit);
    }
    cx.processes.parent(culprit).map_or(culprit, |parent| parent.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::ContainerFacts;
    use crate::detect::testing::{A, Lab, out};
    use crate::event::Verdict;
    use crate::provenance::ProcessTable;

    fn detection(pid: u32) -> Detection {
        Detection::new(FindingKind::Miner, Lab::key(pid), "x")
    }

    fn admit(lab: &Lab, dedupe: &mut Dedupe, at_s: u64, pid: u32, verdict: Verdict) -> Option<bool> {
        let mut event = lab.event(pid, crate::event::Body::Exit { code: 0 });
        event.time_ns = at_s * 1_000_000_000;
        event.verdict = verdict;
        dedupe.admit(&event, detection(pid), &lab.cx()).map(|d| d.repeat)
    }

    #[test]
    fn one_incident_is_told_once_and_acted_upon_each_time() {
        let mut lab = Lab::new();
        lab.exec(10, 9, &["sh", "watchdog.sh"]);
        for pid in 11..16 {
            lab.exec(pid, 10, &["./n"]);
        }
        let mut d = Dedupe::default();
        assert_eq!(admit(&lab, &mut d, 1, 11, Verdict::Observed), Some(false));
        assert_eq!(admit(&lab, &mut d, 2, 11, Verdict::Observed), None, "same program");
        assert_eq!(admit(&lab, &mut d, 3, 12, Verdict::Observed), Some(true), "same tree");
        assert_eq!(admit(&lab, &mut d, 4, 13, Verdict::Killed), Some(false), "now prevented");
        assert_eq!(admit(&lab, &mut d, 5, 14, Verdict::Killed), Some(true));
        assert_eq!(admit(&lab, &mut d, 40, 15, Verdict::Observed), Some(false), "new incident");
    }

    /// A configuration that expects whatever bash does.
    struct Expects;

    impl ContainerFacts for Expects {
        fn excepted(&self, _: &Event, detection: &Detection, processes: &ProcessTable) -> Option<String> {
            processes.get(detection.culprit).is_some_and(|p| p.comm == "bash").then(|| "r".to_owned())
        }
    }

    #[test]
    fn what_is_expected_does_not_stand_for_what_is_not() {
        let mut lab = Lab::new();
        lab.facts = Box::new(Expects);
        let wire = || [out(A), out(A), out(A)];
        let expected = lab.exec_with(20, 9, &["bash", "-i"], |e| e.stdio = wire());
        assert_eq!(expected.iter().map(|d| d.excepted.as_deref()).collect::<Vec<_>>(), [Some("r")]);
        let other = lab.exec_with(21, 9, &["sh", "-i"], |e| e.stdio = wire());
        let told = |d: &Detection| d.kind == FindingKind::ReverseShell && d.excepted.is_none() && !d.repeat;
        assert!(other.iter().any(told), "in the same tree, and told: {other:?}");
    }

    #[test]
    fn grown_evidence_is_acted_upon() {
        let lab = Lab::new();
        let mut d = Dedupe::default();
        let event = lab.event(9, crate::event::Body::Exit { code: 0 });
        let weak = Detection { alert_only: true, ..detection(9) };
        assert!(d.admit(&event, weak, &lab.cx()).is_some_and(|d| !d.repeat));
        assert!(d.admit(&event, detection(9), &lab.cx()).is_some_and(|d| d.repeat));
        assert!(d.admit(&event, detection(9), &lab.cx()).is_none());
    }
}
