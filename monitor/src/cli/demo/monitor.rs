//! The demo's own monitor: `bulkhead run` with a configuration that is limited to the demo's container.

use super::super::Exit;
use super::error::{DemoError, Doing as _};
use super::folder::left_behind;
use super::interrupt::Interrupt;
use crate::output::{Alert, Row};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long it may take to start; the usual time is well below a second.
const START: Duration = Duration::from_secs(30);
/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(8);
/// Lines of its log that are shown when it fails.
const LAST_LINES: usize = 8;

/// Stopped when dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    child: Child,
    log: PathBuf,
    alerts: PathBuf,
    /// How much of the alerts' file has been read.
    read: u64,
}

impl Monitor {
    /// Starts it with its files in `folder`, acting on the cgroup at `path` only, and waits until it is ready.
    pub(super) fn start(folder: &Path, path: &str, watch_only: bool, interrupt: &Interrupt) -> Result<Self, DemoError> {
        let (config, ready) = (folder.join("bulkhead.toml"), folder.join("ready.sock"));
        let (log, alerts) = (folder.join("monitor.log"), folder.join("alerts.jsonl"));
        let text = configuration(folder, &alerts, path, watch_only);
        fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
        let notices = UnixDatagram::bind(&ready).doing(|| format!("make socket {}", ready.display()))?;
        let stderr = File::create(&log).doing(|| format!("make {}", log.display()))?;
        let program = std::env::current_exe().doing(|| "find this program".to_owned())?;
        let mut command = Command::new(&program);
        command
            .args(["run", "--config"])
            .arg(&config)
            .env("NOTIFY_SOCKET", &ready)
            .env_remove("WATCHDOG_USEC")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            // The terminal's Ctrl-C is for the demo, which stops the monitor last.
            .process_group(0);
        let end_with_us = || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        };
        // SAFETY: between fork and exec only the prctl system call is made; nothing is allocated or locked.
        unsafe { command.pre_exec(end_with_us) };
        let child = command.spawn().doing(|| format!("start {}", program.display()))?;
        let mut monitor = Self { child, log, alerts, read: 0 };
        monitor.wait_until_ready(&notices, interrupt)?;
        Ok(monitor)
    }

    fn wait_until_ready(&mut self, notices: &UnixDatagram, interrupt: &Interrupt) -> Result<(), DemoError> {
        let deadline = Instant::now() + START;
        let mut message = [0_u8; 512];
        while Instant::now() < deadline {
            if interrupt.readable(notices, Duration::from_millis(50))? {
                let length = notices.recv(&mut message).doing(|| "read the monitor's readiness".to_owned())?;
                if message.get(..length).is_some_and(says_ready) {
                    return Ok(());
                }
            }
            self.still_runs()?;
        }
        let how = format!("was not ready within {} s", START.as_secs());
        Err(DemoError::Monitor { exit: Exit::Failure, how, said: self.last_words() })
    }

    /// An error with the monitor's own words and exit status if it has ended.
    pub(super) fn still_runs(&mut self) -> Result<(), DemoError> {
        let ended = self.child.try_wait().doing(|| "look after the monitor".to_owned())?;
        let Some(status) = ended else { return Ok(()) };
        Err(DemoError::Monitor { exit: exit_of(status), how: format!("ended ({status})"), said: self.last_words() })
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
        last.iter().map(|line| format!("  {}", crate::output::escape::shown(line))).collect::<Vec<_>>().join("\n")
    }

    /// The alerts that have come out since the last call, without amendments of earlier ones.
    pub(super) fn alerts(&mut self) -> Result<Vec<Alert>, DemoError> {
        let mut text = String::new();
        File::open(&self.alerts)
            .and_then(|mut file| file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_string(&mut text)))
            .doing(|| format!("read {}", self.alerts.display()))?;
        // A row that is still being written is left for the next call.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += u64::try_from(whole).unwrap_or(u64::MAX);
        Ok(text.get(..whole).unwrap_or_default().lines().filter_map(alert).collect())
    }

    fn stop(&mut self) -> std::io::Result<()> {
        // The child is ours and not yet reaped: its pid cannot be another's.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && self.child.try_wait()?.is_none()
        {
            kill_process(pid, Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                self.child.kill()?;
                self.child.wait()?;
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            left_behind(&format!("the monitor, process {}", self.child.id()), &error);
        }
    }
}

fn alert(line: &str) -> Option<Alert> {
    match serde_json::from_str(line).ok()? {
        Row::Alert(alert) if !alert.bulkhead.amendment => Some(*alert),
        _ => None,
    }
}

fn says_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

/// The monitor's exit status where it is one of ours.
fn exit_of(status: ExitStatus) -> Exit {
    let ours = [Exit::Usage, Exit::Kernel, Exit::Privilege];
    ours.into_iter().find(|exit| status.code() == Some(i32::from(*exit as u8))).unwrap_or(Exit::Failure)
}

/// Paths are the demo's own and hold no character that TOML would want escaped.
pub(super) fn configuration(folder: &Path, alerts: &Path, path: &str, watch_only: bool) -> String {
    let mode = if watch_only { "monitor" } else { "protect" };
    format!(
        "mode = \"{mode}\"\n\
         [scope]\ncgroups = [\"{path}\"]\n\
         [host]\nwatch = false\n\
         [engine]\ndocker = false\n\
         [output]\nformat = \"json\"\nfile = \"{}\"\n\
         [pins]\nroot = \"\"\n\
         [control]\nsocket = \"{}\"\n",
        alerts.display(),
        folder.join("control.sock").display(),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::Config;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn the_configuration_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        for watch_only in [false, true] {
            let text = configuration(folder.path(), &folder.path().join("alerts.jsonl"), "/docker/0123", watch_only);
            let file = folder.path().join("bulkhead.toml");
            fs::write(&file, text).unwrap();
            let config = Config::load(&file).unwrap();
            assert_eq!(config.mode.name(), if watch_only { "monitor" } else { "protect" });
            assert!(!config.host.watch && !config.engine.docker);
        }
    }

    #[test]
    fn readiness_is_a_line_of_its_own() {
        assert!(says_ready(b"READY=1"));
        assert!(says_ready(b"STATUS=x\nREADY=1\n"));
        assert!(!says_ready(b"STATUS=READY=1"));
    }

    #[test]
    fn the_exit_status_of_the_monitor_is_passed_on() {
        let status = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(exit_of(status(69)), Exit::Kernel);
        assert_eq!(exit_of(status(1)), Exit::Failure);
        // Killed, or "ended well" before it was asked to.
        assert_eq!(exit_of(ExitStatus::from_raw(9)), Exit::Failure);
        assert_eq!(exit_of(status(0)), Exit::Failure);
    }
}
