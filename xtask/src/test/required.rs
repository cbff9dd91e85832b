//! The tests that must have run.

use super::Results;
use super::tally::Tally;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Names from `xtask/must-run.toml`, by stage.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MustRun {
    unit: Vec<String>,
    privileged: Vec<String>,
    scenarios: Vec<String>,
    /// Privileged tests that the quick form leaves out.
    pub slow: Vec<String>,
    /// Tests of a guest by group.
    pub guest: BTreeMap<String, Vec<String>>,
    /// Tests of some guests besides, by cgroup layout.
    pub guest_pure: BTreeMap<String, Vec<String>>,
    /// What guests of a kernel series are not asked for.
    #[serde(default)]
    pub guest_without: BTreeMap<String, Without>,
}

/// A door that a kernel does not have, and the tests that are about it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Without {
    /// Kind of door, as `bulkhead check` names it.
    pub door: String,
    /// Privileged tests.
    pub tests: Vec<String>,
}

impl MustRun {
    /// The list compiled in.
    pub fn read() -> Result<Self> {
        toml::from_str(include_str!("../../must-run.toml")).context("parse xtask/must-run.toml")
    }

    /// Names whose test did not run although its stage did.
    pub(super) fn unmet(&self, results: &Results, only: Option<&str>, quick: bool) -> Vec<String> {
        let stages: [(&[String], Option<&Tally>); 3] = [
            (&self.unit, Some(&results.unit)),
            (&self.privileged, results.privileged.as_ref()),
            (&self.scenarios, results.scenarios.as_ref()),
        ];
        let asked =
            |name: &&String| only.is_none_or(|word| name.contains(word)) && !(quick && self.slow.contains(name));
        stages
            .into_iter()
            .filter_map(|(names, tally)| Some((names, tally?)))
            .flat_map(|(names, tally)| names.iter().filter(asked).filter(|name| !tally.ran(name)))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn list() -> MustRun {
        MustRun {
            unit: vec!["a::one".into()],
            privileged: vec!["loads".into()],
            scenarios: vec!["rs-1".into()],
            slow: vec!["floods".into()],
            guest: BTreeMap::new(),
            guest_pure: BTreeMap::new(),
            guest_without: BTreeMap::new(),
        }
    }

    fn ran(name: &str) -> Tally {
        Tally::of_libtest(&format!("test {name} ... ok\n"), true)
    }

    #[test]
    fn what_is_slow_must_run_otherwise() {
        let list = MustRun::read().unwrap();
        assert!(list.slow.iter().all(|name| list.privileged.contains(name)));
    }

    #[test]
    fn what_guests_are_not_asked_for_is_asked_of_others() {
        let list = MustRun::read().unwrap();
        let all: Vec<&String> = list.guest.values().flatten().collect();
        assert!(list.guest_without.values().flat_map(|without| &without.tests).all(|name| all.contains(&name)));
        assert!(
            list.guest.values().chain(list.guest_pure.values()).flatten().all(|name| list.privileged.contains(name))
        );
    }

    #[test]
    fn the_quick_form_does_not_ask_for_slow_ones() {
        let list = MustRun { privileged: vec!["loads".into(), "floods".into()], ..list() };
        let results = Results { unit: ran("a::one"), privileged: Some(ran("loads")), ..Results::default() };
        assert_eq!(list.unmet(&results, None, true), [""; 0]);
        assert_eq!(list.unmet(&results, None, false), ["floods"]);
    }

    #[test]
    fn asks_only_for_stages_that_ran() {
        let results = Results { unit: ran("a::one"), ..Results::default() };
        assert!(list().unmet(&results, None, false).is_empty());
        let results = Results { privileged: Some(Tally::default()), ..results };
        assert_eq!(list().unmet(&results, None, false), ["loads"]);
    }

    #[test]
    fn a_skipped_test_is_unmet() {
        let unit = Tally::of_libtest("test a::one ... ignored\n", true);
        let results = Results { unit, ..Results::default() };
        assert_eq!(list().unmet(&results, None, false), ["a::one"]);
    }

    #[test]
    fn a_filter_asks_for_what_it_selects() {
        let results = Results::default();
        assert_eq!(list().unmet(&results, Some("one"), false), ["a::one"]);
        assert!(list().unmet(&results, Some("other"), false).is_empty());
    }
}
