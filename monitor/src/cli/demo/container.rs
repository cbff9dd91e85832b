//! The container from outside: starts its first process in fresh namespaces, puts it into the cgroup, gives it
//! orders and ends it. What happens inside is `init`'s.

use super::cgroup::Cgroup;
use super::error::{DemoError, Doing as _};
use super::init::{self, Answer, Order, Root};
use super::interrupt::Interrupt;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the container may take to set itself up.
const SET_UP: Duration = Duration::from_secs(10);

/// Ended when dropped: the kernel kills a pid namespace with its first process.
#[derive(Debug)]
pub(super) struct Container {
    pid: Pid,
    pidfd: OwnedFd,
    control: BufReader<UnixStream>,
    root: Root,
}

impl Container {
    /// Starts it; `folder` holds its mount points.
    pub(super) fn start(folder: &Path, cgroup: &Cgroup, interrupt: &Interrupt) -> Result<Self, DemoError> {
        let (ours, theirs) = UnixStream::pair().doing(|| "make a socket pair".to_owned())?;
        let pid = first_process(folder, theirs)?;
        let raw = rustix::process::Pid::from_raw(pid.as_raw());
        let pidfd = raw.ok_or(rustix::io::Errno::SRCH).and_then(|raw| pidfd_open(raw, PidfdFlags::empty()));
        // Without a pidfd the child ends by itself: the other end of its socket is dropped here.
        let pidfd = pidfd.doing(|| format!("open a pidfd for process {pid}"))?;
        let mut container = Self { pid, pidfd, control: BufReader::new(ours), root: Root::Overlay };
        cgroup.add(container.pid())?;
        match container.ask(&Order::SetUp, SET_UP, interrupt)? {
            Answer::Ready { root } => container.root = root,
            other => return Err(DemoError::Container(format!("unexpected answer {other:?}"))),
        }
        Ok(container)
    }

    /// Its first process, as the host counts.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// What its root is made of.
    pub(super) fn root(&self) -> Root {
        self.root
    }

    /// Gives an order and waits for the answer.
    pub(super) fn ask(
        &mut self,
        order: &Order,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<Answer, DemoError> {
        let gone = || DemoError::Container("its first process is gone".to_owned());
        let mut line = serde_json::to_string(order).map_err(|error| DemoError::Container(error.to_string()))?;
        line.push('\n');
        self.control.get_mut().write_all(line.as_bytes()).map_err(|_| gone())?;
        let deadline = Instant::now() + patience;
        if !interrupt.readable(self.control.get_ref(), deadline.saturating_duration_since(Instant::now()))? {
            return Err(DemoError::Container(format!("no answer within {} s", patience.as_secs())));
        }
        let mut answer = String::new();
        // An answer is one small write: once its start can be read, so can its end.
        let read = self.control.read_line(&mut answer).map_err(|_| gone())?;
        if read == 0 {
            return Err(gone());
        }
        match serde_json::from_str(&answer).map_err(|error| DemoError::Container(error.to_string()))? {
            Answer::Failed { why } => Err(DemoError::Container(why)),
            answer => Ok(answer),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Fails only if it is dead already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Forks the first process of a new pid namespace; it does not return in the child.
fn first_process(folder: &Path, control: UnixStream) -> Result<Pid, DemoError> {
    let threads = fs::read_dir("/proc/self/task").doing(|| "list /proc/self/task".to_owned())?.count();
    if threads != 1 {
        return Err(DemoError::Container(format!("cannot fork with {threads} threads")));
    }
    let home = File::open("/proc/self/ns/pid").doing(|| "open /proc/self/ns/pid".to_owned())?;
    unshare(CloneFlags::CLONE_NEWPID).doing(|| "make a pid namespace".to_owned())?;
    // SAFETY: this process has one thread (counted above), so the child's copy of every lock and of the
    // allocator is in order, and it may run any code.
    let forked = unsafe { fork() };
    if let Ok(ForkResult::Child) = forked {
        init::run(folder, control);
    }
    // Children and threads made from now on belong to our own pid namespace again: the kernel refuses
    // threads while the two differ (copy_process in kernel/fork.c). Where this fails the child ends by
    // itself, since nobody holds the other end of its socket.
    setns(&home, CloneFlags::CLONE_NEWPID).doing(|| "return to the own pid namespace".to_owned())?;
    match forked.doing(|| "fork".to_owned())? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => Err(DemoError::Container("the child went astray".to_owned())),
    }
}
