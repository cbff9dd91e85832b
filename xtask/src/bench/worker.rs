//! The measured process: this program again, under a hidden subcommand, so that the orchestrator's memory
//! and threads are no part of what is measured. It joins its cgroup first, warms up, measures, and prints
//! nanoseconds per operation.

use super::container::Container;
use super::{tiny_program, uninteresting_file};
use crate::process::capture;
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::hint::black_box;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// One operation in so many is done beforehand, unmeasured: caches, branch predictors, first page faults.
const WARM_UP_PART: u32 = 10;

/// Starts the worker anew within its container.
pub const SHELL: &str = "/bin/sh";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// `posix_spawn` and wait of a static program that exits at once.
    Exec,
    /// open(2) for reading and close(2) of an uninteresting file.
    Open,
    /// connect(2) over TCP to a listener on loopback.
    Connect,
    /// A system call that is never hooked.
    Getppid,
}

impl Work {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Exec, Self::Open, Self::Connect, Self::Getppid];

    /// How often it is done in one measurement: some tenths of a second each, long enough to drown the
    /// timer's own cost, short enough for many rounds.
    pub fn operations(self) -> u32 {
        match self {
            Self::Exec => 800,
            Self::Open => 300_000,
            Self::Connect => 8_000,
            Self::Getppid => 3_000_000,
        }
    }

    /// All that a measuring worker does, its warm-up included.
    pub fn operations_with_warm_up(self) -> u32 {
        self.operations() + self.operations() / WARM_UP_PART
    }

    /// Name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Open => "open",
            Self::Connect => "connect",
            Self::Getppid => "getppid",
        }
    }
}

/// Where it is measured.
pub enum Place<'a> {
    /// In the caller's own cgroup.
    Host,
    /// In a container's.
    Container(&'a Container),
}

/// The hidden subcommand's arguments.
#[derive(clap::Args, Debug)]
pub struct WorkerOptions {
    work: Work,
    /// Folder with the program to start and the file to open.
    #[arg(long)]
    scratch: PathBuf,
    /// A `cgroup.procs` file to join by; may be given several times.
    #[arg(long)]
    join: Vec<PathBuf>,
    /// Instead of measuring once, keep a rate for this many seconds.
    #[arg(long)]
    paced_s: Option<u64>,
    /// Having joined, start this program again, as a program that the container itself has started.
    #[arg(long)]
    again: bool,
}

/// Starts a worker and returns its nanoseconds per operation.
pub fn measure(work: Work, place: Place<'_>, scratch: &Path) -> Result<f64> {
    let mut command = command(work, scratch)?;
    if let Place::Container(container) = place {
        for procs in container.procs() {
            command.arg("--join").arg(procs);
        }
    }
    let said = capture(&mut command)?;
    said.trim().parse().with_context(|| format!("a worker said {said:?}"))
}

/// The same of a worker that is a program of the container's own, not one that was put there.
pub fn measure_inside(work: Work, container: &Container, scratch: &Path) -> Result<f64> {
    let mut command = command(work, scratch)?;
    command.arg("--again");
    for procs in container.procs() {
        command.arg("--join").arg(procs);
    }
    let said = capture(&mut command)?;
    said.trim().parse().with_context(|| format!("a worker said {said:?}"))
}

/// A worker's command line, for those who start it differently.
pub fn command(work: Work, scratch: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["bench-worker", work.name(), "--scratch"]).arg(scratch);
    Ok(command)
}

/// The worker itself.
pub fn work(options: &WorkerOptions) -> Result<()> {
    for procs in &options.join {
        std::fs::write(procs, "0").with_context(|| format!("join {}", procs.display()))?;
    }
    if options.again {
        use std::os::unix::process::CommandExt as _;
        // By way of another program: a process that starts the very file it came in with is a runtime on its way.
        let mut command = Command::new(SHELL);
        command.args(["-c", "exec \"$0\" \"$@\""]).arg(std::env::current_exe().context("find this program")?);
        command.args(["bench-worker", options.work.name(), "--scratch"]).arg(&options.scratch);
        if let Some(seconds) = options.paced_s {
            command.arg("--paced-s").arg(seconds.to_string());
        }
        return Err(command.exec()).context("start this program again");
    }
    if let Some(seconds) = options.paced_s {
        let done = super::pressure::pace(options.work, Duration::from_secs(seconds), &options.scratch)?;
        println!("{done}");
        return Ok(());
    }
    let operations = options.work.operations();
    run(options.work, operations / WARM_UP_PART, &options.scratch)?;
    let spent = run(options.work, operations, &options.scratch)?;
    println!("{}", spent.as_nanos() as f64 / f64::from(operations));
    Ok(())
}

/// Does the work so many times and returns the time spent in what is measured of it.
fn run(work: Work, operations: u32, scratch: &Path) -> Result<Duration> {
    match work {
        Work::Exec => {
            let program = tiny_program(scratch);
            timed(operations, || exec_once(&program))
        }
        Work::Open => {
            let file = uninteresting_file(scratch);
            timed(operations, || open_once(&file))
        }
        Work::Connect => connects(operations),
        Work::Getppid => timed(operations, || {
            black_box(rustix::process::getppid());
            Ok(())
        }),
    }
}

fn timed(operations: u32, mut operation: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..operations {
        operation()?;
    }
    Ok(start.elapsed())
}

/// Starts the program and waits for it. Without redirections and hooks, std spawns with posix_spawn(3).
pub fn exec_once(program: &Path) -> Result<()> {
    let status = Command::new(program).status().with_context(|| format!("start {}", program.display()))?;
    if !status.success() {
        bail!("{} ended with {status}", program.display());
    }
    Ok(())
}

/// Opens the file for reading and closes it.
pub fn open_once(file: &Path) -> Result<()> {
    rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map(close)
        .with_context(|| format!("open {}", file.display()))
}

/// close(2) and nothing else: dropped in a program built for debugging, a descriptor is looked at first, with fcntl(2),
/// which is hooked.
fn close(descriptor: impl Into<OwnedFd>) {
    // SAFETY: nobody else has it any more.
    unsafe { rustix::io::close(descriptor.into().into_raw_fd()) };
}

/// Only connect itself is timed. The handshake completes within it, in the kernel; accepting and closing
/// follow in the same thread, so that no other thread's wake-up is measured.
fn connects(operations: u32) -> Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
    let address = listener.local_addr().context("read the listener's address")?;
    let mut spent = Duration::ZERO;
    for _ in 0..operations {
        let start = Instant::now();
        let client = TcpStream::connect(address).context("connect on loopback")?;
        spent += start.elapsed();
        let (server, _) = listener.accept().context("accept on loopback")?;
        // Reset instead of the closing handshake: thousands of TIME_WAIT pairs would use up the ports.
        let reset = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&client, reset).context("set linger")?;
        close(client);
        close(server);
    }
    Ok(spent)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn works_that_need_no_files_take_time() {
        assert!(run(Work::Connect, 20, Path::new("/")).unwrap() > Duration::ZERO);
        assert!(run(Work::Getppid, 1000, Path::new("/")).unwrap() > Duration::ZERO);
    }

    #[test]
    fn a_missing_program_is_an_error_not_a_number() {
        assert!(run(Work::Exec, 1, Path::new("/nonexistent")).is_err());
        assert!(run(Work::Open, 1, Path::new("/nonexistent")).is_err());
    }
}
