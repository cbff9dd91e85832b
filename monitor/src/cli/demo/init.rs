//! The container's first process: makes the container from inside, then carries out orders, one JSON line
//! each. Nothing here returns to the caller of `run`: this is a forked copy of the demo, and must drop
//! none of its guards.

use super::{loopback, rootfs};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What programs are looked for in, in the container.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the demo asks of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Make namespaces and root.
    SetUp,
    /// Run a script with bash, as a runtime's `exec` would.
    Run {
        /// The script.
        script: String,
        /// When it and all it started are killed.
        patience_ms: u64,
    },
    /// Is there such a file?
    Exists {
        /// Path in the container.
        path: String,
    },
    /// Does a file hold this text?
    Contains {
        /// Path in the container.
        path: String,
        /// The text.
        text: String,
    },
}

impl Order {
    /// Runs `script`, at most for `patience`.
    pub(super) fn run(script: &str, patience: Duration) -> Self {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Self::Run { script: script.to_owned(), patience_ms }
    }
}

/// What the container answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It stands.
    Ready {
        /// What its root is made of.
        root: Root,
    },
    /// The script ended.
    Ended {
        /// How, in words.
        how: String,
    },
    /// Yes.
    Yes,
    /// No.
    No,
    /// It could not be done.
    Failed {
        /// Why.
        why: String,
    },
}

/// What the container's root is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Root {
    /// An overlay over the host's root; what is written lands in memory.
    Overlay,
    /// The host's root, read-only, with memory where the attacks write.
    ReadOnly,
}

/// Serves until the other end of `control` is closed.
pub(super) fn run(folder: &Path, control: UnixStream) -> ! {
    let served = catch_unwind(AssertUnwindSafe(|| serve(folder, control)));
    std::process::exit(if matches!(served, Ok(Ok(()))) { 0 } else { 1 })
}

fn serve(folder: &Path, control: UnixStream) -> io::Result<()> {
    // If the demo dies without a clean-up, so does the container.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Out of reach of the terminal's Ctrl-C: the demo ends the container itself.
    setsid()?;
    let mut answers = control.try_clone()?;
    for line in BufReader::new(control).lines() {
        let answer = match serde_json::from_str(&line?) {
            Ok(order) => obey(folder, &order),
            Err(error) => Answer::Failed { why: error.to_string() },
        };
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        answers.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn obey(folder: &Path, order: &Order) -> Answer {
    let failed = |why: io::Error| Answer::Failed { why: why.to_string() };
    match order {
        Order::SetUp => set_up(folder).map_or_else(failed, |root| Answer::Ready { root }),
        Order::Run { script, patience_ms } => {
            let ended = exec(script, Duration::from_millis(*patience_ms));
            ended.map_or_else(failed, |how| Answer::Ended { how })
        }
        Order::Exists { path } => yes(Path::new(path).exists()),
        Order::Contains { path, text } => yes(fs::read_to_string(path).is_ok_and(|content| content.contains(text))),
    }
}

fn yes(is: bool) -> Answer {
    if is { Answer::Yes } else { Answer::No }
}

fn set_up(folder: &Path) -> io::Result<Root> {
    let all = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET;
    unshare(all).map_err(|error| rootfs::named("make namespaces", error))?;
    rustix::system::sethostname(b"bulkhead-demo").map_err(|error| rootfs::named("set the host name", error))?;
    loopback::up().map_err(|error| rootfs::named("bring up the loopback interface", error))?;
    rootfs::enter(folder)
}

/// Starts the script as a runtime would: no terminal, a small environment; waits for it and clears up after it.
fn exec(script: &str, patience: Duration) -> io::Result<String> {
    let child = Command::new("bash")
        .args(["-c", script])
        .env_clear()
        // /tmp is the container's own: nobody else's start-up files are read from there.
        .envs([("PATH", PATH), ("HOME", "/tmp"), ("HISTFILE", "/dev/null"), ("TERM", "dumb")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| rootfs::named("start bash", error))?;
    let ended = wait(child, patience);
    clear()?;
    let status = ended?;
    Ok(status
        .map_or_else(|| format!("it ran on for {} s and was ended", patience.as_secs()), |status| status.to_string()))
}

fn wait(mut child: Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Kills whatever the script left in this pid namespace, and reaps it.
fn clear() -> io::Result<()> {
    // -1 means "everything I can see": only as the first process of a pid namespace is that ours alone.
    if std::process::id() != 1 {
        return Err(io::Error::other("not the first process of a pid namespace"));
    }
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        match waitpid(Pid::from_raw(-1), None::<WaitPidFlag>) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
