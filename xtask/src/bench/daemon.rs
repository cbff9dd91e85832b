//! The daemon under measurement: started as systemd would, watched through /proc, stopped with SIGTERM.

use crate::process::capture;
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for `READY=1`: a start that takes this long is a failure, not a number.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for the end after SIGTERM.
const STOP_WAIT: Duration = Duration::from_secs(15);
/// After `READY=1`, until resident memory is called "at rest".
const REST: Duration = Duration::from_secs(1);

/// A running daemon. Killed on drop if [`Daemon::stop`] was not called.
pub struct Daemon {
    child: Child,
    program: PathBuf,
    log: PathBuf,
    /// From starting the process to `READY=1`.
    pub start_to_ready: Duration,
}

/// The daemon's own account of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Events that reached the daemon.
    pub received: u64,
    /// Events that the kernel half counted as lost.
    pub lost: u64,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub fn start(program: &Path, config: &Path, scratch: &Path) -> Result<Self> {
        let socket = scratch.join("notify.sock");
        remove_if_there(&socket)?;
        let notifications = UnixDatagram::bind(&socket).context("make the notification socket")?;
        let log = scratch.join("daemon.log");
        let log_file = File::create(&log).context("create the daemon's log")?;
        let alerts = File::create(scratch.join("alerts.jsonl")).context("create the alerts' file")?;
        let mut command = Command::new(program);
        // What stayed attached would be measured as the machine without the monitor.
        command
            .args(["run", "--no-pins"])
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(alerts)
            .stderr(log_file);
        if config.exists() {
            command.arg("--config").arg(config);
        }
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut daemon = Self { child, program: program.to_path_buf(), log, start_to_ready: Duration::ZERO };
        daemon.await_ready(&notifications, started)?;
        daemon.start_to_ready = started.elapsed();
        Ok(daemon)
    }

    fn await_ready(&mut self, notifications: &UnixDatagram, started: Instant) -> Result<()> {
        // Short, so that a daemon that dies is noticed; a datagram ends the wait at once.
        notifications.set_read_timeout(Some(Duration::from_millis(100))).context("set a time limit")?;
        let mut message = [0_u8; 4096];
        while started.elapsed() < READY_WAIT {
            if let Ok(length) = notifications.recv(&mut message) {
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                if text.lines().any(|line| line == "READY=1") {
                    return Ok(());
                }
            }
            if let Some(status) = self.child.try_wait().context("look after the daemon")? {
                bail!("the daemon ended with {status} before it was ready:\n{}", self.last_words());
            }
        }
        bail!("the daemon was not ready within {READY_WAIT:?}:\n{}", self.last_words())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Resident memory shortly after it became ready, before it has seen any load.
    pub fn resting_rss_bytes(&self) -> Result<u64> {
        std::thread::sleep(REST);
        self.rss_bytes()
    }

    /// Largest resident memory so far.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        self.status_field("VmHWM:")
    }

    /// Resident memory now.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.status_field("VmRSS:")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn status_field(&self, name: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        kib_field(&text, name).with_context(|| format!("{path} has no {name}"))
    }

    /// Processor time it has used, in user and kernel mode, all threads.
    pub fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let ticks = cpu_ticks(&text).with_context(|| format!("{path} is not as proc(5) says"))?;
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100))
    }

    /// What it has counted, if this build answers on its control socket.
    pub fn counters(&self) -> Option<Counters> {
        let text = capture(Command::new(&self.program).args(["status", "--json"])).ok()?;
        counters(&serde_json::from_str(&text).ok()?)
    }

    /// Stops it and waits for a clean end.
    pub fn stop(mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::TERM).context("send SIGTERM to the daemon")?;
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("wait for the daemon")? {
                if !status.success() {
                    bail!("the daemon ended with {status}:\n{}", self.last_words());
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the daemon did not end within {STOP_WAIT:?} after SIGTERM")
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("the daemon has no pid"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a regular stop both fail, as the process is gone and waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A field of /proc/pid/status that is given in kB, in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// utime + stime of /proc/pid/stat: fields 14 and 15, counted after the name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn counters(status: &Value) -> Option<Counters> {
    Some(Counters {
        received: status.get("events_received")?.as_u64()?,
        lost: status.get("events_lost").and_then(Value::as_u64).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn reads_proc() {
        assert_eq!(kib_field("VmPeak:\t  9 kB\nVmHWM:\t    2048 kB\n", "VmHWM:"), Some(2 << 20));
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 3 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(280));
    }

    #[test]
    fn counters_are_optional() {
        let full = serde_json::json!({"events_received": 10, "events_lost": 2, "mode": "monitor"});
        assert_eq!(counters(&full), Some(Counters { received: 10, lost: 2 }));
        assert_eq!(counters(&serde_json::json!({})), None);
    }

    #[test]
    fn a_daemon_that_dies_is_an_error_with_its_last_words() {
        let scratch = std::env::temp_dir().join(format!("bulkhead-daemon-test-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let program = scratch.join("dies");
        fs::write(&program, "#!/bin/sh\necho no kernel half >&2\nexit 69\n").unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = Daemon::start(&program, Path::new("/nonexistent"), &scratch).err().unwrap().to_string();
        fs::remove_dir_all(&scratch).unwrap();
        assert!(error.contains("69") && error.contains("no kernel half"), "{error}");
    }

    #[test]
    fn a_daemon_that_gets_ready_is_measured_and_stopped() {
        let scratch = std::env::temp_dir().join(format!("bulkhead-daemon-ready-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let program = scratch.join("ready");
        let script = "#!/usr/bin/env python3\nimport os, signal, socket, sys\n\
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n\
            s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
            s.sendto(b'STATUS=loading\\nREADY=1\\n', os.environ['NOTIFY_SOCKET'])\n\
            signal.pause()\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let has_python = crate::process::find("python3").is_some();
        let stopped = has_python.then(|| {
            let daemon = Daemon::start(&program, Path::new("/nonexistent"), &scratch)?;
            assert!(daemon.start_to_ready > Duration::ZERO);
            assert!(daemon.peak_rss_bytes()? > 0);
            daemon.cpu()?;
            daemon.stop()
        });
        fs::remove_dir_all(&scratch).unwrap();
        if let Some(result) = stopped {
            result.unwrap();
        }
    }
}
