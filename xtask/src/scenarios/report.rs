//! The table, the JSON rows and the last line.

use super::verdict::{Mode, Result as Judged, Row};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs::File;
use std::io::{LineWriter, Write};
use std::path::Path;

/// Totals of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows that passed.
    pub passed: usize,
    /// Rows that failed.
    pub failed: usize,
    /// Rows that were not run.
    pub skipped: usize,
    /// Rows in which nothing was found, as the scenario says beforehand.
    pub missed: usize,
}

impl Summary {
    /// Whether the run as a whole is good: something passed and nothing failed.
    pub fn is_green(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// Writes rows as they come.
pub struct Report<W: Write> {
    out: W,
    json: Option<LineWriter<File>>,
    mode: Mode,
    summary: Summary,
    latencies_us: Vec<u64>,
    leaked: (u64, usize),
    width: usize,
}

impl<W: Write> Report<W> {
    /// A report on `out`, with ids of up to `width` characters, and as JSON lines in the file `json`; of a monitor in
    /// `mode`.
    pub fn new(mut out: W, json: Option<&Path>, mode: Mode, width: usize) -> Result<Self> {
        let json = match json {
            Some(path) => {
                Some(LineWriter::new(File::create(path).with_context(|| format!("making {}", path.display()))?))
            }
            None => None,
        };
        writeln!(
            out,
            "{:<width$} {:<22} {:<30} {:<8} {:<8} {:>9} {:<6} {:>6}  ",
            "id", "expected", "found", "verdict", "rung", "µs", "effect", "bytes"
        )?;
        Ok(Self { out, json, mode, summary: Summary::default(), latencies_us: Vec::new(), leaked: (0, 0), width })
    }

    /// Adds a row.
    pub fn row(&mut self, row: &Row) -> Result<()> {
        let mark = match row.result {
            Judged::Passed => {
                self.summary.passed += 1;
                "ok"
            }
            Judged::Failed => {
                self.summary.failed += 1;
                "FAILED"
            }
            Judged::Missed => {
                self.summary.missed += 1;
                "not found, as stated"
            }
            Judged::Skipped => {
                self.summary.skipped += 1;
                "skipped"
            }
        };
        if row.result == Judged::Passed && !row.expected.is_empty() {
            self.latencies_us.extend(row.latency_us);
        }
        let width = self.width;
        if row.bytes > 0 {
            self.leaked = (self.leaked.0 + row.bytes, self.leaked.1 + 1);
        }
        writeln!(
            self.out,
            "{:<width$} {:<22} {:<30} {:<8} {:<8} {:>9} {:<6} {:>6}  {mark}",
            row.id,
            list(&row.expected),
            list(&row.found),
            dash(&row.verdict),
            dash(&row.rung),
            row.latency_us.map_or_else(|| "-".to_owned(), |us| us.to_string()),
            row.effect.map_or("-", |exists| if exists { "yes" } else { "no" }),
            row.bytes,
        )?;
        if !row.why.is_empty() {
            let title = if row.title.is_empty() { "why" } else { &row.title };
            writeln!(self.out, "    {title}: {}", row.why.replace('\n', "\n    "))?;
        }
        if let Some(json) = &mut self.json {
            writeln!(json, "{}", json_row(row, self.mode)).context("writing the JSON rows")?;
        }
        Ok(())
    }

    /// Adds a line of text.
    pub fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}").context("writing the table")
    }

    /// Totals and the last line.
    pub fn finish(mut self) -> Result<Summary> {
        if let Some(median) = median(&mut self.latencies_us) {
            writeln!(
                self.out,
                "median latency from act to finding: {median} µs over {} findings",
                self.latencies_us.len()
            )?;
        }
        let (bytes, rows) = self.leaked;
        writeln!(self.out, "shell listeners received {bytes} bytes in {rows} runs")?;
        let Summary { passed, failed, skipped, missed } = self.summary;
        if missed > 0 {
            writeln!(self.out, "{missed} not found, as stated in the scenario")?;
        }
        writeln!(self.out, "{passed} passed, {failed} failed, {skipped} skipped")?;
        self.out.flush()?;
        Ok(self.summary)
    }
}

fn list(kinds: &[String]) -> String {
    if kinds.is_empty() { "-".to_owned() } else { kinds.join(",") }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn json_row(row: &Row, mode: Mode) -> serde_json::Value {
    let or_null = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "id": row.id,
        "mode": mode.name(),
        "technique": row.technique,
        "tier": row.tier.name(),
        "missed": row.result == Judged::Missed,
        "expected": row.expected,
        "found": row.found,
        "passed": row.result == Judged::Passed,
        "skipped": row.result == Judged::Skipped,
        "promised": row.promised,
        "verdict": or_null(&row.verdict),
        "rung": or_null(&row.rung),
        "latency_us": row.latency_us,
        "effect_exists": row.effect,
        "bytes_received": row.bytes,
        "repeat": row.repeat,
        "why": row.why,
        "run": row.run,
    })
}

/// A row that was written as JSON elsewhere; `None` for what is no row.
pub fn from_json(line: &str) -> Option<Row> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| -> Vec<String> {
        let items = value[key].as_array().into_iter().flatten();
        items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let result = match (value["passed"].as_bool()?, value["skipped"].as_bool()?, value["missed"].as_bool()?) {
        (_, true, _) => Judged::Skipped,
        (_, _, true) => Judged::Missed,
        (true, ..) => Judged::Passed,
        (false, ..) => Judged::Failed,
    };
    Some(Row {
        id: value["id"].as_str()?.to_owned(),
        title: String::new(),
        technique: text("technique"),
        tier: serde_json::from_value(value["tier"].clone()).ok()?,
        expected: list("expected"),
        found: list("found"),
        result,
        promised: value["promised"].as_bool()?,
        verdict: text("verdict"),
        rung: text("rung"),
        latency_us: value["latency_us"].as_u64(),
        effect: value["effect_exists"].as_bool(),
        bytes: value["bytes_received"].as_u64().unwrap_or(0),
        repeat: value["repeat"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        why: text("why"),
        run: text("run"),
    })
}

fn median(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(values[middle - 1].midpoint(values[middle])),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::file::parse;
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let scenario = parse("[[scenario]]\nid='a'\nimage='x'\nrun='y'\nexpect=['miner']\n").unwrap().remove(0);
        let skipped = Row::skipped(&scenario, 1, "no image".into());
        let passed = Row { result: Judged::Passed, latency_us: Some(5), why: String::new(), ..skipped.clone() };
        let mut text = Vec::new();
        let mut report = Report::new(&mut text, None, Mode::Monitor, 4).unwrap();
        report.row(&skipped).unwrap();
        report.row(&passed).unwrap();
        let summary = report.finish().unwrap();
        assert!(summary.is_green());
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with("\n1 passed, 0 failed, 1 skipped\n"));
        assert!(text.contains("no image"));
    }

    #[test]
    fn skipping_everything_is_not_green() {
        assert!(!Summary { skipped: 3, ..Summary::default() }.is_green());
        assert!(!Summary { passed: 3, failed: 1, ..Summary::default() }.is_green());
    }

    #[test]
    fn a_row_survives_its_way_through_json() {
        let scenario = parse("[[scenario]]\nid='a'\nimage='x'\nrun='y'\nexpect=['miner']\n").unwrap().remove(0);
        let row = Row {
            found: vec!["miner".into(), "drift".into()],
            result: Judged::Failed,
            verdict: "denied".into(),
            rung: "lsm".into(),
            latency_us: Some(7),
            effect: Some(true),
            bytes: 9,
            ..Row::skipped(&scenario, 3, "it ran".into())
        };
        let missed = Row { result: Judged::Missed, why: "stated".into(), ..row.clone() };
        for row in [row, missed, Row::skipped(&scenario, 1, "no image".into())] {
            let line = json_row(&row, Mode::Protect).to_string();
            let back = from_json(&line).unwrap();
            assert_eq!(json_row(&back, Mode::Protect).to_string(), line);
            assert_eq!(back.result, row.result);
        }
        assert!(from_json("@section scenarios").is_none() && from_json("{\"id\":\"a\"}").is_none());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [9, 1, 5]), Some(5));
        assert_eq!(median(&mut [4, 1, 2, 8]), Some(3));
    }
}
