//! Guests as a stage of `cargo xtask test`: one of each kernel, beside another stage that mostly
//! waits and must not wait for them.

use super::matrix::{self, Boot};
use super::{AT_A_TIME, LIMIT, Means, Options, prepare, report, verified};
use crate::lab::process::Interrupt;
use crate::test::tally::Tally;
use anyhow::{Result, anyhow};
use std::path::Path;

/// What the stage is given of the processors: what nobody else wants.
const NICENESS: i32 = 19;

/// Guests to boot.
pub struct Guests {
    boots: Vec<Boot>,
    means: Means,
    interrupt: Interrupt,
}

impl Guests {
    /// With all that they need from elsewhere. Where QEMU or kernels cannot be had it is said why, and what is
    /// skipped is counted.
    ///
    /// # Errors
    /// The run is interrupted.
    pub fn ready(interrupt: &Interrupt) -> Result<Result<Self, Tally>> {
        let boots = matrix::each_kernel();
        match Means::ready(&boots, interrupt) {
            Ok(means) => Ok(Ok(Self { boots, means, interrupt: interrupt.clone() })),
            Err(error) if interrupt.is_set() => Err(error),
            Err(error) => {
                println!("guests: none of {} was booted: {error:#}", boots.len());
                Ok(Err(Tally { skipped: boots.len() as u64, ..Tally::default() }))
            }
        }
    }

    /// Boots them on this daemon while `other` runs: one result for each guest, and one for the verifier's counts.
    ///
    /// # Errors
    /// Those of `other`, for which guests are ended, too; the tests do not compile; a guest cannot be started.
    pub fn play_beside<T>(self, daemon: &Path, other: impl FnOnce() -> Result<T>) -> Result<(T, Tally)> {
        let interrupt = self.interrupt.clone();
        std::thread::scope(|scope| {
            let guests = scope.spawn(|| self.play(daemon));
            let other = other().inspect_err(|_| interrupt.set());
            let guests = guests.join().map_err(|_| anyhow!("booting guests panicked"));
            Ok((other?, guests??))
        })
    }

    fn play(self, daemon: &Path) -> Result<Tally> {
        // Of this thread, and of all that it starts.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            println!("guests: their priority stays as it is: {error}");
        }
        let options = Options { monitor: Some(daemon.to_owned()), limit: LIMIT, jobs: AT_A_TIME, ..Options::default() };
        let floor = prepare(&options, self.means, self.interrupt)?;
        let reports = floor.boot_all(&self.boots)?;
        println!("\n{}", report::table(&reports));
        let grown = verified::faults(&verified::counts(&reports), &verified::recorded()?);
        for fault in &grown {
            println!("verifier: {fault}");
        }
        let mut results: Vec<(String, bool)> =
            reports.iter().map(|report| (format!("kernel {}", report.boot), report.is_good())).collect();
        results.push(("verifier instruction counts".to_owned(), grown.is_empty()));
        Ok(Tally::of_named(results))
    }
}
