//! `bulkhead replay --repeat`: how fast judgement is, on one core, and whether it says the same twice.

use super::{CliError, CliResult, Exit, Shown, unreadable};
use crate::pipeline::Compiled;
use crate::pipeline::replay::{Replay, Totals};
use crate::recording::{Head, Reader, RecordingError, Woven};
use nix::time::{ClockId, clock_gettime};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Judges the files `rounds` times, as one long recording.
pub(super) fn run(files: &[PathBuf], rounds: u64, compiled: &Compiled) -> CliResult {
    let mut woven = Woven::default();
    for file in files {
        let mut reader = Reader::open(file).map_err(|error| unreadable(file, &error))?;
        woven.add(&mut reader).map_err(|error| unreadable(file, &error))?;
    }
    let measured =
        measure(&mut woven, rounds, compiled).map_err(|error| CliError::failure(format!("laid together: {error}")))?;
    super::super::print(&measured.text(files.len(), rounds))?;
    if measured.differing > 0 {
        return Err(CliError::failure(format!("{} rounds were judged otherwise the second time", measured.differing)));
    }
    Ok(Exit::Ok)
}

/// Time by the clock, and of the processor.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    wall: Duration,
    processor: Duration,
}

impl Spent {
    fn on<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (begun, before) = (Instant::now(), processor_time());
        let done = work();
        self.wall += begun.elapsed();
        self.processor += processor_time().saturating_sub(before);
        done
    }

    fn and(self, other: Self) -> Self {
        Self { wall: self.wall + other.wall, processor: self.processor + other.processor }
    }

    fn line(&self, name: &str, done: u64) -> String {
        let rate = done as f64 / self.wall.as_secs_f64().max(1e-9);
        let (wall, processor) = (self.wall.as_secs_f64(), self.processor.as_secs_f64());
        format!("{name:<26} {wall:>8.3} s ({processor:.3} s of processor time) {rate:>12.0} a second\n")
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// What it came to.
#[derive(Debug, Default)]
struct Measured {
    decoding: Spent,
    judging: [Spent; 2],
    rows: [Spent; 2],
    totals: Totals,
    row_bytes: usize,
    differing: u64,
}

impl Measured {
    /// Judges a round, and makes its rows: those of a replay with `--json`.
    fn judge(
        &mut self,
        run: usize,
        replay: &mut Replay<'_>,
        bytes: &[u8],
        head: &Head,
    ) -> Result<String, RecordingError> {
        let mut found = Vec::new();
        self.judging[run].on(|| replay.read(&mut Reader::new(bytes)?, |judged| found.push(judged)))?;
        Ok(self.rows[run].on(|| {
            let mut shown = Shown::new(head, None);
            found.iter().for_each(|judged| shown.add(judged));
            shown.rows
        }))
    }

    fn text(&self, files: usize, rounds: u64) -> String {
        let Totals { events, findings, .. } = self.totals;
        let mut text =
            format!("{files} recordings beside each other, {rounds} times: {events} events, {findings} findings\n");
        text += &self.decoding.line("decoded", events);
        for (judging, rows) in self.judging.iter().zip(&self.rows) {
            text += &judging.line("decoded and judged", events);
            if findings > 0 {
                text += &rows.line("  rows of JSON of it", findings);
                text += &judging.and(*rows).line("  all of this", events);
            }
        }
        let said = if self.differing == 0 { "byte-identical" } else { "NOT identical" };
        let _ = writeln!(text, "rows of both: {} bytes, {said}", self.row_bytes);
        text
    }
}

/// Everything on this thread: each round is decoded alone, and judged by two that know nothing of each other.
fn measure(woven: &mut Woven, rounds: u64, compiled: &Compiled) -> Result<Measured, RecordingError> {
    let mut measured = Measured::default();
    let Some(head) = woven.head().cloned() else { return Ok(measured) };
    let (mut one, mut other) = (Replay::new(compiled), Replay::new(compiled));
    for number in 0..rounds {
        let bytes = woven.round(number);
        measured.decoding.on(|| decode(&bytes))?;
        let rows = measured.judge(0, &mut one, &bytes, &head)?;
        let again = measured.judge(1, &mut other, &bytes, &head)?;
        measured.row_bytes += rows.len();
        measured.differing += u64::from(rows != again);
    }
    measured.totals = one.totals();
    Ok(measured)
}

fn decode(bytes: &[u8]) -> Result<(), RecordingError> {
    let mut reader = Reader::new(bytes)?;
    while reader.next_entry()?.is_some() {}
    Ok(())
}
