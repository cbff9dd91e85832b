//! The monitor that learns, is promoted and holds; its rows.

use crate::bench::daemon::Daemon;
use crate::lab::Engine;
use crate::process::capture;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long an act is held back before it is learned, s: the services are honest while they are watched.
const SETTLE_S: u32 = 5;
/// Between two writes of what was learned, s.
const WRITE_S: u32 = 1;
/// For what was learned to be on disk, and for a changed file to be read.
const NEWS_LIMIT: Duration = Duration::from_secs(20);

/// See the module.
pub struct Monitor {
    daemon: Daemon,
    folder: PathBuf,
    binary: PathBuf,
}

/// What one row says.
#[derive(Clone, Debug)]
pub struct Row {
    /// `event.action`.
    pub action: String,
    /// 64 hex digits.
    pub container: String,
    /// Denied, killed, observed.
    pub outcome: String,
    /// The rung.
    pub by: String,
    /// What a person reads.
    pub message: String,
}

impl Monitor {
    /// Starts it in an empty folder of the lab's cache.
    pub fn start(engine: &Engine, binary: &Path, images: &[String], drift: bool) -> Result<Self> {
        let folder = engine.cache().join("baselines");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let path = |name: &str| toml::Value::from(folder.join(name).to_string_lossy().into_owned());
        let table = |entries: &[(&str, toml::Value)]| {
            toml::Value::from(toml::Table::from_iter(
                entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())),
            ))
        };
        let learn: Vec<&str> = images.iter().map(String::as_str).collect();
        let socket = engine.paths().socket().to_string_lossy().into_owned();
        let text = toml::to_string(&toml::Table::from_iter([
            ("mode".to_owned(), "protect".into()),
            ("host".to_owned(), table(&[("watch", false.into())])),
            ("scope".to_owned(), table(&[("cgroups", vec![engine.cgroup()].into())])),
            ("engine".to_owned(), table(&[("docker_socket", socket.into())])),
            ("output".to_owned(), table(&[("format", "json".into()), ("file", path("out.jsonl"))])),
            ("control".to_owned(), table(&[("socket", path("control.sock"))])),
            (
                "baseline".to_owned(),
                table(&[
                    ("folder", path("files")),
                    ("learn", learn.into()),
                    ("settle_s", SETTLE_S.into()),
                    ("write_s", WRITE_S.into()),
                    ("drift", if drift { "deny" } else { "learned" }.into()),
                ]),
            ),
        ]))?;
        let config = folder.join("config.toml");
        fs::write(&config, text).context("writing the config")?;
        let daemon = Daemon::start(binary, &config, &folder)?;
        // For whoever cleans up after a run that was killed.
        fs::write(engine.monitor_pid_file(), daemon.id().to_string())?;
        Ok(Self { daemon, folder, binary: binary.to_owned() })
    }

    /// Processor time it has used.
    pub fn cpu(&self) -> Result<Duration> {
        self.daemon.cpu()
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.daemon.stop()
    }

    /// Alerts so far, of containers.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let text = fs::read_to_string(self.folder.join("out.jsonl")).context("reading the alerts")?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).filter_map(|row| alert(&row)).collect())
    }

    /// `bulkhead status`.
    pub fn status(&self) -> Result<Value> {
        let mut command = Command::new(&self.binary);
        let text = capture(command.args(["status", "--json", "--socket"]).arg(self.folder.join("control.sock")))?;
        serde_json::from_str(&text).context("reading the monitor's status")
    }

    /// A number out of it.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        Ok(self.status()?.pointer(pointer).and_then(Value::as_u64).unwrap_or(0))
    }

    /// Names of baselines of which the monitor's own tries were not stopped.
    pub fn unenforced(&self) -> Result<Vec<String>> {
        let status = self.status()?;
        let all = status.get("enforcement").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let is_stopped = |one: &Value| ["connections", "program_starts"].iter().all(|part| one[part] != "NOT STOPPED");
        let name = |one: &Value| one["name"].as_str().unwrap_or_default().to_owned();
        Ok(all.iter().filter(|one| !is_stopped(one)).map(name).collect())
    }

    /// Waits until all that was seen so far is in the files.
    pub fn settle(&self) {
        thread::sleep(Duration::from_secs(u64::from(SETTLE_S + 2 * WRITE_S + 1)));
    }

    /// Names of the baselines.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.folder.join("files")).context("reading the baselines")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".toml").map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// `bulkhead baseline promote`, and waits until the daemon has read it.
    pub fn promote(&self, name: &str, recording: Option<&Path>) -> Result<()> {
        let changes = self.changes()?;
        let mut command = Command::new(&self.binary);
        command.args(["baseline", "promote", name, "--quiet", "0", "--folder"]).arg(self.folder.join("files"));
        if let Some(path) = recording {
            command.arg("--recording").arg(path);
        }
        let output = command.output().context("bulkhead baseline promote")?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("{name} is not promoted:\n{}", String::from_utf8_lossy(&said).trim());
        }
        let deadline = Instant::now() + NEWS_LIMIT;
        while self.changes()? == changes {
            if Instant::now() > deadline {
                bail!("the promotion of {name} is not read");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn changes(&self) -> Result<usize> {
        let text = fs::read_to_string(self.folder.join("out.jsonl")).context("reading the rows")?;
        Ok(text.matches("\"baseline_changed\"").count())
    }

    /// Begins `bulkhead record` for so long.
    pub fn record(&self, time: Duration) -> Result<(Child, PathBuf)> {
        let path = self.folder.join("load.rec");
        let child = Command::new(&self.binary)
            .arg("record")
            .arg("--socket")
            .arg(self.folder.join("control.sock"))
            .args(["--for", &time.as_secs().to_string()])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("bulkhead record")?;
        Ok((child, path))
    }
}

fn alert(row: &Value) -> Option<Row> {
    if row.pointer("/event/kind").and_then(Value::as_str) != Some("alert") {
        return None;
    }
    let text = |pointer: &str| row.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Row {
        action: text("/event/action"),
        container: text("/container/id"),
        outcome: text("/bulkhead/outcome"),
        by: text("/bulkhead/enforced_by"),
        message: text("/message"),
    })
}
