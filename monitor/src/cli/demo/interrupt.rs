//! Ctrl-C and its kin. The signals are blocked and read from a descriptor where the demo waits, so that nothing
//! is ever left half made. Children get their signal mask back from the standard library when they are started.

use super::error::{DemoError, Doing as _};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Waits that end early when a signal asks the demo to stop.
#[derive(Debug)]
pub(super) struct Interrupt {
    signals: SignalFd,
}

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP end the next wait instead of the process.
    pub(super) fn install() -> Result<Self, DemoError> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().doing(|| "block signals".to_owned())?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&set, flags).doing(|| "open a signal descriptor".to_owned())?;
        Ok(Self { signals })
    }

    /// Waits for `time`.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), DemoError> {
        self.wait(None, time).map(drop)
    }

    /// Waits until `fd` can be read (`true`) or `time` is over (`false`).
    pub(super) fn readable(&self, fd: &impl AsFd, time: Duration) -> Result<bool, DemoError> {
        self.wait(Some(fd.as_fd()), time)
    }

    fn wait(&self, other: Option<BorrowedFd<'_>>, time: Duration) -> Result<bool, DemoError> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
            fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.doing(|| "wait for the demo's parts".to_owned())?,
            };
            let other_ready = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            self.check()?;
            if other_ready || left.is_zero() {
                return Ok(other_ready);
            }
        }
    }

    fn check(&self) -> Result<(), DemoError> {
        let info = self.signals.read_signal().doing(|| "read the signal descriptor".to_owned())?;
        let Some(info) = info else { return Ok(()) };
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        Err(DemoError::Interrupted(signal.map_or("a signal", Signal::as_str)))
    }
}
