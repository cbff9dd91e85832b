//! `cargo xtask bench`: what the monitor costs, on this machine, now. Every workload is measured without and
//! with the daemon in turn, round after round, so that a machine that warms up or gets busy hurts both
//! alike; medians are reported. A pass of its own with the kernel's BPF statistics on gives the time spent
//! in each program, and a last one drives opens and execs at a fixed rate and counts what arrives.

mod container;
pub mod daemon;
mod held;
mod kernel_time;
pub mod machine;
mod page;
mod pressure;
mod replay;
mod report;
mod tiny;
pub mod worker;

use crate::build::{self, Profile};
use crate::process::{Failure, is_root};
use crate::setup::{self, Purpose};
use crate::workspace;
use anyhow::{Context, Result, bail};
use container::Container;
use daemon::Daemon;
use report::{Report, Workload};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Measure only how fast recordings are judged: the repository's own, N times; needs neither root nor a kernel half.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "200", conflicts_with_all = ["json", "page"])]
    replay: Option<u64>,
    /// Measure only whether it costs more to hold containers to baselines when there are more entries and containers.
    #[arg(long, conflicts_with_all = ["json", "page", "replay"])]
    held: bool,
}

/// Measures and reports.
pub fn run(options: &Options) -> Result<()> {
    if let Some(times) = options.replay {
        return replay::run(times);
    }
    if !is_root() {
        return Err(Failure::privilege(
            "the benchmark loads eBPF programs and makes cgroups: run `sudo -E env \"PATH=$PATH\" cargo xtask bench`",
        ));
    }
    refuse_beside_another()?;
    build::object(&setup::run(Purpose::Build)?)?;
    let daemon = build::daemon(Profile::Release)?;
    let bench = Bench { daemon, interrupted: catch_signals()?, scratch: Scratch::new()? };
    if options.held {
        let interrupted = || bench.interrupted.load(Ordering::Relaxed);
        return held::run(&bench.daemon, &bench.scratch, options.rounds, &interrupted);
    }
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
    /// Set by SIGINT and SIGTERM: the run then ends as after a failure, taking its daemon, its cgroups and
    /// the kernel's statistics switch with it.
    interrupted: Arc<AtomicBool>,
}

/// A monitor that already runs would be in both columns.
fn refuse_beside_another() -> Result<()> {
    for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.trim_end() == "bulkhead" {
            let pid = entry.file_name();
            bail!("a monitor already runs (pid {}): stop it first", pid.to_string_lossy());
        }
    }
    Ok(())
}

/// Catches the signals that end a run early. A second one ends the process at once.
fn catch_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let end_status = 128 + signal;
        flag::register_conditional_shutdown(signal, end_status, Arc::clone(&flag))
            .and_then(|_| flag::register(signal, Arc::clone(&flag)))
            .context("catch signals")?;
    }
    Ok(flag)
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
            note(workload, self.measure(workload, &container)?);
        }
        container.remove()
    }

    fn measure(&self, workload: Workload, container: &Container) -> Result<f64> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        let place = if workload.contained { Place::Container(container) } else { Place::Host };
        worker::measure(workload.work, place, &self.scratch.0)
    }

    fn kernel_time(&self, report: &mut Report) -> Result<()> {
        let statistics = kernel_time::Statistics::enable()?;
        let foreign = kernel_time::programs()?;
        let daemon = self.start()?;
        let container = Container::make()?;
        for workload in Workload::ALL {
            let before = kernel_time::programs()?;
            self.measure(workload, &container)?;
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
        report.pressure(pressure::apply(&daemon, &container, &self.scratch.0, pressure::Door::Joined)?);
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
