//! What a guest's results say: the ladder, the tests, and whether all of it is as it must be.

use super::guest::{End, Outcome};
use super::matrix::Boot;
use crate::test::tally::{Outcome as Test, Tally};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// One boot, judged.
pub struct Report {
    /// What was asked for.
    pub boot: Boot,
    /// `uname -r`.
    pub release: String,
    /// What `bulkhead check` said.
    pub ladder: Option<Check>,
    /// The privileged tests.
    pub tests: Tally,
    /// From power-on to power-off.
    pub seconds: u64,
    /// Processor time of the host, in seconds.
    pub cost: u64,
    /// Tests that must have run, by group.
    asked: BTreeMap<String, Vec<String>>,
    /// What is not as it must be.
    pub faults: Vec<String>,
}

/// As `bulkhead check --json` prints it, as far as it is used here.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// Facts nothing tells of.
    pub blind: Vec<String>,
    /// Opening the object, loading and attaching.
    pub load_ms: u64,
    /// The ladder.
    pub ladder: Ladder,
}

/// The steps.
#[derive(Clone, Debug, Deserialize)]
pub struct Ladder {
    /// Fields this kernel lacks.
    pub missing_fields: Vec<String>,
    /// Hooks in table order.
    pub steps: Vec<Step>,
}

/// One hook.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    /// Fact it tells.
    pub fact: String,
    /// Program.
    pub program: String,
    /// Kind of door.
    pub door: String,
    /// `active`, `not_needed`, `refused`.
    pub state: String,
    /// Why it was refused, or what the kernel lacks for one that is not needed.
    pub why: String,
    /// `deny`, `kill`, `observe`.
    pub power: String,
    /// Instructions the verifier walked; 0 where the kernel does not tell.
    pub verified: u32,
}

impl Report {
    /// Judges a boot; `asked` are the tests that must have run, by group.
    pub fn of(boot: &Boot, release: &str, outcome: &Outcome, asked: BTreeMap<String, Vec<String>>) -> Self {
        let mut faults = Vec::new();
        if let End::Died(why) = &outcome.end {
            faults.push(format!("{why} (console: {})", outcome.console.display()));
        }
        let check = section(&outcome.results, "check");
        let ladder = check.as_ref().and_then(|(text, _)| serde_json::from_str(text.trim()).ok());
        let tests = match section(&outcome.results, "tests") {
            Some((text, status)) => Tally::of_libtest(&text, status == 0),
            None => Tally::default(),
        };
        if ladder.is_none() {
            let said = check.map(|(text, status)| format!("status {status}: {}", text.trim())).unwrap_or_default();
            faults.push(format!("`bulkhead check` gave no ladder: {said}"));
        }
        faults.extend(tests.names_of_failed().map(|name| format!("{name} failed")));
        let not_run = asked.values().flatten().filter(|name| !tests.ran(name));
        faults.extend(not_run.map(|name| format!("{name} did not run, and must have")));
        if tests.failed > 0 && tests.names_of_failed().next().is_none() {
            faults.push("the tests ended badly".to_owned());
        }
        let mut report = Self {
            boot: boot.clone(),
            release: release.to_owned(),
            ladder,
            tests,
            seconds: outcome.took.as_secs(),
            cost: outcome.cost.as_secs(),
            asked,
            faults,
        };
        report.judge_modules(&outcome.results);
        report.judge_programs();
        report
    }

    /// A kernel may lack a hook or a helper; a program that its verifier does not follow is ours to mend.
    fn judge_programs(&mut self) {
        let steps = self.ladder.iter().flat_map(|check| &check.ladder.steps);
        let faults = steps.filter(|step| step.state == "refused" && is_verdict(&step.why)).map(|step| {
            let why: Vec<&str> = step.why.split(" | ").take(3).collect();
            format!("the verifier refuses {}: {}", step.program, why.join(" | "))
        });
        self.faults.extend(faults.collect::<Vec<_>>());
    }

    /// A guest that was not asked for tests because its kernel has no such door says so itself.
    pub fn judge_absence(&mut self, door: &str) {
        let steps = self.ladder.iter().flat_map(|check| &check.ladder.steps).filter(|step| step.door == door);
        let there: Vec<&str> =
            steps.filter(|step| !step.why.starts_with(LACKS)).map(|step| step.program.as_str()).collect();
        if !there.is_empty() {
            let programs = there.join(", ");
            self.faults.push(format!("tests are left out for want of a {door}, but `bulkhead check` has {programs}"));
        }
    }

    /// A guest that was given `bpf` as a security module and did not get it proves nothing, and the
    /// other way round.
    fn judge_modules(&mut self, results: &str) {
        let Some(list) = results.lines().find_map(|line| line.strip_prefix("@lsm ")) else { return };
        let there = list.trim().split(',').any(|name| name == "bpf");
        if there != self.boot.lsm {
            self.faults.push(format!("security modules are {}", list.trim()));
        }
    }

    /// Whether all is well.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// The doors by which a fact comes in: kind and power of its active steps.
    pub fn door(&self, fact: &str) -> String {
        let steps = self.ladder.iter().flat_map(|check| &check.ladder.steps);
        let active = steps.filter(|step| step.fact == fact && step.state == "active");
        let mut doors: Vec<String> = active.map(|step| format!("{} ({})", step.door, step.power)).collect();
        doors.dedup();
        if doors.is_empty() { "–".to_owned() } else { doors.join(", ") }
    }

    /// One line while others still run.
    pub fn line(&self) -> String {
        let verdict = if self.is_good() { "ok" } else { "FAILED" };
        let mut text = format!(
            "{:<18} {:<30} {verdict:<7} {} passed, {} failed, {} s ({} s of processor)",
            self.boot.to_string(),
            self.release,
            self.tests.passed,
            self.tests.failed,
            self.seconds,
            self.cost
        );
        for fault in &self.faults {
            let _ = write!(text, "\n    {fault}");
        }
        text
    }

    fn group(&self, group: &str) -> String {
        let Some(names) = self.asked.get(group) else { return "–".to_owned() };
        let passed = names.iter().filter(|name| {
            self.tests.outcomes.iter().any(|(found, outcome)| found == *name && *outcome == Test::Passed)
        });
        format!("{}/{}", passed.count(), names.len())
    }
}

/// How `bulkhead check` begins what a kernel lacks for a door.
const LACKS: &str = "this kernel has no ";

/// Did the verifier walk a program and refuse it (EACCES), or give up (E2BIG)? Where loads of a kind are not allowed at
/// all it has walked nothing.
fn is_verdict(why: &str) -> bool {
    why.contains("os error 7)") || (why.contains("os error 13)") && why.contains("processed"))
}

/// The table: kernel × rung × group of tests.
pub fn table(reports: &[Report]) -> String {
    let groups: BTreeSet<&str> = reports.iter().flat_map(|report| report.asked.keys()).map(String::as_str).collect();
    let mut rows = vec![
        ["kernel", "modules", "cgroups", "opens are stopped by"]
            .into_iter()
            .chain(groups.iter().copied())
            .chain(["load ms", "s", "processor s", ""])
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    ];
    for report in reports {
        let mut row = vec![
            report.release.clone(),
            if report.boot.lsm { "with bpf" } else { "no bpf" }.to_owned(),
            report.boot.layout.to_string(),
            report.door("open"),
        ];
        row.extend(groups.iter().map(|group| report.group(group)));
        row.push(report.ladder.as_ref().map_or("–".to_owned(), |check| check.load_ms.to_string()));
        row.push(report.seconds.to_string());
        row.push(report.cost.to_string());
        row.push(if report.is_good() { "ok" } else { "FAILED" }.to_owned());
        rows.push(row);
    }
    aligned(&rows)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

/// Text and exit status of one part of a guest's results.
fn section(results: &str, name: &str) -> Option<(String, i32)> {
    let start = format!("@section {name}");
    let mut lines = results.lines().skip_while(|line| line.trim() != start).skip(1);
    let mut text = String::new();
    for line in &mut lines {
        if let Some(end) = line.strip_prefix("@end ") {
            return Some((text, end.split(' ').next()?.parse().ok()?));
        }
        let _ = writeln!(text, "{line}");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::matrix::Layout;
    use std::time::Duration;

    const GOOD: &str = "@kernel 6.1.0\n@lsm lockdown,bpf\n@section check\n\
        {\"blind\":[],\"load_ms\":12,\"ladder\":{\"missing_fields\":[],\"steps\":[{\"fact\":\"open\",\"program\":\"p\",\
        \"door\":\"lsm\",\"state\":\"active\",\"why\":\"\",\"power\":\"deny\",\"verified\":7}]}}\n@end 0 1 2\n\
        @section tests\nrunning 1 test\ntest one ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n@end 0 2 3\n@finished\n";

    fn judged(results: &str, end: End) -> Report {
        let boot = Boot { series: "6.1".to_owned(), lsm: true, layout: Layout::V2 };
        let outcome = Outcome {
            end,
            results: results.to_owned(),
            took: Duration::from_secs(9),
            cost: Duration::from_secs(8),
            console: "console".into(),
        };
        let asked = BTreeMap::from([("group".to_owned(), vec!["one".to_owned()])]);
        Report::of(&boot, "6.1.0", &outcome, asked)
    }

    #[test]
    fn a_good_guest_is_good() {
        let report = judged(GOOD, End::Finished);
        assert!(report.is_good(), "{:?}", report.faults);
        assert_eq!(report.door("open"), "lsm (deny)");
        assert!(table(&[report]).contains("1/1"));
    }

    #[test]
    fn what_did_not_run_is_a_fault() {
        for (results, fault) in [
            (GOOD.replace("test one ... ok", "test one ... ignored"), "did not run"),
            (GOOD.replace("@section tests", "@section other"), "did not run"),
            (
                GOOD.replace("test one ... ok", "test one ... FAILED")
                    .replace("1 passed; 0 failed", "0 passed; 1 failed"),
                "one failed",
            ),
            (GOOD.replace("lockdown,bpf", "lockdown"), "security modules"),
            (GOOD.replace("\"blind\"", "\"blond\""), "no ladder"),
            (refused("(os error 13): R3 unbounded memory access | processed 3862 insns"), "verifier refuses p"),
            (refused("(os error 7): BPF program is too large"), "verifier refuses p"),
        ] {
            let faults = judged(&results, End::Finished).faults;
            assert!(faults.iter().any(|found| found.contains(fault)), "{fault}: {faults:?}");
        }
        assert!(!judged(GOOD, End::Died("panic".to_owned())).is_good());
    }

    #[test]
    fn a_door_that_is_there_is_tested() {
        let lacking = GOOD.replace("\"active\",\"why\":\"\"", "\"not_needed\",\"why\":\"this kernel has no x.y\"");
        for (results, good) in [(GOOD, false), (lacking.as_str(), true)] {
            let mut report = judged(results, End::Finished);
            report.judge_absence("lsm");
            assert_eq!(report.is_good(), good, "{:?}", report.faults);
        }
    }

    fn refused(why: &str) -> String {
        GOOD.replace("\"active\",\"why\":\"\"", &format!("\"refused\",\"why\":\"load: {why}\""))
    }

    #[test]
    fn what_a_kernel_lacks_is_no_fault() {
        for why in ["(os error 22): invalid func unknown#158 | processed 2 insns", "(os error 13)", "not found in BTF"]
        {
            assert!(judged(&refused(why), End::Finished).is_good(), "{why}");
        }
    }
}
