//! Instructions the verifier walked, by program and kernel series: recorded in `xtask/verified.toml`, and
//! guarded. The limit is a million; what grows unseen fails on somebody else's kernel.

use super::report::Report;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Growth over the record that is an error.
const MOST: f64 = 1.2;
/// Differences of fewer instructions are of no interest, however large a part they are.
const NEGLIGIBLE: u32 = 500;

/// Counts by program, then by series.
pub type Counts = BTreeMap<String, BTreeMap<String, u32>>;

/// The committed record.
pub fn file() -> PathBuf {
    crate::workspace::root().join("xtask/verified.toml")
}

/// The highest count of each program on each series.
pub fn counts(reports: &[Report]) -> Counts {
    let mut counts = Counts::new();
    for report in reports {
        for step in report.ladder.iter().flat_map(|check| &check.ladder.steps).filter(|step| step.verified > 0) {
            let highest =
                counts.entry(step.program.clone()).or_default().entry(report.boot.series.clone()).or_default();
            *highest = step.verified.max(*highest);
        }
    }
    counts
}

/// Reads the record; an absent one is empty.
pub fn recorded() -> Result<Counts> {
    match fs::read_to_string(file()) {
        Ok(text) => toml::from_str(&text).context("parse xtask/verified.toml"),
        Err(_) => Ok(Counts::new()),
    }
}

/// Writes the record.
pub fn record(counts: &Counts) -> Result<()> {
    let head = "# Instructions the verifier walked for each program, by kernel series (its limit: 1,000,000; kernels\n\
                # before 5.16 do not tell). Written by `cargo xtask vm --all --record`; a run fails at 20 % more.\n\n";
    let text = format!("{head}{}", toml::to_string(counts).context("write the counts")?);
    fs::write(file(), text).with_context(|| format!("write {}", file().display()))
}

/// What grew too much, and what nobody has recorded.
pub fn faults(found: &Counts, recorded: &Counts) -> Vec<String> {
    let mut faults = Vec::new();
    for (program, by_series) in found {
        for (series, count) in by_series {
            match recorded.get(program).and_then(|by_series| by_series.get(series)) {
                None => faults.push(format!("{program} on {series}: {count} instructions, not recorded (--record)")),
                Some(before) => {
                    if f64::from(*count) > f64::from(*before) * MOST && count - before > NEGLIGIBLE {
                        faults.push(format!("{program} on {series}: {count} instructions, {before} recorded"));
                    }
                }
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u32) -> Counts {
        BTreeMap::from([("exec".to_owned(), BTreeMap::from([("6.1".to_owned(), count)]))])
    }

    #[test]
    fn a_fifth_more_is_a_fault() {
        assert!(faults(&counts(12_000), &counts(10_000)).is_empty());
        assert_eq!(faults(&counts(12_001), &counts(10_000)).len(), 1);
        assert!(faults(&counts(300), &counts(100)).is_empty(), "too few to matter");
        assert!(faults(&counts(1), &Counts::new())[0].contains("not recorded"));
        assert!(faults(&counts(5_000), &counts(10_000)).is_empty());
    }
}
