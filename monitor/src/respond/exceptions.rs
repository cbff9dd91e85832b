//! What follows from `[[exception]]`: a finding that one covers is neither told nor acted upon. Where the kernel half
//! would act by itself, the bit of that kind is taken out of the policy of the containers the rule names, and the daemon
//! judges: it kills what the rule does not cover, by pidfd and so a moment later.

use crate::config::{ExceptionRule, Subject, Who};
use crate::container::registry::Container;
use crate::event::{Event, HOST};
use crate::finding::{ContainerView, Detection, FindingKind};
use crate::provenance::{Process, ProcessTable};
use jiff::Timestamp;
use jiff::civil::Date;

/// The rules of the configuration, those that are over apart.
#[derive(Clone, Debug, Default)]
pub struct Exceptions {
    active: Vec<ExceptionRule>,
    over: Vec<ExceptionRule>,
    /// Somebody will tell names, images and labels of containers.
    engine: bool,
}

/// Today, UTC.
pub fn today() -> Date {
    Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

impl Exceptions {
    /// Those that hold on this day.
    pub fn new(rules: &[ExceptionRule], today: Date, engine: bool) -> Self {
        let (over, active) = rules.iter().cloned().partition(|rule| rule.is_over(today));
        Self { active, over, engine }
    }

    /// A new day: what is over from now on.
    pub fn expire(&mut self, today: Date) -> Vec<ExceptionRule> {
        let (over, active) = std::mem::take(&mut self.active).into_iter().partition(|rule| rule.is_over(today));
        self.active = active;
        let over: Vec<ExceptionRule> = over;
        self.over.extend(over.iter().cloned());
        over
    }

    /// Those that hold.
    pub fn active(&self) -> &[ExceptionRule] {
        &self.active
    }

    /// Those that are over.
    pub fn over(&self) -> &[ExceptionRule] {
        &self.over
    }

    /// Kinds that the kernel half must leave to the daemon in a container.
    pub fn loosened(&self, container: &Container) -> impl Iterator<Item = FindingKind> {
        let metadata = &container.metadata;
        let who = Who {
            id: &container.id,
            name: &metadata.name,
            image: &metadata.image,
            labels: &metadata.labels,
            complete: metadata.complete,
        };
        // While it is not known, the honest act must not be killed; without an engine it never will be.
        let may_name = |rule: &&ExceptionRule| rule.names(&who).unwrap_or(self.engine);
        let kinds: Vec<FindingKind> = self.active.iter().filter(may_name).flat_map(|rule| rule.kinds.clone()).collect();
        kinds.into_iter()
    }

    /// Kinds that the kernel half must leave to the daemon in a container it has just seen come to life.
    pub fn kinds(&self) -> impl Iterator<Item = FindingKind> {
        self.active.iter().flat_map(|rule| rule.kinds.iter().copied())
    }

    /// The reason of the rule that covers a detection. What the kernel half has stopped is told, whatever a rule says.
    pub fn covering(
        &self,
        event: &Event,
        detection: &Detection,
        processes: &ProcessTable,
        view: impl FnOnce() -> ContainerView,
    ) -> Option<&str> {
        if event.prevented() || !self.kinds().any(|kind| kind == detection.kind) {
            return None;
        }
        let view = view();
        let subject = Subject {
            kind: detection.kind,
            container: Who {
                id: &view.id,
                name: &view.name,
                image: &view.image,
                labels: &view.labels,
                complete: view.complete || event.container == HOST,
            },
            exe: executable(processes.get(detection.culprit)),
            parent: executable(processes.parent(detection.culprit)),
            peer: detection.peer,
        };
        self.active.iter().find(|rule| rule.covers(&subject)).map(|rule| rule.reason.as_str())
    }
}

/// Its path; empty if the process is not known.
fn executable(process: Option<&Process>) -> &str {
    process.map_or("", |process| process.program.exe.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::exception::tests::rule;
    use crate::event::{Body, ProcessKey, Reason, Rung, Verdict};

    #[test]
    fn what_the_kernel_half_stopped_is_told() {
        let mut event = Event {
            id: 1,
            time_ns: 1,
            process: ProcessKey { tgid: 7, start_ns: 9 },
            tid: 7,
            uid: 0,
            container: 42,
            verdict: Verdict::Observed,
            reason: Reason::ReverseShell,
            rung: Rung::None,
            peer_tgid: None,
            body: Body::Exit { code: 0 },
        };
        let exceptions = Exceptions::new(&[rule("image = \"tomcat\"")], jiff::civil::date(2026, 1, 1), true);
        let covering = |event: &Event, kind: FindingKind, image: &str| {
            let detection = Detection::new(kind, event.process, "x");
            let view = || ContainerView { image: image.into(), complete: true, ..ContainerView::default() };
            exceptions.covering(event, &detection, &ProcessTable::default(), view).map(str::to_owned)
        };
        assert_eq!(covering(&event, FindingKind::ReverseShell, "tomcat:9").as_deref(), Some("r"));
        assert_eq!(covering(&event, FindingKind::ReverseShell, "mysql"), None);
        assert_eq!(covering(&event, FindingKind::Miner, "tomcat:9"), None);
        event.verdict = Verdict::Killed;
        assert_eq!(covering(&event, FindingKind::ReverseShell, "tomcat:9"), None);
    }
}
