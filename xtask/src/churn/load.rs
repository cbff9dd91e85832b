//! The containers: made, run to their end and removed, some side by side.

use super::Options;
use crate::lab::Engine;
use crate::lab::{docker, process};
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Longest time for one container on a loaded machine, its removal included.
const LIMIT: Duration = Duration::from_secs(120);

/// Asks the kubelet's port of the container's own loopback, then lives for 50 ms.
const ACT: &str = "nc 127.0.0.1 10250 </dev/null; usleep 50000";

/// A container that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// 64 hex digits.
    pub id: String,
    /// As given to the engine.
    pub name: String,
}

/// The work, shared by the threads that do it.
pub struct Load<'a> {
    engine: &'a Engine,
    image: &'a str,
    ids: PathBuf,
    count: usize,
    parallel: usize,
    taken: AtomicUsize,
    done: AtomicUsize,
}

impl<'a> Load<'a> {
    /// Container ids are noted in files below `ids`.
    pub fn new(engine: &'a Engine, image: &'a str, ids: PathBuf, options: &Options) -> Result<Self> {
        let (taken, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (count, parallel) = (usize::try_from(options.count)?, usize::try_from(options.parallel)?);
        Ok(Self { engine, image, ids, count, parallel, taken, done })
    }

    /// Containers that have come and gone.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Runs all of them; ends early only with an error or when the run is interrupted.
    pub fn run(&self) -> Result<Vec<Made>> {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.parallel).map(|_| scope.spawn(|| self.work())).collect();
            let mut made = Vec::with_capacity(self.count);
            for worker in workers {
                made.extend(worker.join().map_err(|_| anyhow!("a worker panicked"))??);
            }
            Ok(made)
        })
    }

    fn work(&self) -> Result<Vec<Made>> {
        let mut made = Vec::new();
        loop {
            let number = self.taken.fetch_add(1, Ordering::Relaxed);
            if number >= self.count || self.engine.interrupt().is_set() {
                return Ok(made);
            }
            let one = self.one(number);
            if one.is_err() {
                // The others need not go on.
                self.taken.store(self.count, Ordering::Relaxed);
            }
            made.push(one?);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn one(&self, number: usize) -> Result<Made> {
        let name = format!("churn-{number}");
        let id_file = self.ids.join(number.to_string());
        let mut command = docker::client(self.engine.paths());
        command.args(["run", "--rm", "--network", "none", "--log-driver", "none", "--name", &name, "--cidfile"]);
        command.arg(&id_file).args(["--entrypoint", "sh", self.image, "-c", ACT]);
        process::must(&mut command, LIMIT, self.engine.interrupt()).with_context(|| format!("container {name}"))?;
        let id = fs::read_to_string(&id_file).with_context(|| format!("the id of container {name}"))?;
        fs::remove_file(&id_file).with_context(|| format!("the id file of container {name}"))?;
        let id = id.trim().to_owned();
        if id.len() != 64 {
            bail!("container {name} has the id `{id}`");
        }
        Ok(Made { id, name })
    }
}
