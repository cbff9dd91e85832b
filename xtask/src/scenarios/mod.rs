//! `cargo xtask scenarios`: plays attacks and harmless look-alikes in containers of the lab, under a
//! monitor started for the purpose, and judges what it found and stopped. The scenarios themselves
//! are data (`tests/scenarios`).

mod alerts;
mod daemon;
mod file;
mod host;
mod play;
mod report;
mod shuffle;
mod verdict;

pub use report::Summary;
pub use verdict::Mode;

use crate::build;
use crate::lab::Engine;
use crate::lab::images::Images;
use crate::lab::process::Interrupt;
use crate::lab::services::Services;
use alerts::Feed;
use anyhow::{Result, bail};
use daemon::{Daemon, Files};
use file::{Rung, Scenario};
use play::{Remains, Stage};
use report::Report;
use shuffle::Random;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

/// Arguments of `cargo xtask scenarios`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Scenario files, or folders of them.
    #[arg(required = true, value_name = "FILE|FOLDER")]
    pub files: Vec<PathBuf>,
    /// Mode of the monitor under test.
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Kernel to run on.
    #[arg(long, default_value = "host", value_name = "host")]
    pub kernel: String,
    /// Play everything so many times.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Another order, other file names, other pauses; the same for the same seed.
    #[arg(long, value_name = "SEED")]
    pub shuffle: Option<u64>,
    /// A further folder of image definitions, looked into before the repository's own.
    #[arg(long, value_name = "FOLDER")]
    pub images: Vec<PathBuf>,
    /// Only scenarios whose id contains WORD.
    #[arg(long, value_name = "WORD")]
    pub only: Option<String>,
    /// Also write one JSON object a run into this file.
    #[arg(long, value_name = "OUT")]
    pub json: Option<PathBuf>,
    /// The monitor to test, instead of the one built here.
    #[arg(long, value_name = "PATH")]
    pub monitor: Option<PathBuf>,
}

/// Plays the scenarios and prints the table.
pub fn run(args: &Args) -> Result<Summary> {
    if args.kernel != "host" {
        bail!("--kernel {}: scenarios run on the kernel of this machine only (`host`)", args.kernel);
    }
    let mut scenarios = file::read(&args.files)?;
    if let Some(word) = &args.only {
        scenarios.retain(|scenario| scenario.id.contains(word.as_str()));
    }
    if scenarios.is_empty() {
        bail!("no scenario to run");
    }
    let interrupt = Interrupt::install()?;
    let width = scenarios.iter().map(|scenario| scenario.id.len()).max();
    let mut report = Report::new(std::io::stdout().lock(), args.json.as_deref(), width.unwrap_or(0))?;
    let binary = match &args.monitor {
        Some(path) => path.clone(),
        None => build::all(build::Profile::Release)?,
    };
    let engine = Arc::new(Engine::start(&interrupt)?);
    let services = Arc::new(Services::start(&engine)?);
    let images = Images::new(&args.images);
    let files = Files::new(engine.cache())?;
    let feed = Feed::follow(&files.alerts());
    let mut theatre =
        Theatre { engine, services, images, feed, files, binary, mode: args.mode, daemon: None, rung: host_rung() };
    let result = theatre.play_all(&scenarios, args, &mut report);
    theatre.feed.stop();
    drop(theatre);
    result?;
    if interrupt.is_set() {
        bail!("interrupted");
    }
    report.finish()
}

/// How far prevention reaches on this kernel: an LSM program only ever fires where `bpf` is on the
/// active list.
fn host_rung() -> Rung {
    let active = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if active.trim().split(',').any(|name| name == "bpf") { Rung::Lsm } else { Rung::Signal }
}

/// Fields are dropped in this order: the monitor ends before what it watches, the engine last.
struct Theatre {
    daemon: Option<Daemon>,
    services: Arc<Services>,
    engine: Arc<Engine>,
    images: Images,
    feed: Feed,
    files: Files,
    binary: PathBuf,
    mode: Mode,
    rung: Rung,
}

impl Theatre {
    fn play_all<W: std::io::Write>(
        &mut self,
        scenarios: &[Scenario],
        args: &Args,
        report: &mut Report<W>,
    ) -> Result<()> {
        // Images first: a build under the monitor's eyes would be judged with everything else.
        let references: Vec<Result<String, String>> =
            scenarios.iter().map(|scenario| self.images.reference(&self.engine, &scenario.image)).collect();
        let mut random = args.shuffle.map(Random::new);
        let cleaner = Cleaner::start(&self.engine, &self.services);
        let mut number = 0;
        for repeat in 1..=args.repeat {
            let mut order: Vec<usize> = (0..scenarios.len()).collect();
            if let Some(random) = &mut random {
                random.shuffle(&mut order);
            }
            for index in order {
                if self.engine.interrupt().is_set() {
                    return Ok(());
                }
                number += 1;
                let mut scenario = scenarios[index].clone();
                if let Some(random) = &mut random {
                    shuffle::rename_files(&mut scenario, random);
                    thread::sleep(random.pause());
                }
                let row = match &references[index] {
                    Err(why) => verdict::Row::skipped(&scenario, repeat, why.clone()),
                    Ok(image) => self.play_one(scenario, image, number, repeat, &cleaner)?,
                };
                if !self.engine.interrupt().is_set() {
                    report.row(&row)?;
                }
            }
        }
        Ok(())
    }

    fn play_one(
        &mut self,
        scenario: Scenario,
        image: &str,
        number: usize,
        repeat: u32,
        cleaner: &Cleaner,
    ) -> Result<verdict::Row> {
        if self.daemon.is_none() {
            self.daemon = Some(Daemon::start(&self.engine, &self.binary, self.mode, &self.files)?);
        }
        let stage = Stage { engine: &self.engine, services: &self.services, feed: &self.feed, mode: self.mode };
        let (mut seen, remains) = play::play(&stage, scenario.clone(), image, number);
        cleaner.take(remains);
        if let Some(death) = self.daemon.as_mut().and_then(Daemon::death) {
            // The next scenario gets a fresh one; this one is judged without.
            seen.broken = Some(death);
            self.daemon = None;
        }
        Ok(verdict::judge(&scenario, self.mode, self.rung, repeat, &seen))
    }
}

/// Removes containers behind the play's back: half a second each that nobody need wait for.
struct Cleaner {
    queue: Option<mpsc::Sender<Remains>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cleaner {
    fn start(engine: &Arc<Engine>, services: &Arc<Services>) -> Self {
        let (queue, remains) = mpsc::channel::<Remains>();
        let (engine, services) = (Arc::clone(engine), Arc::clone(services));
        let thread = thread::spawn(move || {
            for one in remains {
                one.remove(&engine, &services);
            }
        });
        Self { queue: Some(queue), thread: Some(thread) }
    }

    fn take(&self, remains: Remains) {
        if let Some(queue) = &self.queue {
            let _cleaner_gone = queue.send(remains);
        }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
