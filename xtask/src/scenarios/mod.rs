//! `cargo xtask scenarios`: plays attacks and harmless look-alikes in containers of the lab, under a
//! monitor started for the purpose, and judges what it found and stopped. The scenarios themselves
//! are data (`tests/scenarios`).

mod alerts;
mod daemon;
mod file;
mod guest;
mod host;
mod page;
mod play;
mod recorder;
mod report;
mod shuffle;
mod theatre;
mod verdict;

pub use report::Summary;
pub use verdict::Mode;

use crate::build;
use crate::lab::Engine;
use crate::lab::house::Terms;
use crate::lab::images::Images;
use crate::lab::process::Interrupt;
use crate::lab::runtime::Kind;
use crate::lab::services::Services;
use crate::vm::matrix::Layout;
use alerts::Feed;
use anyhow::{Result, bail};
use daemon::Files;
use file::Rung;
use recorder::Recorder;
use report::Report;
use std::path::PathBuf;
use std::sync::Arc;
use theatre::Theatre;

/// Arguments of `cargo xtask scenarios`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Scenario files, or folders of them.
    #[arg(required = true, value_name = "FILE|FOLDER")]
    pub files: Vec<PathBuf>,
    /// Mode of the monitor under test.
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Kernel to run on: this machine's, or a Debian kernel series such as 6.12, under QEMU.
    #[arg(long, default_value = "host", value_name = "host|VERSION")]
    pub kernel: String,
    /// Leave `bpf` out of the guest's security modules.
    #[arg(long)]
    pub no_lsm: bool,
    /// Cgroup hierarchies of the guest; v2 unless told.
    #[arg(long)]
    pub cgroup: Option<Layout>,
    /// What makes the containers.
    #[arg(long, value_enum, default_value_t)]
    pub engine: Kind,
    /// Play everything so many times.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Another order, other file names, ports and shells, longer command lines, pauses; the same for the same seed.
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
    /// Write what was found, stopped and missed as a page of documentation (docs/detection.md); needs --json.
    #[arg(long, value_name = "PATH", requires = "json")]
    pub page: Option<PathBuf>,
    /// JSON rows of an earlier run (of the other mode) that go into the page as well.
    #[arg(long, value_name = "JSON", requires = "page")]
    pub earlier: Vec<PathBuf>,
    /// How many scenarios are on at a time, each in its container; twice the processors unless told. They
    /// mostly wait.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// Keep what the monitor judged of each scenario in this folder, as recordings.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["shuffle", "repeat"])]
    pub record: Option<PathBuf>,
    /// Multiplies every limit and settling time: for an emulated machine.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub slowness: u32,
    /// A folder with images and programs that are not to be built here.
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub prebuilt: Option<PathBuf>,
    /// The monitor to test, instead of the one built here.
    #[arg(long, value_name = "PATH")]
    pub monitor: Option<PathBuf>,
}

/// Plays the scenarios and prints the table.
pub fn run(args: &Args) -> Result<Summary> {
    if args.kernel == "host" && (args.no_lsm || args.cgroup.is_some()) {
        bail!("--no-lsm and --cgroup are of a guest: name its kernel (--kernel 6.12)");
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
    let mut report = Report::new(std::io::stdout(), args.json.as_deref(), args.mode, width.unwrap_or(0))?;
    let binary = match &args.monitor {
        Some(path) => path.clone(),
        None => build::all(build::Profile::Release)?,
    };
    if args.kernel != "host" {
        return guest::run(args, &scenarios, &binary, report, &interrupt);
    }
    let terms = Terms { slowness: args.slowness, prebuilt: args.prebuilt.clone() };
    let engine = Arc::new(Engine::start(args.engine, terms, &interrupt)?);
    let ports = args.shuffle.map(shuffle::ports).unwrap_or_default();
    let services = Arc::new(Services::start(&engine, &ports)?);
    let mut images = Images::new(&args.images);
    let files = Files::new(engine.cache())?;
    let feed = Feed::follow(&files.alerts());
    let recorder = args.record.as_ref().map(|folder| Recorder {
        folder: folder.clone(),
        binary: binary.clone(),
        socket: daemon::socket(&engine),
    });
    let theatre = Theatre::new(engine, services, feed, files, binary, args.mode, host_rung()).recording(recorder);
    let result = theatre.play_all(&scenarios, &mut images, args, &mut report);
    drop(theatre);
    result?;
    if interrupt.is_set() {
        bail!("interrupted");
    }
    let summary = report.finish()?;
    if let (Some(path), Some(json)) = (&args.page, &args.json) {
        let files: Vec<PathBuf> = args.earlier.iter().chain([json]).cloned().collect();
        page::write(path, &files)?;
    }
    Ok(summary)
}

/// How far prevention reaches on this kernel: an LSM program only ever fires where `bpf` is on the
/// active list.
fn host_rung() -> Rung {
    let active = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if active.trim().split(',').any(|name| name == "bpf") { Rung::Lsm } else { Rung::Signal }
}
