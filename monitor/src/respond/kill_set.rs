//! Killing a culprit and everything that descends from it, as a set that cannot outrun the killer: first
//! the kernel half is told the line, so that whoever is born into it dies before its first instruction;
//! then those that live are killed until a look finds none that was not signalled.

use super::kill::{self, KillError};
use super::reflex::Reflex;
use crate::container::Registry;
use crate::event::{ContainerKey, ProcessKey};
use monitor_common::lineage::{self, LINEAGE};
use monitor_common::state::RESPONSE_DOOM;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long one kill may keep the pipeline. What lives then (a map that could not be walked whole) is
/// hunted on at every tick.
const LIMIT: Duration = Duration::from_millis(200);
/// Between looks that found nothing new.
const PAUSE: Duration = Duration::from_micros(200);
/// Looks in a row that must find nothing new: the map is walked while it changes, and a look may miss one.
const QUIET_LOOKS: u32 = 3;

/// A set that is being killed.
#[derive(Debug)]
pub struct Hunt {
    container: ContainerKey,
    lines: Vec<u32>,
    /// (tgid, start in clock ticks).
    signalled: HashSet<(u32, u64)>,
    killed: Vec<u32>,
    begun: Instant,
}

impl Hunt {
    /// Dooms the lines of `roots`.
    pub fn start(reflex: &mut dyn Reflex, container: ContainerKey, roots: &[ProcessKey]) -> Self {
        let mut lines: Vec<u32> = Vec::with_capacity(roots.len());
        for root in roots {
            let id = line_of(reflex, *root);
            if !lines.contains(&id) {
                lines.push(id);
            }
        }
        for line in &lines {
            reflex.doom(*line, container);
        }
        let bits = reflex.in_force() | RESPONSE_DOOM;
        reflex.responses(bits);
        Self { container, lines, signalled: HashSet::new(), killed: Vec::new(), begun: Instant::now() }
    }

    /// Its container.
    pub fn container(&self) -> ContainerKey {
        self.container
    }

    /// Everything killed since the last report, and how long the hunt takes so far, µs.
    pub fn take_killed(&mut self) -> (Vec<u32>, u64) {
        (std::mem::take(&mut self.killed), u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Killed so far.
    pub fn killed(&self) -> &[u32] {
        &self.killed
    }

    /// How many were born into it since it began, and died in the kernel.
    pub fn born(&self, reflex: &dyn Reflex) -> u64 {
        self.lines.iter().map(|line| reflex.born(*line)).sum()
    }

    /// How long it has been on.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How many lines it follows.
    pub fn size(&self) -> usize {
        self.lines.len()
    }

    /// Goes on with another one's set, of the same container, as well.
    pub fn join(&mut self, other: Self) {
        for line in other.lines {
            if !self.lines.contains(&line) {
                self.lines.push(line);
            }
        }
        self.signalled.extend(other.signalled);
        self.killed.extend(other.killed);
    }

    /// These were killed by the kernel half: that is not to be told twice.
    pub fn by_kernel(&mut self, processes: &[u32]) {
        self.killed.retain(|pid| !processes.contains(pid));
    }

    /// Kills one process, once.
    ///
    /// # Errors
    /// As [`kill::kill`].
    pub fn kill(&mut self, process: ProcessKey, registry: &Registry) -> Result<(), KillError> {
        if !self.signalled.insert((process.tgid, kill::start_ticks(process.start_ns))) {
            return Ok(());
        }
        kill::kill(process, self.container, registry)?;
        self.killed.push(process.tgid);
        Ok(())
    }

    /// Kills until nobody new is found; false if the time was up before that.
    pub fn run(&mut self, reflex: &dyn Reflex, registry: &Registry) -> bool {
        let deadline = Instant::now() + LIMIT;
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            if Instant::now() >= deadline {
                return false;
            }
            if self.look(reflex, registry) == 0 {
                quiet += 1;
                std::thread::sleep(PAUSE);
            } else {
                quiet = 0;
            }
        }
        true
    }

    /// One look: kills who was not signalled before, and tells how many that were.
    pub fn look(&mut self, reflex: &dyn Reflex, registry: &Registry) -> usize {
        let before = self.signalled.len();
        for (tgid, task) in reflex.members(self.container, &self.lines) {
            match self.kill(ProcessKey { tgid, start_ns: task.start_ns }, registry) {
                Ok(()) | Err(KillError::Gone(_)) => {}
                Err(error) => tracing::debug!(tgid, %error, "a member of a doomed set was not killed"),
            }
        }
        self.signalled.len() - before
    }

    /// Takes the mark back; `last` if no other hunt is on.
    pub fn end(self, reflex: &mut dyn Reflex, last: bool) {
        for line in &self.lines {
            reflex.pardon(*line);
        }
        if last {
            let bits = reflex.in_force() & !RESPONSE_DOOM;
            reflex.responses(bits);
        }
    }
}

/// The word that the descendants of a process bear. Generations beyond [`LINEAGE`] bear their ancestor's
/// of that depth, and go down with its other descendants.
fn line_of(reflex: &dyn Reflex, process: ProcessKey) -> u32 {
    let own = lineage::id(process.tgid, process.start_ns);
    match reflex.task(process.tgid) {
        Some(task) if task.depth as usize >= LINEAGE && kill::same_start(task.start_ns, process.start_ns) => {
            task.lineage[LINEAGE - 1]
        }
        _ => own,
    }
}
