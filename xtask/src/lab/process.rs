//! Child processes with an end: every command of the lab has a deadline, its output is bounded, and
//! an interrupted run ends them.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Output kept of each stream; the rest is read and dropped so that the child never blocks on it.
const OUTPUT_LIMIT_BYTES: usize = 256 * 1024;

/// How often a wait looks whether the run was interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(200);

/// Set by SIGINT and SIGTERM; everything that waits looks at it.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on. A second signal changes nothing: timeout(1)
    /// and terminals send them in pairs, and a run that is cut short while it cleans up leaves
    /// everything lying about. Every wait is bounded instead.
    pub fn install() -> Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("catching signals")?;
        }
        Ok(Self(flag))
    }

    /// The run is to end.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends the run.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How a command ended.
#[derive(Debug, Default)]
pub struct Finished {
    /// Exit code, 128 + signal when killed; `None` when it was still running at the deadline.
    pub code: Option<i32>,
    /// Standard output, as far as it was kept.
    pub stdout: String,
    /// Standard error, as far as it was kept.
    pub stderr: String,
}

impl Finished {
    /// It ended by itself, with exit code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The last lines of what it wrote, for an error message.
    pub fn tail(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// A pidfd of `pid`.
pub fn pidfd(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("pidfd_open({pid:?})"))
}

/// Waits until the process of `fd` has ended; false when `deadline` or an interrupt came first.
pub fn wait_pidfd(fd: &OwnedFd, deadline: Instant, interrupt: &Interrupt) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if interrupt.is_set() {
            return false;
        }
        let step = left.min(INTERRUPT_CHECK);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(step.subsec_nanos()) };
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(n) if n > 0 => return true,
            _ if left.is_zero() => return false,
            _ => {}
        }
    }
}

fn read_bounded(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 8192];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        let room = OUTPUT_LIMIT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Runs `command` to its end, or to `limit`, whichever comes first; then it is killed.
pub fn run(command: &mut Command, limit: Duration, interrupt: &Interrupt) -> Result<Finished> {
    run_fed(command, None, limit, interrupt)
}

/// [`run`] with something to read on standard input.
pub fn run_fed(
    command: &mut Command,
    stdin: Option<Stdio>,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<Finished> {
    let child = command
        .stdin(stdin.unwrap_or_else(Stdio::null))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    attend(child, limit, interrupt)
}

/// Waits for a child whose output is piped, at most `limit`; then it is killed.
pub fn attend(mut child: Child, limit: Duration, interrupt: &Interrupt) -> Result<Finished> {
    let stdout = child.stdout.take().map(|s| thread::spawn(|| read_bounded(s)));
    let stderr = child.stderr.take().map(|s| thread::spawn(|| read_bounded(s)));
    let ended = end(&mut child, limit, interrupt)?;
    let code = if ended { exit_code(&mut child)? } else { None };
    // A grandchild may hold the pipes open for ever; its output is of no interest then.
    let text = |reader: Option<thread::JoinHandle<String>>| match reader {
        Some(handle) if ended || handle.is_finished() => join_soon(handle),
        _ => String::new(),
    };
    Ok(Finished { code, stdout: text(stdout), stderr: text(stderr) })
}

fn join_soon(handle: thread::JoinHandle<String>) -> String {
    let deadline = Instant::now() + Duration::from_millis(500);
    while !handle.is_finished() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
    }
    if handle.is_finished() { handle.join().unwrap_or_default() } else { String::new() }
}

fn end(child: &mut Child, limit: Duration, interrupt: &Interrupt) -> Result<bool> {
    let fd = pidfd(child.id())?;
    let ended = wait_pidfd(&fd, Instant::now() + limit, interrupt);
    if !ended {
        child.kill().context("ending a command that ran too long")?;
        child.wait().context("waiting for a killed command")?;
    }
    Ok(ended)
}

fn exit_code(child: &mut Child) -> Result<Option<i32>> {
    use std::os::unix::process::ExitStatusExt;
    let status = child.wait().context("waiting for a command")?;
    Ok(status.code().or_else(|| status.signal().map(|s| 128 + s)))
}

/// [`run`] for commands that must succeed; returns their standard output.
pub fn must(command: &mut Command, limit: Duration, interrupt: &Interrupt) -> Result<String> {
    let shown = shown(command);
    let finished = run(command, limit, interrupt)?;
    match finished.code {
        Some(0) => Ok(finished.stdout),
        Some(code) => bail!("{shown}: exit code {code}\n{}", finished.tail()),
        None if interrupt.is_set() => bail!("{shown}: interrupted"),
        None => bail!("{shown}: still running after {} s", limit.as_secs()),
    }
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text.truncate(text.floor_char_boundary(120));
    text
}

/// Ends a child: SIGTERM, `grace`, SIGKILL.
pub fn terminate(child: &mut Child, grace: Duration) {
    let Ok(fd) = pidfd(child.id()) else {
        return;
    };
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let _gone = rustix::process::pidfd_send_signal(&fd, Signal::TERM);
    if !wait_pidfd(&fd, Instant::now() + grace, &Interrupt::default()) {
        let _gone = child.kill();
    }
    let _status = child.wait();
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended() {
        let before = Instant::now();
        let finished = run(Command::new("sleep").arg("30"), Duration::from_millis(100), &Interrupt::default()).unwrap();
        assert_eq!(finished.code, None);
        assert!(before.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn output_and_code_are_kept() {
        let finished = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Duration::from_secs(5),
            &Interrupt::default(),
        )
        .unwrap();
        assert_eq!(finished.code, Some(3));
        assert_eq!(finished.stdout, "out\n");
        assert_eq!(finished.tail(), "err");
    }
}
