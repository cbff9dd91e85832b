//! Events at a fixed rate, whether the monitor keeps up or not (an open loop), and the daemon's account of
//! them: made, received, lost.

use super::container::Container;
use super::daemon::{Counters, Daemon};
use super::worker::{self, Work};
use super::{tiny_program, uninteresting_file};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The rate at which nothing may be lost: opens.
pub const OPENS_PER_S: u64 = 200_000;
/// The rate at which nothing may be lost: execs.
pub const EXECS_PER_S: u64 = 1_000;
/// Processes that share the opens: one alone does not reach the rate where a system call is slow.
const OPEN_WORKERS: u64 = 2;
/// Long enough to fill any ring many times over.
const SECONDS: u64 = 5;
/// For what is still in the ring when the workers have ended.
const DRAIN: Duration = Duration::from_secs(1);
/// The loop looks at the clock this often.
const TICKS_PER_S: u64 = 1_000;

/// What was made and what arrived.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pressure {
    /// Seconds the rate was asked for.
    pub seconds: u64,
    /// Uninteresting opens made: they are no events, but each passes the hook.
    pub opens_made: u64,
    /// Programs started: an event each, and one for each fork and exit that the daemon asks for.
    pub execs_made: u64,
    /// Events that reached the daemon meanwhile; `None` if it did not say.
    pub events_received: Option<u64>,
    /// Events lost meanwhile; `None` if it did not say.
    pub events_lost: Option<u64>,
    /// The daemon's processor time over the whole pass.
    pub daemon_cpu_s: f64,
    /// The daemon's largest resident memory.
    pub daemon_peak_rss_bytes: u64,
}

/// How the workers came into the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// They were put there.
    Joined,
    /// And were started there again, as programs of the container's own.
    Started,
}

/// Drives both rates in one container and reads the daemon's counters before and after.
pub fn apply(daemon: &Daemon, container: &Container, scratch: &Path, door: Door) -> Result<Pressure> {
    let before = daemon.counters();
    let cpu_before = daemon.cpu()?;
    let execs = start(Work::Exec, container, scratch, door)?;
    let openers: Vec<Paced> =
        (0..OPEN_WORKERS).map(|_| start(Work::Open, container, scratch, door)).collect::<Result<_>>()?;
    let opens_made = openers.into_iter().map(finish).sum::<Result<u64>>()?;
    let execs_made = finish(execs)?;
    std::thread::sleep(DRAIN);
    let cpu = daemon.cpu()?.saturating_sub(cpu_before);
    let after = daemon.counters();
    let since = |of: fn(&Counters) -> u64| Some(of(&after?).saturating_sub(of(&before?)));
    Ok(Pressure {
        seconds: SECONDS,
        opens_made,
        execs_made,
        events_received: since(|counters| counters.received),
        events_lost: since(|counters| counters.lost),
        daemon_cpu_s: cpu.as_secs_f64(),
        daemon_peak_rss_bytes: daemon.peak_rss_bytes()?,
    })
}

fn start(work: Work, container: &Container, scratch: &Path, door: Door) -> Result<Paced> {
    let mut command = worker::command(work, scratch)?;
    command.arg("--paced-s").arg(SECONDS.to_string());
    if door == Door::Started {
        command.arg("--again");
    }
    for procs in container.procs() {
        command.arg("--join").arg(procs);
    }
    command.stdout(Stdio::piped()).spawn().map(|child| Paced(Some(child))).context("start a worker")
}

/// A worker that does not outlive a failure of the other.
struct Paced(Option<Child>);

fn finish(mut worker: Paced) -> Result<u64> {
    let Some(child) = worker.0.take() else { return Ok(0) };
    let output = child.wait_with_output().context("wait for a worker")?;
    if !output.status.success() {
        bail!("a worker ended with {}", output.status);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().with_context(|| format!("a worker said {said:?}"))
}

impl Drop for Paced {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// In the worker: keeps the work's rate for this long and returns how much was done. A worker that falls
/// behind catches up rather than slowing the load down, as real load does.
pub fn pace(work: Work, length: Duration, scratch: &Path) -> Result<u64> {
    let rate = match work {
        Work::Open => OPENS_PER_S / OPEN_WORKERS,
        Work::Exec => EXECS_PER_S,
        Work::Connect | Work::Getppid => bail!("{} has no rate to keep", work.name()),
    };
    let (program, file) = (tiny_program(scratch), uninteresting_file(scratch));
    let mut done = 0;
    let start = Instant::now();
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length {
            return Ok(done);
        }
        let due = due(elapsed, rate);
        if done >= due {
            std::thread::sleep(Duration::from_secs(1) / TICKS_PER_S as u32);
            continue;
        }
        // At most a tick's worth before the next look at the clock, so that the end is not overrun.
        let batch = (due - done).min(rate.div_ceil(TICKS_PER_S));
        for _ in 0..batch {
            match work {
                Work::Open => worker::open_once(&file)?,
                _ => worker::exec_once(&program)?,
            }
        }
        done += batch;
    }
}

/// Operations that should have been done after this long.
fn due(elapsed: Duration, rate: u64) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    micros.saturating_mul(rate) / 1_000_000
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_schedule_is_the_rate() {
        assert_eq!(due(Duration::from_secs(5), OPENS_PER_S), 1_000_000);
        assert_eq!(due(Duration::from_millis(1), EXECS_PER_S), 1);
        assert_eq!(due(Duration::ZERO, OPENS_PER_S), 0);
    }

    #[test]
    fn opens_are_paced() {
        let scratch = std::env::temp_dir().join(format!("bulkhead-pace-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        std::fs::write(uninteresting_file(&scratch), "x").unwrap();
        let done = pace(Work::Open, Duration::from_millis(50), &scratch);
        std::fs::remove_dir_all(&scratch).unwrap();
        assert!((1..=OPENS_PER_S / 20).contains(&done.unwrap()));
    }
}
