//! When a scenario passes: a pure function of what was expected and what was seen.

use super::alerts::Alert;
use super::file::{Rung, Scenario, Tier};
use clap::ValueEnum;
use serde::Serialize;

/// Mode of the monitor under test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Alerts only.
    #[default]
    Monitor,
    /// Denies and kills.
    Protect,
}

impl Mode {
    /// Its name in the monitor's config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Protect => "protect",
        }
    }
}

/// What was seen of one run.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Alerts about it.
    pub alerts: Vec<Alert>,
    /// Whether the effect exists; `None` where there is none to look for.
    pub effect: Option<bool>,
    /// Bytes the shell listeners received.
    pub bytes: u64,
    /// Something went wrong with the run itself.
    pub broken: Option<String>,
    /// What `run` said, for the reader of a failure.
    pub said: String,
}

/// How a run is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Result {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Not found, as the scenario says beforehand.
    Missed,
    /// Not run.
    Skipped,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Scenario.
    pub id: String,
    /// For the reader.
    pub title: String,
    /// ATT&CK technique.
    pub technique: String,
    /// How much is expected of the detection.
    pub tier: Tier,
    /// Expected kinds.
    pub expected: Vec<String>,
    /// Kinds found, each once, in order.
    pub found: Vec<String>,
    /// Judgement.
    pub result: Result,
    /// The effect had to be absent.
    pub promised: bool,
    /// Outcome of the finding that counts; empty without one.
    pub verdict: String,
    /// Rung it was enforced on; empty when it was not.
    pub rung: String,
    /// Its latency.
    pub latency_us: Option<u64>,
    /// Whether the effect exists; `None` where there is none.
    pub effect: Option<bool>,
    /// Bytes the shell listeners received.
    pub bytes: u64,
    /// Which repetition, from 1.
    pub repeat: u32,
    /// Why it failed or was skipped.
    pub why: String,
    /// What was run, as it was worded.
    pub run: String,
}

impl Row {
    /// A scenario that could not be run.
    pub fn skipped(scenario: &Scenario, repeat: u32, why: String) -> Self {
        Self {
            id: scenario.id.clone(),
            title: scenario.title.clone(),
            technique: scenario.technique.clone(),
            tier: scenario.tier,
            expected: scenario.expect.clone(),
            found: Vec::new(),
            result: Result::Skipped,
            promised: false,
            verdict: String::new(),
            rung: String::new(),
            latency_us: None,
            effect: None,
            bytes: 0,
            repeat,
            why,
            run: scenario.run.clone(),
        }
    }
}

/// Whether the effect must be absent in `mode` on a host whose ladder reaches `host`.
pub fn prevention_promised(mode: Mode, min_rung: Rung, host: Rung) -> bool {
    mode == Mode::Protect && min_rung != Rung::Alert && host >= min_rung
}

/// The finding that counts: of the expected ones the one that did most about it.
fn decisive<'a>(scenario: &Scenario, alerts: &'a [Alert]) -> Option<&'a Alert> {
    let weight = |alert: &Alert| match alert.outcome.as_str() {
        "denied" | "killed" => 2,
        "refused" => 1,
        _ => 0,
    };
    let mut best: Option<&Alert> = None;
    for alert in alerts.iter().filter(|alert| scenario.expect.contains(&alert.kind)) {
        if best.is_none_or(|known| weight(alert) > weight(known)) {
            best = Some(alert);
        }
    }
    best.or_else(|| alerts.first())
}

/// Judges one run.
pub fn judge(scenario: &Scenario, mode: Mode, host: Rung, repeat: u32, seen: &Seen) -> Row {
    let mut found: Vec<String> = Vec::new();
    for alert in &seen.alerts {
        if !found.contains(&alert.kind) {
            found.push(alert.kind.clone());
        }
    }
    let (result, why) = result(scenario, mode, host, seen, &found);
    let decisive = decisive(scenario, &seen.alerts);
    Row {
        id: scenario.id.clone(),
        title: scenario.title.clone(),
        technique: scenario.technique.clone(),
        tier: scenario.tier,
        expected: scenario.expect.clone(),
        result,
        promised: prevention_promised(mode, scenario.min_rung, host) && seen.effect.is_some(),
        verdict: decisive.map(|alert| alert.outcome.clone()).unwrap_or_default(),
        rung: decisive.map(|alert| alert.enforced_by.clone()).unwrap_or_default(),
        latency_us: decisive.map(|alert| alert.latency_us),
        effect: seen.effect,
        bytes: seen.bytes,
        repeat,
        why,
        run: scenario.run.clone(),
        found,
    }
}

fn result(scenario: &Scenario, mode: Mode, host: Rung, seen: &Seen, found: &[String]) -> (Result, String) {
    let missed = !found.iter().any(|kind| scenario.expect.contains(kind));
    if missed && !scenario.miss.is_empty() && seen.broken.is_none() {
        return (Result::Missed, scenario.miss.clone());
    }
    let why = complaint(scenario, mode, host, seen, found);
    (if why.is_empty() { Result::Passed } else { Result::Failed }, why)
}

fn complaint(scenario: &Scenario, mode: Mode, host: Rung, seen: &Seen, found: &[String]) -> String {
    if let Some(broken) = &seen.broken {
        return broken.clone();
    }
    if scenario.is_benign() {
        return match seen.alerts.first() {
            Some(alert) => format!("nothing should be found; {}: {}", alert.kind, alert.message),
            None => String::new(),
        };
    }
    if !found.iter().any(|kind| scenario.expect.contains(kind)) {
        let said = if seen.said.is_empty() { String::new() } else { format!("; run said: {}", seen.said) };
        let instead = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        return format!("found {instead}{said}");
    }
    if prevention_promised(mode, scenario.min_rung, host) && seen.effect == Some(true) {
        return format!("the payload ran: {} exists", scenario.effect);
    }
    String::new()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::file::parse;
    use super::*;

    fn scenario(expect: &str, min_rung: &str) -> Scenario {
        let text =
            format!("[[scenario]]\nid='a'\nimage='x'\nrun='y'\neffect='/e'\nexpect={expect}\nmin_rung='{min_rung}'\n");
        parse(&text).unwrap().remove(0)
    }

    fn alert(kind: &str, outcome: &str, latency_us: u64) -> Alert {
        Alert { kind: kind.into(), outcome: outcome.into(), latency_us, ..Alert::default() }
    }

    fn result(scenario: &Scenario, mode: Mode, kinds: &[&str], effect: bool) -> Result {
        let seen = Seen {
            alerts: kinds.iter().map(|kind| alert(kind, "observed", 1)).collect(),
            effect: Some(effect),
            ..Seen::default()
        };
        judge(scenario, mode, Rung::Signal, 1, &seen).result
    }

    #[test]
    fn one_expected_kind_is_enough_in_monitor() {
        let one = scenario("['miner', 'drift']", "signal");
        assert_eq!(result(&one, Mode::Monitor, &["recon", "drift"], true), Result::Passed);
        assert_eq!(result(&one, Mode::Monitor, &["recon"], false), Result::Failed);
        assert_eq!(result(&one, Mode::Monitor, &[], false), Result::Failed);
    }

    #[test]
    fn a_stated_miss_is_no_failure_and_counts_when_found() {
        let one = Scenario { miss: "why".into(), ..scenario("['miner']", "signal") };
        assert_eq!(result(&one, Mode::Protect, &[], true), Result::Missed);
        assert_eq!(result(&one, Mode::Monitor, &["miner"], true), Result::Passed);
        let broken = Seen { broken: Some("setup failed".into()), ..Seen::default() };
        assert_eq!(judge(&one, Mode::Monitor, Rung::Signal, 1, &broken).result, Result::Failed);
    }

    #[test]
    fn benign_means_nothing_at_all() {
        let one = scenario("[]", "signal");
        assert_eq!(result(&one, Mode::Protect, &[], true), Result::Passed);
        assert_eq!(result(&one, Mode::Monitor, &["recon"], true), Result::Failed);
    }

    #[test]
    fn the_effect_counts_where_prevention_is_promised() {
        let effect = |min_rung| result(&scenario("['miner']", min_rung), Mode::Protect, &["miner"], true);
        assert_eq!(effect("signal"), Result::Failed);
        assert_eq!(effect("lsm"), Result::Passed);
        assert_eq!(effect("alert"), Result::Passed);
        assert!(prevention_promised(Mode::Protect, Rung::Lsm, Rung::Lsm));
        assert!(!prevention_promised(Mode::Monitor, Rung::Signal, Rung::Lsm));
    }

    #[test]
    fn the_row_shows_the_finding_that_acted() {
        let seen = Seen {
            alerts: vec![alert("recon", "killed", 9), alert("miner", "observed", 5), alert("miner", "killed", 7)],
            ..Seen::default()
        };
        let row = judge(&scenario("['miner']", "signal"), Mode::Protect, Rung::Signal, 3, &seen);
        assert_eq!((row.verdict.as_str(), row.latency_us, row.repeat), ("killed", Some(7), 3));
        assert_eq!(row.found, ["recon", "miner"]);
    }

    #[test]
    fn a_broken_run_fails_even_when_benign() {
        let seen = Seen { broken: Some("setup failed".into()), ..Seen::default() };
        let row = judge(&scenario("[]", "signal"), Mode::Monitor, Rung::Signal, 1, &seen);
        assert_eq!((row.result, row.why.as_str()), (Result::Failed, "setup failed"));
    }
}
