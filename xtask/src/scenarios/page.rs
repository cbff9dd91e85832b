//! `--page`: what was found, stopped and missed, by family, as a page of documentation; made from the JSON rows of
//! runs.

use crate::bench::machine::{self, Machine};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// How the numbers come about.
const INTRODUCTION: &str = include_str!("detection-head.md");

/// Families by the first letters of an id, in the order of the page.
const FAMILIES: [(&str, &str); 9] = [
    ("sc", "the docker123321 case"),
    ("rs", "reverse shells, bind shells, relays"),
    ("dx", "downloads that are run"),
    ("mn", "miners"),
    ("fx", "programs without a file, other names"),
    ("ps", "persistence"),
    ("ke", "runtime, kubelet, ways out"),
    ("cr", "recon, credentials, beacons"),
    ("bn", "harmless"),
];

/// What a row tells the page.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    id: String,
    mode: String,
    tier: String,
    expected: Vec<String>,
    found: Vec<String>,
    passed: bool,
    skipped: bool,
    missed: bool,
    promised: bool,
    rung: Option<String>,
    latency_us: Option<u64>,
    effect_exists: Option<bool>,
    why: String,
}

impl Row {
    fn is_found(&self) -> bool {
        self.found.iter().any(|kind| self.expected.contains(kind))
    }

    fn is_in(&self, family: &str) -> bool {
        self.id.split('-').next() == Some(family)
    }
}

/// Writes the page at `path` from the JSON rows in `files`.
pub fn write(path: &Path, files: &[PathBuf]) -> Result<()> {
    // By mode and id: of a scenario that was played again, the last run counts.
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let row: Row = serde_json::from_str(line).with_context(|| format!("a row of {}", file.display()))?;
            rows.insert((row.mode.clone(), row.id.clone()), row);
        }
    }
    let rows: Vec<Row> = rows.into_values().collect();
    fs::write(path, page(&rows, &machine::describe())).with_context(|| format!("writing {}", path.display()))
}

fn page(rows: &[Row], machine: &Machine) -> String {
    let played: Vec<&Row> = rows.iter().filter(|row| !row.skipped).collect();
    let mut text = INTRODUCTION.to_owned();
    let _ = writeln!(
        text,
        "{}, {} processors, kernel {}, {}; {}; commit {}.\n",
        machine.processor, machine.cores, machine.kernel, machine.system, machine.date, machine.commit
    );
    attacks(&mut text, &played);
    harmless(&mut text, &played);
    list(&mut text, "Not found", &played, |row| row.mode == "monitor" && !row.expected.is_empty() && !row.is_found());
    list(&mut text, "Found, and not stopped where that is promised", &played, |row| {
        row.promised && row.is_found() && row.effect_exists == Some(true)
    });
    list(&mut text, "False positives", &played, |row| row.expected.is_empty() && !row.passed);
    let skipped = rows.iter().filter(|row| row.skipped).count();
    if skipped > 0 {
        let _ = writeln!(text, "\n{skipped} runs were skipped.");
    }
    text
}

fn attacks(text: &mut String, played: &[&Row]) {
    text.push_str("| family | found: M | S | H | prevented | by | latency, median | slowest tenth |\n");
    text.push_str("|---|---:|---:|---:|---:|---|---:|---:|\n");
    let attacks: Vec<&Row> = played.iter().copied().filter(|row| !row.expected.is_empty()).collect();
    for (family, name) in FAMILIES.iter().filter(|(family, _)| *family != "bn") {
        let own: Vec<&Row> = attacks.iter().copied().filter(|row| row.is_in(family)).collect();
        if !own.is_empty() {
            line(text, name, &own);
        }
    }
    line(text, "**all**", &attacks);
}

fn line(text: &mut String, name: &str, rows: &[&Row]) {
    let found = |tier: &str| {
        let asked: Vec<_> = rows.iter().filter(|row| row.mode == "monitor" && row.tier == tier).collect();
        share(asked.iter().filter(|row| row.is_found()).count(), asked.len())
    };
    let promised: Vec<_> = rows.iter().filter(|row| row.promised && row.effect_exists.is_some()).collect();
    let prevented = promised.iter().filter(|row| row.effect_exists == Some(false)).count();
    let mut rungs: BTreeMap<&str, usize> = BTreeMap::new();
    for rung in rows.iter().filter(|row| row.mode == "protect").filter_map(|row| row.rung.as_deref()) {
        *rungs.entry(rung).or_default() += 1;
    }
    let rungs: Vec<String> = rungs.iter().map(|(rung, count)| format!("{rung} {count}")).collect();
    let mut latencies: Vec<u64> = rows.iter().filter(|row| row.is_found()).filter_map(|row| row.latency_us).collect();
    latencies.sort_unstable();
    let at = |share: usize| latencies.get((latencies.len() * share / 100).min(latencies.len().saturating_sub(1)));
    let ms = |us: Option<&u64>| us.map_or_else(|| "–".to_owned(), |us| format!("{:.1} ms", *us as f64 / 1e3));
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {} | {} | {} | {} | {} |",
        found("M"),
        found("S"),
        found("H"),
        share(prevented, promised.len()),
        rungs.join(", "),
        ms(at(50)),
        ms(at(90)),
    );
}

fn share(part: usize, whole: usize) -> String {
    if whole == 0 { "–".to_owned() } else { format!("{part}/{whole}") }
}

fn harmless(text: &mut String, played: &[&Row]) {
    let harmless: Vec<_> = played.iter().filter(|row| row.expected.is_empty()).collect();
    let wrong = harmless.iter().filter(|row| !row.passed).count();
    let _ = writeln!(text, "\nHarmless runs, both modes: {}; with a finding: {wrong}.", harmless.len());
}

/// The rows that `wanted` picks, each once with its reason; nothing if there are none.
fn list(text: &mut String, title: &str, played: &[&Row], wanted: impl Fn(&Row) -> bool) {
    let picked: BTreeMap<&str, &Row> =
        played.iter().filter(|row| wanted(row)).map(|row| (row.id.as_str(), *row)).collect();
    if picked.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## {title}\n\n| scenario | tier | why |\n|---|---|---|");
    for (id, row) in picked {
        let stated = if row.missed { row.why.clone() } else { format!("**not expected**: {}", row.why) };
        let why = stated.lines().next().unwrap_or_default().replace('|', "\\|");
        let _ = writeln!(text, "| {id} | {} | {why} |", row.tier);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn row(id: &str, mode: &str, expected: &str, found: &str, effect: Option<bool>) -> Row {
        let list = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Row {
            id: id.into(),
            mode: mode.into(),
            tier: "M".into(),
            expected: list(expected),
            found: list(found),
            passed: expected.is_empty() == found.is_empty(),
            skipped: false,
            missed: !expected.is_empty() && found.is_empty(),
            promised: mode == "protect",
            rung: (mode == "protect").then(|| "signal".into()),
            latency_us: Some(2000),
            effect_exists: effect,
            why: "because".into(),
        }
    }

    #[test]
    fn families_misses_and_false_positives() {
        let rows = [
            row("rs-1", "monitor", "reverse_shell", "reverse_shell", Some(true)),
            row("rs-1", "protect", "reverse_shell", "reverse_shell", Some(false)),
            row("mn-1", "monitor", "miner", "", None),
            row("bn-1", "monitor", "", "recon", None),
            row("bn-2", "monitor", "", "", None),
        ];
        let text = page(&rows, &machine::describe());
        assert!(
            text.contains("| reverse shells, bind shells, relays | 1/1 | – | – | 1/1 | signal 1 | 2.0 ms |"),
            "{text}"
        );
        assert!(text.contains("| **all** | 1/2 |"), "{text}");
        assert!(text.contains("Harmless runs, both modes: 2; with a finding: 1."), "{text}");
        assert!(text.contains("| mn-1 | M | because |"), "{text}");
        assert!(text.contains("| bn-1 | M | **not expected**: because |"), "{text}");
        assert!(!text.contains("not stopped"), "{text}");
    }

    #[test]
    fn every_scenario_has_a_family() {
        let scenarios = super::super::file::read(&[crate::workspace::root().join("tests/scenarios")]).unwrap();
        for scenario in scenarios {
            let family = scenario.id.split('-').next().unwrap();
            assert!(FAMILIES.iter().any(|(known, _)| *known == family), "{}", scenario.id);
        }
    }
}
