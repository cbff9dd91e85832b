//! The monitor under test: started with a config of the run's own, watched, ended.

use super::verdict::Mode;
use crate::lab::Engine;
use crate::lab::process::{self, Interrupt};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Loading every program on a busy machine; a second is the goal on an idle one. One that dies is noticed at once.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Where a run's alerts, config and log are; kept after the run.
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// In an empty folder of the cache.
    pub fn new(cache: &Path) -> Result<Self> {
        let folder = cache.join("last");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
        }
        let files = Self { folder };
        fs::create_dir_all(files.baselines()).with_context(|| format!("making {}", files.folder.display()))?;
        Ok(files)
    }

    /// The monitor's alerts.
    pub fn alerts(&self) -> PathBuf {
        self.folder.join("alerts.jsonl")
    }

    /// The monitor's own log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("bulkhead.log")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    fn baselines(&self) -> PathBuf {
        self.folder.join("baselines")
    }

    /// Keeps a baseline for the monitors to come.
    pub fn baseline(&self, name: &str, text: &str) -> Result<()> {
        let path = self.baselines().join(name).with_extension("toml");
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// Where the monitor of a run is asked.
pub fn socket(engine: &Engine) -> PathBuf {
    engine.run_dir().join("control.sock")
}

/// Config of a run.
fn config(engine: &Engine, mode: Mode, files: &Files) -> Result<String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let table = toml::toml! { [host]
    watch = true };
    let mut root = table;
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let entry = root.entry(section).or_insert_with(|| toml::Table::new().into());
        if let Some(table) = entry.as_table_mut() {
            table.insert(key.to_owned(), value);
        }
    };
    set("output", "format", "json".into());
    set("output", "file", text(files.alerts()).into());
    match engine.runtime().api_socket() {
        Some(socket) => set("engine", "docker_socket", text(socket).into()),
        None => set("engine", "docker", false.into()),
    }
    set("baseline", "folder", text(files.baselines()).into());
    set("control", "socket", text(socket(engine)).into());
    // Runs are side by side, and nothing is to outlive one.
    set("pins", "root", "".into());
    set("scope", "cgroups", vec![engine.cgroup()].into());
    root.insert("mode".to_owned(), mode.name().into());
    toml::to_string(&root).context("writing the config")
}

/// The running monitor; ended when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    stop: Interrupt,
}

impl Daemon {
    /// Starts it and waits until it says it is ready.
    pub fn start(engine: &Engine, binary: &Path, mode: Mode, files: &Files) -> Result<Self> {
        fs::write(files.config(), config(engine, mode, files)?).context("writing the config")?;
        let socket_path = engine.run_dir().join("notify.sock");
        let _absent = fs::remove_file(&socket_path);
        let socket = UnixDatagram::bind(&socket_path).context("making the readiness socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let log = File::options().create(true).append(true).open(files.log()).context("opening the log")?;
        let child = Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(files.config())
            .env("NOTIFY_SOCKET", &socket_path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the runner, which ends the monitor in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        // For whoever cleans up after a runner that was killed.
        fs::write(engine.monitor_pid_file(), child.id().to_string())?;
        let mut daemon = Self { child, log: files.log(), stop: Interrupt::default() };
        daemon.wait_ready(&socket, engine.patient(READY_LIMIT), engine.interrupt())?;
        let stop = daemon.stop.clone();
        // Later messages (status, watchdog) are read too, or the monitor would block on a full socket.
        thread::spawn(move || {
            let mut buffer = [0_u8; 1024];
            while !stop.is_set() {
                let _quiet = socket.recv(&mut buffer);
            }
        });
        Ok(daemon)
    }

    fn wait_ready(&mut self, socket: &UnixDatagram, limit: Duration, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0_u8; 1024];
        loop {
            if let Ok(n) = socket.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..n]).lines().any(|line| line == "READY=1")
            {
                return Ok(());
            }
            if let Some(death) = self.death() {
                bail!("{death}");
            }
            if interrupt.is_set() {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("the monitor is not ready after {} s:\n{}", limit.as_secs(), self.log_tail());
            }
        }
    }

    /// How it ended, if it has.
    pub fn death(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(format!("the monitor ended with {status}:\n{}", self.log_tail())),
            Ok(None) => None,
            Err(error) => Some(format!("the monitor cannot be waited for: {error}")),
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.set();
        process::terminate(&mut self.child, Duration::from_secs(10));
    }
}
