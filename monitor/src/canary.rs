//! Canaries: the daemon itself does, in a cgroup of its own, what a baseline forbids, to see it stopped. Here is the
//! cgroup and the process; which baseline it is held to, and what follows, is the pipeline's.
//!
//! Nothing but a process that was started here is ever acted upon. It cannot outlive the daemon, and a cgroup that a
//! daemon left behind, having been killed, is removed by the next.

use crate::container::hierarchy::{self, Hierarchy};
use nix::libc;
use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Cgroups of canaries begin so; the daemon's pid follows.
const PREFIX: &str = "bulkhead-canary-";
/// Where they are made if the daemon is in the root cgroup.
const HOME: &str = "bulkhead-canary";
/// Exit status of `bulkhead canary`: it ran.
pub const RAN: u8 = 0;
/// It was refused the connection, with EPERM.
pub const REFUSED: u8 = 77;
/// It got no connection for another reason.
pub const FAILED: u8 = 1;
/// Longest wait for a connection to this machine.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a canary may take before it is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// Ports to wait at besides one that the kernel chooses, which a baseline may expect.
const PORTS: [u16; 4] = [10_943, 17_311, 23_817, 31_007];

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was stopped.
    Stopped,
    /// It happened.
    Happened,
    /// It could not be tried.
    Untried(String),
}

/// The cgroup.
#[derive(Debug)]
pub struct Perch {
    folder: PathBuf,
    /// Its id.
    pub id: u64,
}

/// Where cgroups of canaries can be made without capabilities: the daemon's own cgroup, or, below the root, which
/// belongs to nobody, one that is made here, with capabilities, and stays. What former daemons left there is removed.
pub fn home(watched: &Hierarchy) -> io::Result<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = hierarchy::path_of(&own, watched).unwrap_or("/").trim_start_matches('/').to_owned();
    let folder = watched.mount.join(if own.is_empty() { HOME } else { &own });
    if own.is_empty() && !folder.exists() {
        std::fs::create_dir(&folder)?;
    }
    sweep(&folder);
    Ok(folder)
}

/// Removes the one that stays.
pub fn remove_home() {
    let Ok(watched) = hierarchy::detect() else { return };
    sweep(&watched.mount.join(HOME));
    let _ = std::fs::remove_dir(watched.mount.join(HOME));
}

impl Perch {
    /// Makes it.
    ///
    /// # Errors
    /// There is no writing to it.
    pub fn make(home: &Path) -> io::Result<Self> {
        let folder = home.join(format!("{PREFIX}{}", std::process::id()));
        // Of a try before, whose process was still counted in.
        let _ = std::fs::remove_dir(&folder);
        std::fs::create_dir(&folder)?;
        let id = std::fs::metadata(&folder).map(|meta| meta.ino());
        let mut perch = Self { folder, id: 0 };
        perch.id = id?;
        Ok(perch)
    }

    fn start(&self, arguments: &[&str]) -> io::Result<Child> {
        let members = CString::new(self.folder.join("cgroup.procs").as_os_str().as_bytes())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("canary").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only system calls are made, with memory that was made before.
        unsafe {
            command.pre_exec(move || join(&members));
        }
        command.spawn()
    }
}

impl Drop for Perch {
    fn drop(&mut self) {
        // A process that has just ended may be counted in for a moment. The next daemon tries again.
        for _ in 0..20 {
            match std::fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(1))
                }
                _ => return,
            }
        }
    }
}

/// In the new process: dies with the daemon, and goes to the cgroup. Another error than the one that an LSM program
/// answers to an exec.
fn join(members: &CString) -> io::Result<()> {
    const FAILED: i32 = libc::ESRCH;
    // SAFETY: system calls with constants, a descriptor of our own and a string that lives.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::from_raw_os_error(FAILED));
        }
        let fd = libc::open(members.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let joined = fd >= 0 && libc::write(fd, c"0".as_ptr().cast(), 1) == 1;
        libc::close(fd);
        if joined { Ok(()) } else { Err(io::Error::from_raw_os_error(FAILED)) }
    }
}

/// Removes what daemons that have ended left behind: empty cgroups, nothing else.
fn sweep(home: &Path) {
    for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists() || pid == std::process::id().to_string()) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// A try that goes on.
#[derive(Debug)]
pub struct Try {
    child: Option<Child>,
    refused: bool,
    error: Option<String>,
    listener: Option<TcpListener>,
    begun: Instant,
}

impl Try {
    /// A program start.
    pub fn exec(perch: &Perch) -> Self {
        Self::begin(perch.start(&[]), None)
    }

    /// A connection, to somebody of ours on loopback. `None`: every place we may wait at is one that `may_pass`.
    pub fn connect(perch: &Perch, may_pass: impl Fn(SocketAddr) -> bool) -> Option<Self> {
        let places = std::iter::once(0).chain(PORTS).filter_map(|port| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
            let at = listener.local_addr().ok()?;
            listener.set_nonblocking(true).ok()?;
            Some((listener, at))
        });
        let (listener, at) = { places }.find(|(_, at)| !may_pass(*at))?;
        Some(Self::begin(perch.start(&[&at.to_string()]), Some(listener)))
    }

    fn begin(started: io::Result<Child>, listener: Option<TcpListener>) -> Self {
        let (child, failure) = match started {
            Ok(child) => (Some(child), None),
            Err(error) => (None, Some(error)),
        };
        // Of a program that an LSM program refuses.
        let refused = failure.as_ref().and_then(io::Error::raw_os_error) == Some(libc::EPERM);
        let error = failure.map(|error| format!("the canary cannot be started: {error}"));
        Self { child, refused, error, listener, begun: Instant::now() }
    }

    /// What came of it; `None` if that is not known yet.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let Some(child) = &mut self.child else {
            let stopped = self.refused && self.listener.is_none();
            return Some(if stopped {
                Outcome::Stopped
            } else {
                Outcome::Untried(self.error.take().unwrap_or_default())
            });
        };
        match child.try_wait() {
            Ok(Some(status)) => Some(judge(status, self.listener.as_ref())),
            Ok(None) if self.begun.elapsed() < PATIENCE => None,
            Ok(None) => Some(Outcome::Untried("the canary does not end".into())),
            Err(error) => Some(Outcome::Untried(format!("wait for the canary: {error}"))),
        }
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn judge(status: ExitStatus, listener: Option<&TcpListener>) -> Outcome {
    let reached = listener.is_some_and(|listener| listener.accept().is_ok());
    let is = |code: u8| status.code() == Some(i32::from(code));
    match listener {
        // Whoever else has come meanwhile.
        Some(_) if is(REFUSED) => Outcome::Stopped,
        _ if reached || is(RAN) => Outcome::Happened,
        None if status.signal() == Some(libc::SIGKILL) => Outcome::Stopped,
        _ => Outcome::Untried(format!("the canary ended with {status}")),
    }
}

/// `bulkhead canary`: the process itself.
pub fn sing(to: Option<SocketAddr>) -> u8 {
    let Some(to) = to else { return RAN };
    match TcpStream::connect_timeout(&to, CONNECT) {
        Ok(_) => RAN,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => REFUSED,
        Err(_) => FAILED,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_the_right_end_is_a_proof() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw(libc::SIGKILL);
        assert_eq!(judge(killed, None), Outcome::Stopped);
        assert_eq!(judge(exit(0), None), Outcome::Happened);
        assert!(matches!(judge(ExitStatus::from_raw(libc::SIGSEGV), None), Outcome::Untried(_)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(judge(exit(REFUSED.into()), Some(&listener)), Outcome::Stopped);
        assert!(matches!(judge(killed, Some(&listener)), Outcome::Untried(_)), "it was not connecting yet");
        assert!(matches!(judge(exit(FAILED.into()), Some(&listener)), Outcome::Untried(_)));
        let to = listener.local_addr().unwrap();
        assert_eq!(sing(Some(to)), RAN);
        assert_eq!(judge(exit(REFUSED.into()), Some(&listener)), Outcome::Stopped, "it was another who came");
        assert_eq!(sing(Some(to)), RAN);
        assert_eq!(judge(exit(FAILED.into()), Some(&listener)), Outcome::Happened, "somebody came");
    }
}
