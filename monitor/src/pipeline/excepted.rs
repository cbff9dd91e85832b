//! What `[[exception]]` makes of findings: counted, written if so configured, and nothing done. And the day on which one
//! ends.

use super::{Counts, Pipeline};
use crate::config::ExceptionRule;
use crate::event::Event;
use crate::finding::{Detection, Outcome};
use crate::output::Notice;
use crate::output::notice::NoticeKind;
use crate::respond::exceptions::{Exceptions, today};
use serde::Serialize;
use std::sync::PoisonError;

/// An exception, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExceptionView {
    /// Why, as in the configuration.
    pub reason: String,
    /// Its last day.
    pub expires: Option<String>,
    /// It does not hold any more.
    pub expired: bool,
    /// Findings that were not told because of it, since the daemon started.
    pub silenced: u64,
}

impl Pipeline {
    /// A detection that is expected.
    pub(super) fn excepted(&mut self, event: &Event, detection: Detection, reason: String) {
        if detection.repeat {
            return;
        }
        tracing::debug!(kind = ?detection.kind, pid = detection.culprit.tgid, reason, "covered by an exception");
        self.counts.silence(&reason);
        if self.compiled.write_excepted {
            let finding = self.finding(event, detection, Outcome::Observed, Some(reason));
            self.output.finding(finding);
        }
    }

    /// Takes the exceptions of the configuration over, and tells which of them are over.
    pub(super) fn heed_exceptions(&mut self) {
        let exceptions = &self.compiled.rules.exceptions;
        self.facts.exceptions(exceptions);
        self.counts.publish_exceptions(exceptions);
        for rule in exceptions.over() {
            self.tell_over(rule);
        }
    }

    /// Once a second: what ended with yesterday is in force again.
    pub(super) fn expire_exceptions(&mut self) {
        let day = today();
        if day == self.day {
            return;
        }
        self.day = day;
        let over = self.compiled.rules.exceptions.expire(day);
        if over.is_empty() {
            return;
        }
        for rule in &over {
            self.tell_over(rule);
        }
        self.facts.exceptions(&self.compiled.rules.exceptions);
        self.counts.publish_exceptions(&self.compiled.rules.exceptions);
        self.set_policies();
    }

    fn tell_over(&self, rule: &ExceptionRule) {
        let day = rule.expires.map(|day| day.to_string()).unwrap_or_default();
        tracing::warn!(reason = rule.reason, expires = day, "an exception is over and does not hold any more");
        let message = format!("the exception \"{}\" was over with {day} and does not hold any more", rule.reason);
        self.output.notice(Notice::new(NoticeKind::State, "exception_expired", message));
    }
}

impl Counts {
    fn silence(&self, reason: &str) {
        let mut views = self.exceptions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.iter_mut().find(|view| view.reason == reason && !view.expired) {
            view.silenced += 1;
        }
    }

    fn publish_exceptions(&self, exceptions: &Exceptions) {
        let mut views = self.exceptions.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |rule: &ExceptionRule, expired: bool| ExceptionView {
            reason: rule.reason.clone(),
            expires: rule.expires.map(|day| day.to_string()),
            expired,
            silenced: views.iter().find(|view| view.reason == rule.reason).map_or(0, |view| view.silenced),
        };
        let held = exceptions.active().iter().map(|rule| view(rule, false));
        let all: Vec<ExceptionView> = held.chain(exceptions.over().iter().map(|rule| view(rule, true))).collect();
        *views = all;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::exception::tests::rule;

    #[test]
    fn counts_survive_a_reload_and_the_end_of_a_rule() {
        let counts = Counts::default();
        let day = |d| jiff::civil::date(2026, 3, d);
        let mut exceptions = Exceptions::new(&[rule("image = \"a\"\nexpires = \"2026-03-01\"")], day(1), true);
        counts.publish_exceptions(&exceptions);
        counts.silence("r");
        counts.silence("other");
        counts.publish_exceptions(&exceptions);
        assert_eq!(exceptions.expire(day(2)).len(), 1);
        counts.publish_exceptions(&exceptions);
        counts.silence("r");
        let views = counts.exceptions.lock().unwrap().clone();
        let expires = Some("2026-03-01".to_owned());
        assert_eq!(views, [ExceptionView { reason: "r".into(), expires, expired: true, silenced: 1 }]);
    }
}
