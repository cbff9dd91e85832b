//! `cargo xtask churn`: starts and removes containers of some 50 ms by the thousand in the lab's own
//! Docker engine, under the monitor, and judges whether each was identified and whether the
//! monitor's memory stayed flat.
//!
//! Each container asks the kubelet's port on its own loopback, where nobody listens, and then sleeps:
//! one act a container that the monitor reports with the container's id, and with its name and image
//! as soon as the engine has told them.

mod load;
mod rows;
mod verdict;

use crate::bench::daemon::Daemon;
use crate::build::{self, Profile};
use crate::lab::Engine;
use crate::lab::house::Terms;
use crate::lab::images::Images;
use crate::lab::process::Interrupt;
use crate::lab::runtime::Kind;
use crate::process::{Failure, capture, is_root};
use anyhow::{Context, Result, bail};
use load::Load;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};
use verdict::{Memory, Verdict};

/// Image the containers are made from.
const IMAGE: &str = "busybox";
/// Between two looks at the monitor's memory.
const SAMPLE: Duration = Duration::from_millis(500);
/// After the last container, for the engine's last answers to arrive and amendments to be written.
const SETTLE: Duration = Duration::from_secs(20);

/// How much.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Containers to start and remove.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    count: u32,
    /// Started side by side.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: u32,
    /// Also write the result as one JSON object to this file.
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// The monitor to test, instead of the one built here.
    #[arg(long, value_name = "PATH")]
    monitor: Option<PathBuf>,
}

/// Runs the churn and prints the table; the status tells whether all was well.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !is_root() {
        return Err(Failure::privilege("the churn starts an engine and a monitor of its own: run it as root"));
    }
    let interrupt = Interrupt::install()?;
    let binary = match &options.monitor {
        Some(path) => path.clone(),
        None => build::all(Profile::Release)?,
    };
    let engine = Engine::start(Kind::Docker, Terms::default(), &interrupt)?;
    let image = Images::new(&[]).reference(&engine, IMAGE).map_err(anyhow::Error::msg)?;
    let folder = Folder::make(&engine)?;
    let daemon = folder.start(&engine, &binary)?;
    let verdict = measure(&engine, &daemon, &folder, &image, options, &binary)?;
    daemon.stop()?;
    print!("{}", verdict.table());
    println!("{}", verdict.closing_line());
    if let Some(path) = &options.json {
        let text = serde_json::to_string(&verdict.json()).context("render the result")?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if verdict.is_green() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(
    engine: &Engine,
    daemon: &Daemon,
    folder: &Folder,
    image: &str,
    options: &Options,
    binary: &Path,
) -> Result<Verdict> {
    let load = Load::new(engine, image, folder.0.join("ids"), options)?;
    let mut memory = Memory::default();
    let began = Instant::now();
    let made = thread::scope(|scope| -> Result<_> {
        let running = scope.spawn(|| load.run());
        while !running.is_finished() {
            memory.note(load.done(), options.count as usize, daemon.rss_bytes()?);
            thread::sleep(SAMPLE);
        }
        running.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))?
    })?;
    if engine.interrupt().is_set() {
        bail!("interrupted");
    }
    let took = began.elapsed();
    let deadline = Instant::now() + SETTLE;
    let identified = loop {
        let identified = rows::read(&folder.alerts())?;
        let verdict = rows::compare(&made, &identified, image);
        if verdict.is_complete() || Instant::now() > deadline {
            break verdict;
        }
        thread::sleep(SAMPLE);
    };
    // The counters are refreshed once a second.
    thread::sleep(Duration::from_millis(1500));
    Ok(Verdict { count: options.count as usize, took, identified, memory, status: folder.status(binary)? })
}

/// Where the monitor's config, alerts and log are; kept in the lab's cache after the run.
struct Folder(PathBuf);

impl Folder {
    fn make(engine: &Engine) -> Result<Self> {
        let folder = engine.cache().join("churn");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
        }
        fs::create_dir_all(folder.join("ids")).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn alerts(&self) -> PathBuf {
        self.0.join("out.jsonl")
    }

    fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The lab's containers, and nothing else, are the monitor's business.
    fn start(&self, engine: &Engine, binary: &Path) -> Result<Daemon> {
        let config = self.0.join("config.toml");
        let text = toml::to_string(&toml::Table::from_iter([
            ("mode".to_owned(), toml::Value::from("monitor")),
            ("scope".to_owned(), table([("cgroups", vec![engine.cgroup()].into())])),
            ("engine".to_owned(), table([("docker_socket", text(&engine.paths().socket()))])),
            ("output".to_owned(), table([("format", "json".into()), ("file", text(&self.alerts()))])),
            ("control".to_owned(), table([("socket", text(&self.socket()))])),
        ]))?;
        fs::write(&config, text).context("writing the config")?;
        let daemon = Daemon::start(binary, &config, &self.0)?;
        // For whoever cleans up after a run that was killed.
        fs::write(engine.monitor_pid_file(), daemon.id().to_string())?;
        Ok(daemon)
    }

    fn status(&self, binary: &Path) -> Result<Value> {
        let text = capture(Command::new(binary).args(["status", "--json", "--socket"]).arg(self.socket()))?;
        serde_json::from_str(&text).context("reading the monitor's status")
    }
}

fn table<const N: usize>(entries: [(&str, toml::Value); N]) -> toml::Value {
    toml::Table::from_iter(entries.map(|(key, value)| (key.to_owned(), value))).into()
}

fn text(path: &Path) -> toml::Value {
    path.to_string_lossy().into_owned().into()
}
