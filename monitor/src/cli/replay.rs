//! `bulkhead replay`: the detectors judge recordings, and the configuration says what would be done.

mod repeat;

use super::{CliError, CliResult, Exit, Printed, ReplayArgs};
use crate::finding::{Action, FindingKind, Outcome};
use crate::output::human::Human;
use crate::output::{Alert, Row};
use crate::pipeline::Compiled;
use crate::pipeline::replay::{Judged, Replay, Totals, clock};
use crate::recording::{Head, Reader, RecordingError};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) fn main(args: &ReplayArgs) -> CliResult {
    let loaded = args.config.load()?;
    let compiled = Compiled::new(&loaded).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    if let Some(rounds) = args.repeat {
        return repeat::run(&args.files, rounds, &compiled);
    }
    let human = (!args.json).then(Human::for_stdout);
    for file in &args.files {
        let mut reader = Reader::open(file).map_err(|error| unreadable(file, &error))?;
        let mut shown = Shown::new(reader.head(), human);
        let begun = Instant::now();
        let totals = Replay::new(&compiled).run(&mut reader, |judged| shown.add(&judged));
        let took = begun.elapsed();
        if super::print(&shown.rows)? == Printed::ReaderGone {
            return Ok(Exit::Ok);
        }
        let totals = totals.map_err(|error| unreadable(file, &error))?;
        eprint!("{}", shown.summary(file, reader.head(), &totals, took));
    }
    Ok(Exit::Ok)
}

fn unreadable(file: &Path, error: &RecordingError) -> CliError {
    CliError::failure(format!("{}: {error}", file.display()))
}

/// Rows, and what they add up to.
struct Shown {
    human: Option<Human>,
    host: String,
    clock: crate::output::Clock,
    rows: String,
    row: Vec<u8>,
    table: BTreeMap<(FindingKind, String, &'static str, &'static str), u64>,
}

impl Shown {
    fn new(head: &Head, human: Option<Human>) -> Self {
        Self {
            human,
            host: head.host.clone(),
            clock: clock(head),
            rows: String::new(),
            row: Vec::new(),
            table: BTreeMap::new(),
        }
    }

    fn add(&mut self, judged: &Judged) {
        let finding = &judged.finding;
        let alert = Alert::new(finding, &self.host, &self.clock);
        let name = [&finding.container.name, &finding.container.id].into_iter().find(|name| !name.is_empty());
        let name = name.map_or("?", |name| name.get(..24).unwrap_or(name)).to_owned();
        *self.table.entry((finding.kind, name, outcome(&finding.outcome), due(judged.due))).or_default() += 1;
        match &self.human {
            Some(human) => self.rows.push_str(&human.render(&Row::Alert(Box::new(alert)))),
            None => {
                self.row.clear();
                // Into memory, which takes all.
                let _ = serde_json::to_writer(&mut self.row, &alert);
                self.rows.push_str(str::from_utf8(&self.row).unwrap_or_default());
                self.rows.push('\n');
            }
        }
    }

    fn summary(&self, file: &Path, head: &Head, totals: &Totals, took: Duration) -> String {
        let mut text = format!(
            "{}: recorded on {} ({}) at {} by version {}; {} events, {} missing, {} findings, {} more excepted, {:.0} events/s\n",
            file.display(),
            head.host,
            head.kernel,
            self.clock.wall(),
            head.version,
            totals.events,
            totals.lost,
            totals.findings,
            totals.excepted,
            totals.events as f64 / took.as_secs_f64().max(1e-9),
        );
        if !self.table.is_empty() {
            let _ = writeln!(
                text,
                "{:<22} {:<24} {:<10} {:<18} count",
                "finding", "container", "recorded", "this config would"
            );
        }
        for ((kind, container, outcome, due), count) in &self.table {
            let _ = writeln!(text, "{:<22} {container:<24} {outcome:<10} {due:<18} {count}", kind.name());
        }
        text
    }
}

/// What the kernel half did when it was recorded.
fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Denied { .. } => "denied",
        Outcome::Killed { .. } => "killed",
        _ => "observed",
    }
}

fn due(action: Option<Action>) -> &'static str {
    match action {
        None | Some(Action::Alert) => "alert",
        Some(Action::Deny) => "deny",
        Some(Action::Kill) => "kill",
        Some(Action::Freeze) => "freeze",
        Some(Action::Quarantine) => "quarantine",
        Some(Action::Stop) => "stop",
    }
}
