//! `bulkhead baseline promote`: how quiet it has been, and what it would have stopped of what was recorded.

use super::{PromoteArgs, Shelf};
use crate::baseline::entry::What;
use crate::baseline::{Baseline, Stage};
use crate::cli::{CliError, CliResult, ConfigArg, Exit, print};
use crate::output::escape::shown;
use crate::pipeline::Compiled;
use crate::pipeline::replay::Replay;
use crate::recording::Reader;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) fn main(shelf: &Shelf, args: &PromoteArgs, config: &ConfigArg) -> CliResult {
    let (name, baseline) = shelf.load(&args.name)?;
    let next = match baseline.stage {
        Stage::Learn => Stage::Monitor,
        Stage::Monitor => Stage::Protect,
        Stage::Protect => {
            return Err(CliError::failure(format!("{name} protects already: there is nothing above that")));
        }
    };
    let mut why = Vec::new();
    why.extend(unquiet(&baseline, args.quiet, Timestamp::now()));
    if args.recordings.is_empty() && next == Stage::Protect {
        why.push("it was not compared with a recording (--recording FILE)".to_owned());
    }
    let unexpected = compare(&baseline, args, config)?;
    let count: u64 = unexpected.values().sum();
    let mut out = String::new();
    for (line, count) in &unexpected {
        let _ = writeln!(out, "not expected, {count} times: {}", shown(line));
    }
    if count > args.budget {
        why.push(format!(
            "the recordings have {count} acts that it does not expect, and {} are allowed (--budget)",
            args.budget
        ));
    }
    print(&out)?;
    if !why.is_empty() && !args.force {
        return Err(CliError::new(Exit::Failure, format!("{name} is not promoted: {} (or --force)", why.join("; "))));
    }
    let from = baseline.stage;
    shelf.change(&name, |baseline| {
        if baseline.stage != from {
            return Err(CliError::failure("somebody else has changed it meanwhile"));
        }
        baseline.stage = next;
        Ok(format!("its mode is {}", next.name()))
    })
}

/// Why it is too early.
fn unquiet(baseline: &Baseline, quiet_s: u64, now: Timestamp) -> Option<String> {
    let learned = baseline.entries.iter().filter_map(|entry| entry.seen.as_ref());
    let Some(newest) = learned.map(|seen| seen.first).max() else {
        return baseline.all().next().is_none().then(|| "it has no entries".to_owned());
    };
    let age = now.as_second().saturating_sub(newest.as_second());
    (u64::try_from(age).unwrap_or(0) < quiet_s)
        .then(|| format!("its newest entry is {age} s old, and {quiet_s} s of quiet are asked for (--quiet)"))
}

/// What it does not expect of the recordings, and how often.
fn compare(baseline: &Baseline, args: &PromoteArgs, config: &ConfigArg) -> Result<BTreeMap<String, u64>, CliError> {
    let mut all = BTreeMap::new();
    if args.recordings.is_empty() {
        return Ok(all);
    }
    let loaded = config.load()?;
    let compiled = Compiled::new(&loaded).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    for file in &args.recordings {
        let unreadable = |error| CliError::failure(format!("{}: {error}", file.display()));
        let mut reader = Reader::open(file).map_err(unreadable)?;
        let (noted, totals) = Replay::new(&compiled).against(&mut reader, baseline.clone()).map_err(unreadable)?;
        if totals.compared == 0 {
            let file = file.display();
            return Err(CliError::failure(format!("{file}: no act of a container of this baseline is in it")));
        }
        let lines = noted.into_iter().map(|(what, count): (What, u64)| (what.to_string(), count));
        lines.for_each(|(line, count)| *all.entry(line).or_default() += count);
    }
    Ok(all)
}
