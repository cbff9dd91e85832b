//! The daemon under test: a process of its own, with a config made for the test.

use crate::container::{Group, end_with_us, wait};
use crate::pace;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const READY_WAIT: Duration = Duration::from_secs(30);
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for an alert on a loaded machine. Latency is measured elsewhere.
pub const ALERT_WAIT: Duration = Duration::from_secs(8);

/// What differs from test to test.
pub struct Settings {
    /// `monitor` or `protect`.
    pub mode: &'static str,
    /// Watch the host too.
    pub host: bool,
    /// Replaces the `[engine]` table's content.
    pub engine: String,
    /// Shell commands run before the daemon, in its own mount namespace.
    pub prelude: String,
    /// Content of the `[actions]` table.
    pub actions: String,
    /// Content of the `[baseline]` table; a folder with nothing in it by default.
    pub baseline: String,
    /// Kinds of doors it is not to use, as the config has them.
    pub avoid: &'static str,
    /// Where it pins and what becomes of it; nothing is pinned by default.
    pub pins: Option<Pins>,
}

/// What outlives the daemon.
#[derive(Clone, Debug)]
pub struct Pins {
    /// A BPF file system of the test's own.
    pub root: PathBuf,
    /// `keep` or `release`.
    pub on_exit: &'static str,
    /// The file for all events, shared by the daemons of a test.
    pub events: PathBuf,
    /// The control socket, shared likewise.
    pub socket: Option<PathBuf>,
}

impl Settings {
    /// The common case.
    pub fn mode(mode: &'static str) -> Self {
        Self {
            mode,
            host: false,
            engine: "docker = false".into(),
            prelude: String::new(),
            actions: String::new(),
            baseline: String::new(),
            avoid: "",
            pins: None,
        }
    }
}

/// A running daemon; killed on drop if it was not stopped.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    group: String,
    written: Mutex<Written>,
    scratch: tempfile::TempDir,
}

/// What was read of a daemon's alerts: each is parsed once, as a shared daemon writes hundreds of them.
#[derive(Default)]
struct Written {
    rows: Vec<Arc<Value>>,
    /// Bytes read.
    at: u64,
    /// A line whose end is still to come.
    rest: Vec<u8>,
}

impl Written {
    fn read_on(&mut self, path: &Path) {
        let Ok(mut file) = File::open(path) else { return };
        let start = self.rest.len();
        if file.seek(SeekFrom::Start(self.at)).is_err() || file.read_to_end(&mut self.rest).is_err() {
            return;
        }
        self.at += (self.rest.len() - start) as u64;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let rows = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        self.rows.extend(rows.map(Arc::new));
    }
}

/// The daemon's program: named by `BULKHEAD_BINARY`, or built beside this test.
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("BULKHEAD_BINARY").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let myself = std::env::current_exe().ok()?;
    let beside = myself.parent()?.parent()?.join("bulkhead");
    beside.exists().then_some(beside)
}

/// As [`binary`], for a test that runs: without it tests are skipped.
pub fn program() -> Result<PathBuf> {
    binary().context("no bulkhead program")
}

impl Daemon {
    /// Starts it on this test's containers and waits until it is ready.
    pub fn start(group: &Group, settings: &Settings) -> Result<Self> {
        let scratch = tempfile::tempdir().context("make a scratch folder")?;
        let notifications =
            UnixDatagram::bind(scratch.path().join("notify")).context("make the notification socket")?;
        let log = File::create(scratch.path().join("log")).context("create the log")?;
        fs::write(scratch.path().join("config.toml"), config(&group.path(), scratch.path(), settings))?;
        let mut command = match settings.prelude.as_str() {
            "" => Command::new(program()?),
            prelude => {
                let mut command = Command::new("unshare");
                let script = prelude.replace("@SCRATCH@", &scratch.path().display().to_string());
                command.args(["--mount", "--propagation", "private", "sh", "-c"]);
                command.arg(format!("{script}\nexec \"$@\"")).arg("sh").arg(program()?);
                command
            }
        };
        command
            .args(["run", "--config"])
            .arg(scratch.path().join("config.toml"))
            .env("NOTIFY_SOCKET", scratch.path().join("notify"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = end_with_us(&mut command).spawn().context("start the daemon")?;
        let socket = settings.pins.as_ref().and_then(|pins| pins.socket.clone());
        let socket = socket.unwrap_or_else(|| scratch.path().join("control.sock"));
        let mut daemon = Self { child, socket, group: group.path(), written: Mutex::default(), scratch };
        daemon.await_ready(&notifications)?;
        Ok(daemon)
    }

    fn await_ready(&mut self, notifications: &UnixDatagram) -> Result<()> {
        notifications.set_read_timeout(Some(Duration::from_millis(100)))?;
        let deadline = Instant::now() + pace::wait(READY_WAIT);
        let mut message = [0; 4096];
        while Instant::now() < deadline {
            if let Ok(length) = notifications.recv(&mut message)
                && String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1")
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", self.log());
            }
        }
        bail!("the daemon was not ready in time:\n{}", self.log())
    }

    /// Whether any of its threads is left: the first may be a zombie while others still hold files and locks.
    pub fn is_running(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return false };
        // It stays a child that nobody has waited for.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(pid), options), Ok(None))
    }

    /// Programs that the kernel did not run because they were running already on that processor (a task that was
    /// preempted inside of one): what such a run would have seen was missed.
    pub fn missed_runs(&self) -> String {
        let entries = fs::read_dir(format!("/proc/{}/fdinfo", self.pid())).into_iter().flatten().flatten();
        let programs = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let field = |text: &str, name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned())).unwrap_or_default()
        };
        let missed = programs.filter_map(|text| {
            let count = field(&text, "recursion_misses:");
            (!matches!(count.as_str(), "" | "0")).then(|| {
                format!("program {} of type {}: {count}", field(&text, "prog_id:"), field(&text, "prog_type:"))
            })
        });
        let missed: Vec<String> = missed.collect();
        if missed.is_empty() { "none".to_owned() } else { missed.join(", ") }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// A path in its scratch folder, as the daemon sees it.
    pub fn file(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        Path::new("/proc").join(self.pid().to_string()).join("root").join(path.strip_prefix("/").unwrap_or(&path))
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Kills it as the kernel does when memory is short.
    pub fn kill_9(&mut self) -> Result<()> {
        self.child.kill().context("kill the daemon")?;
        self.child.wait().context("wait for the daemon").map(drop)
    }

    /// Waits until it ends by itself.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the daemon did not end within {STOP_WAIT:?}:\n{}", self.log())
    }

    /// Rows written so far.
    pub fn rows(&self) -> Vec<Arc<Value>> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.read_on(&self.file("out/alerts.jsonl"));
        written.rows.clone()
    }

    /// Rows of a daemon that has ended (and had no mount namespace of its own).
    pub fn rows_after_end(&self) -> Vec<Arc<Value>> {
        let mut written = Written::default();
        written.read_on(&self.scratch.path().join("out/alerts.jsonl"));
        written.rows
    }

    /// Waits for a row; `limit` is that of a host.
    pub fn await_row(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.await_nth(what, limit, 0, wanted)
    }

    /// Waits until there are more such rows than `before`, and returns the first of those.
    pub fn await_nth(
        &self,
        what: &str,
        limit: Duration,
        before: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + pace::wait(limit);
        let (mut checked, mut found) = (0, 0);
        loop {
            let rows = self.rows();
            for row in &rows[checked..] {
                if wanted(row) {
                    if found == before {
                        return Ok(Value::clone(row));
                    }
                    found += 1;
                }
            }
            checked = rows.len();
            if Instant::now() > deadline {
                let seen: Vec<String> = rows.iter().map(|row| brief(row)).collect();
                let log = self.log();
                bail!("no {what} (but for {found}) within {limit:?}; rows: {seen:#?}\nlog:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for an alert of a kind in a container.
    pub fn await_alert(&self, kind: &str, container: &str) -> Result<Value> {
        self.await_row(&format!("{kind} alert"), ALERT_WAIT, |row| is_alert(row, kind, container))
    }

    /// Alerts of a kind in a container so far.
    pub fn alerts(&self, kind: &str, container: &str) -> Vec<Value> {
        self.those(|row| is_alert(row, kind, container))
    }

    fn those(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.rows().iter().filter(|row| wanted(row)).map(|row| Value::clone(row)).collect()
    }

    /// Waits until there are at least so many.
    pub fn await_alerts(&self, kind: &str, container: &str, count: usize) -> Result<()> {
        let what = format!("{kind} alert number {count}");
        self.await_nth(&what, ALERT_WAIT, count - 1, |row| is_alert(row, kind, container)).map(drop)
    }

    /// Answer of `bulkhead status --json`.
    pub fn status(&self) -> Result<Value> {
        let output = Command::new(program()?).args(["status", "--json", "--socket"]).arg(self.socket()).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("status: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs `bulkhead ORDER CONTAINER`: its exit status, and what it says on both outputs.
    pub fn order(&self, order: &str, container: &str) -> Result<(Option<i32>, String)> {
        let output = Command::new(program()?).args([order, container, "--socket"]).arg(self.socket()).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Responses on record.
    pub fn responses(&self, action: &str) -> Vec<Value> {
        self.those(|row| row["event"]["dataset"] == "bulkhead.response" && row["event"]["action"] == action)
    }

    /// Those about one container.
    pub fn responses_about(&self, action: &str, container: &str) -> Vec<Value> {
        let mut rows = self.responses(action);
        rows.retain(|row| row["container"]["id"] == container);
        rows
    }

    /// Waits for a response.
    pub fn await_response(&self, action: &str) -> Result<Value> {
        self.await_row(&format!("{action} response"), ALERT_WAIT, |row| {
            row["event"]["dataset"] == "bulkhead.response" && row["event"]["action"] == action
        })
    }

    /// Resident memory.
    pub fn rss_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Replaces the configuration file and sends SIGHUP.
    pub fn reload(&self, text: &str) -> Result<()> {
        fs::write(self.scratch.path().join("config.toml"), text)?;
        self.signal(Signal::HUP)
    }

    /// The configuration with other settings, as text.
    pub fn config(&self, settings: &Settings) -> String {
        config(&self.group, self.scratch.path(), settings)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, signal).context("signal the daemon")
    }

    /// Asks it to end, and tells how it did.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.await_end().context("after SIGTERM")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is the row an alert of this kind about this container?
pub fn is_alert(row: &Value, kind: &str, container: &str) -> bool {
    row["event"]["kind"] == "alert" && row["event"]["action"] == kind && row["container"]["id"] == container
}

/// What came of the finding.
pub fn outcome(row: &Value) -> &str {
    row["bulkhead"]["outcome"].as_str().unwrap_or_default()
}

fn brief(row: &Value) -> String {
    format!("{} {} {}", row["event"]["action"], row["container"]["id"], row["message"])
}

fn config(group: &str, scratch: &Path, settings: &Settings) -> String {
    let scratch = scratch.display();
    let nothing = Pins { root: "".into(), on_exit: "keep", events: "".into(), socket: None };
    let pins = settings.pins.as_ref().unwrap_or(&nothing);
    let socket = pins.socket.clone().unwrap_or_else(|| format!("{scratch}/control.sock").into());
    let baseline = match settings.baseline.as_str() {
        "" => format!("folder = \"{scratch}/baselines\""),
        given => given.to_owned(),
    };
    let events = match pins.events.to_str() {
        None | Some("") => String::new(),
        Some(path) => format!("events = \"{path}\"\n"),
    };
    format!(
        "mode = \"{}\"\non_daemon_exit = \"{}\"\n[scope]\ncgroups = [\"{group}\"]\n[host]\nwatch = {}\n[engine]\n{}\n[output]\nformat = \"json\"\n\
         file = \"{scratch}/out/alerts.jsonl\"\n{events}[pins]\nroot = \"{}\"\nheartbeat_limit_s = 3\n\
         [control]\nsocket = \"{}\"\n[log]\nlevel = \"debug\"\n[kernel]\navoid = [{}]\n[actions]\n{}\n[baseline]\n{}\n",
        settings.mode,
        pins.on_exit,
        settings.host,
        settings.engine,
        pins.root.display(),
        socket.display(),
        settings.avoid,
        settings.actions,
        baseline
    )
}

/// Runs the program with arguments to its end.
pub fn run_once(command: &mut Command) -> Result<(ExitStatus, String)> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("stderr");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .context("start the program")?;
    let status = wait(child, pace::wait(Duration::from_secs(20)))?;
    Ok((status, fs::read_to_string(&log)?))
}
