//! `cargo xtask bench`: what the monitor costs, on this machine, now. Every workload is measured without and
//! with the daemon in turn, round after round, so that a machine that warms up or gets busy hurts both
//! alike; medians are reported. A pass of its own with the kernel's BPF statistics on gives the time spent
//! in each program, and a last one drives opens and execs at a fixed rate and counts what arrives.

mod container;
mod daemon;
mod kernel_time;
mod machine;
mod page;
mod pressure;
mod report;
mod tiny;
pub mod worker;

use crate::build::{self, Profile};
use crate::process::{Failure, is_root};
use crate::setup::{self, Purpose};
use crate::workspace;
use anyhow::{Context, Result};
use container::Container;
use daemon::Daemon;
use report::{Report, Workload};
use std::fs;
use std::path::{Path, PathBuf};
use worker::Place;

/// How to measure.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Write the results as one JSON object to this file.
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// Write the results as a page of documentation (docs/performance.md) to this file.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Rounds; the median is taken over them.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// Measures and reports.
pub fn run(options: &Options) -> Result<()> {
    if !is_root() {
        return Err(Failure::privilege(
            "the benchmark loads eBPF programs and makes cgroups: run `sudo -E env \"PATH=$PATH\" cargo xtask bench`",
        ));
    }
    build::object(&setup::run(Purpose::Build)?)?;
    let bench = Bench { daemon: build::daemon(Profile::Release)?, scratch: Scratch::new()? };
    let mut report = Report::new(machine::describe(), options.rounds);
    for round in 1..=options.rounds {
        eprintln!("bench: round {round} of {}", options.rounds);
        bench.round(&mut report)?;
    }
    eprintln!("bench: BPF time per program");
    bench.kernel_time(&mut report)?;
    eprintln!("bench: fixed rate of {} opens/s and {} execs/s", pressure::OPENS_PER_S, pressure::EXECS_PER_S);
    bench.pressure(&mut report)?;
    let results = report.finish();
    print!("{}", page::table(&results));
    let json = serde_json::to_string(&results).context("render the results")?;
    println!("{json}");
    if let Some(path) = &options.json {
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &options.page {
        fs::write(path, page::page(&results)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

struct Bench {
    daemon: PathBuf,
    scratch: Scratch,
}

impl Bench {
    /// Every workload once without and once with the daemon.
    fn round(&self, report: &mut Report) -> Result<()> {
        self.measure_all(|workload, ns| report.without(workload, ns))?;
        let daemon = self.start()?;
        report.started(daemon.start_to_ready, daemon.resting_rss_bytes()?);
        let cpu_before = daemon.cpu()?;
        self.measure_all(|workload, ns| report.with(workload, ns))?;
        report.worked(daemon.cpu()?.saturating_sub(cpu_before), daemon.peak_rss_bytes()?);
        daemon.stop()
    }

    fn measure_all(&self, mut note: impl FnMut(Workload, f64)) -> Result<()> {
        // A fresh container each time, made while the daemon watches, as an engine makes them.
        let container = Container::make()?;
        for workload in Workload::ALL {
            let place = if workload.contained { Place::Container(&container) } else { Place::Host };
            note(workload, worker::measure(workload.work, place, &self.scratch.0)?);
        }
        container.remove()
    }

    fn kernel_time(&self, report: &mut Report) -> Result<()> {
        let statistics = kernel_time::Statistics::enable()?;
        let foreign = kernel_time::programs()?;
        let daemon = self.start()?;
        let container = Container::make()?;
        for workload in Workload::ALL {
            let before = kernel_time::programs()?;
            let place = if workload.contained { Place::Container(&container) } else { Place::Host };
            worker::measure(workload.work, place, &self.scratch.0)?;
            let after = kernel_time::programs()?;
            let operations = workload.work.operations_with_warm_up();
            report.programs(workload, kernel_time::spent(&foreign, &before, &after, operations));
        }
        container.remove()?;
        daemon.stop()?;
        statistics.restore()
    }

    fn pressure(&self, report: &mut Report) -> Result<()> {
        let daemon = self.start()?;
        let container = Container::make()?;
        report.pressure(pressure::apply(&daemon, &container, &self.scratch.0)?);
        container.remove()?;
        daemon.stop()
    }

    fn start(&self) -> Result<Daemon> {
        Daemon::start(&self.daemon, &workspace::config(), &self.scratch.0)
    }
}

/// A folder for this run's files, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("bulkhead-bench-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        tiny::write(&tiny_program(&folder))?;
        fs::write(uninteresting_file(&folder), "nothing of interest\n").context("write the file to open")?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in the temporary folder, and the next run uses another.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program that the exec workload starts.
fn tiny_program(scratch: &Path) -> PathBuf {
    scratch.join("tiny")
}

/// The file that the open workload opens.
fn uninteresting_file(scratch: &Path) -> PathBuf {
    scratch.join("file")
}
