//! docs/kernel-support.md, from a run of the whole matrix.

use super::report::{Check, Report};
use crate::test::required::Without;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The page; `without` are the tests that guests of a series are not asked for.
pub fn page(reports: &[Report], without: &BTreeMap<String, Without>) -> String {
    let mut text = String::from(include_str!("kernel-support-head.md"));
    text.push_str(&boots(reports));
    for (series, Without { door, tests }) in without {
        let _ = writeln!(text, "\nGuests of {series} have no `{door}` and are not asked for {}.", tests.join(", "));
    }
    text.push_str("\n## Doors\n\nBy which door each fact comes in, and how far an act can be stopped there.\n\n");
    text.push_str(&doors(reports));
    text.push_str(
        "\n## Refused\n\nWhat a kernel did not take, in its own words, where no better door made it superfluous.\n\n",
    );
    text.push_str(&refused(reports));
    text.push_str("\n## Missing fields\n\n");
    text.push_str(&missing(reports));
    text
}

fn kernels(reports: &[Report]) -> impl Iterator<Item = (&Report, &Check)> {
    reports.iter().filter_map(|report| Some((report, report.ladder.as_ref()?)))
}

fn boots(reports: &[Report]) -> String {
    let mut text = String::from(
        "\n## Booted\n\n| kernel | `bpf` in the list | cgroups | tests passed | blind to | load of all programs, ms |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for (report, check) in kernels(reports) {
        let blind = if check.blind.is_empty() { "nothing".to_owned() } else { check.blind.join(", ") };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} of {} | {blind} | {} |",
            report.release,
            if report.boot.lsm { "yes" } else { "no" },
            report.boot.layout,
            report.tests.passed,
            report.tests.passed + report.tests.failed + report.tests.skipped,
            check.load_ms
        );
    }
    text
}

fn doors(reports: &[Report]) -> String {
    let mut facts: Vec<&str> = Vec::new();
    for (_, check) in kernels(reports) {
        for step in &check.ladder.steps {
            if !facts.contains(&step.fact.as_str()) {
                facts.push(&step.fact);
            }
        }
    }
    let mut text = String::from("| kernel | `bpf` |");
    for fact in &facts {
        let _ = write!(text, " {fact} |");
    }
    let _ = writeln!(text, "\n|{}", " --- |".repeat(facts.len() + 2));
    for (report, _) in kernels(reports) {
        let _ = write!(text, "| {} | {} |", report.boot.series, if report.boot.lsm { "yes" } else { "no" });
        for fact in &facts {
            let _ = write!(text, " {} |", report.door(fact));
        }
        text.push('\n');
    }
    text
}

fn refused(reports: &[Report]) -> String {
    let mut lines = BTreeSet::new();
    for (report, check) in kernels(reports) {
        // Without `bpf` in the list every LSM program is refused, which is what that boot is for.
        let steps = check.ladder.steps.iter().filter(|step| step.state == "refused");
        for step in steps.filter(|step| step.door != "lsm" || report.boot.lsm) {
            let why = step.why.replace('|', "/");
            lines.insert(format!(
                "| {} | `{}` ({}) | {} | {why} |\n",
                report.boot.series, step.program, step.door, step.fact
            ));
        }
    }
    if lines.is_empty() {
        return "Nothing.\n".to_owned();
    }
    format!(
        "| kernel | program | fact | answer |\n| --- | --- | --- | --- |\n{}",
        lines.into_iter().collect::<String>()
    )
}

fn missing(reports: &[Report]) -> String {
    let mut lines = BTreeSet::new();
    for (report, check) in kernels(reports) {
        lines.extend(check.ladder.missing_fields.iter().map(|field| format!("- {}: {field}\n", report.boot.series)));
    }
    if lines.is_empty() {
        return "None: every field that the programs read was found in the type information of every kernel.\n"
            .to_owned();
    }
    lines.into_iter().collect()
}
