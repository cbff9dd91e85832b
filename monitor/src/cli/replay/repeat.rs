//! `bulkhead replay --repeat`: how fast judgement is, on one core, and whether it says the same twice.

use super::{CliError, CliResult, Exit, Shown, unreadable};
use crate::pipeline::Compiled;
use crate::pipeline::replay::{Replay, Totals};
use crate::recording::{Reader, RecordingError, Woven};
use rustix::time::{ClockId, clock_gettime};
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
        measure(&woven, rounds, compiled).map_err(|error| CliError::failure(format!("laid together: {error}")))?;
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

    fn line(&self, name: &str, events: u64) -> String {
        let rate = events as f64 / self.wall.as_secs_f64().max(1e-9);
        let (wall, processor) = (self.wall.as_secs_f64(), self.processor.as_secs_f64());
        format!("{name:<34} {wall:>8.3} s ({processor:.3} s of processor time) {rate:>12.0} events/s\n")
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// What it came to.
#[derive(Debug, Default)]
struct Measured {
    decoding: Spent,
    first: Spent,
    second: Spent,
    totals: Totals,
    row_bytes: usize,
    differing: u64,
}

impl Measured {
    fn text(&self, files: usize, rounds: u64) -> String {
        let Totals { events, findings, .. } = self.totals;
        let mut text = format!("{files} recordings beside each other, {rounds} times: {events} events, {findings} findings\n");
        text += &self.decoding.line("decoding alone", events);
        text += &self.first.line("decoding, judging, rows", events);
        text += &self.second.line("the same a second time", events);
        let said = if self.differing == 0 { "byte-identical" } else { "NOT identical" };
        let _ = writeln!(text, "rows of both: {} bytes, {said}", self.row_bytes);
        text
    }
}

/// Everything on this thread: each round is decoded alone, and judged by two that know nothing of each other.
fn measure(woven: &Woven, rounds: u64, compiled: &Compiled) -> Result<Measured, RecordingError> {
    let mut measured = Measured::default();
    let Some(head) = woven.head() else { return Ok(measured) };
    let (mut one, mut other) = (Replay::new(compiled), Replay::new(compiled));
    for number in 0..rounds {
        let bytes = woven.round(number);
        measured.decoding.on(|| decode(&bytes))?;
        let rows = measured.first.on(|| judge(&mut one, &bytes, head))?;
        let again = measured.second.on(|| judge(&mut other, &bytes, head))?;
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

fn judge(replay: &mut Replay<'_>, bytes: &[u8], head: &crate::recording::Head) -> Result<String, RecordingError> {
    let mut shown = Shown::new(head, None);
    replay.read(&mut Reader::new(bytes)?, |judged| shown.add(&judged))?;
    Ok(shown.rows)
}
