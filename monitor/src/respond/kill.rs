//! Killing one process, and only the one that is meant: by a pidfd taken before its start time and
//! its cgroup are checked, so that a pid that was reused in between is not hit.

use crate::container::Registry;
use crate::event::{ContainerKey, HOST, ProcessKey};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Clock ticks per second that /proc counts in. USER_HZ is part of the ABI and 100 on every
/// architecture Linux supports now (include/asm-generic/param.h), but asked all the same.
fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// Start of a process in clock ticks since boot, as `/proc/PID/stat` would show it.
pub fn start_ticks(start_ns: u64) -> u64 {
    // fs/proc/array.c: nsec_to_clock_t(start_boottime), which divides.
    start_ns / (1_000_000_000 / ticks_per_second())
}

/// The same process start, one of the two known only to a tick (10 ms)? `/proc` cuts what the
/// kernel half gives to the nanosecond.
pub fn same_start(a_ns: u64, b_ns: u64) -> bool {
    start_ticks(a_ns) == start_ticks(b_ns)
}

/// Field 22 of `/proc/PID/stat` (start time) from the file's contents. comm may contain anything,
/// spaces and parentheses too, so the fields are counted from its last parenthesis.
pub fn start_ticks_of(stat: &str) -> Option<u64> {
    stat_field(stat, 22)?.parse().ok()
}

/// A field of `/proc/PID/stat`, numbered as in proc(5); 3 (the state) or later.
pub fn stat_field(stat: &str, number: usize) -> Option<&str> {
    let after = stat.get(stat.rfind(')')? + 1..)?;
    after.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

/// Why a process was not killed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    /// It had ended.
    #[error("process {0} had already ended")]
    Gone(u32),
    /// The pid belongs to another process now.
    #[error("pid {0} belongs to another process now")]
    Reused(u32),
    /// It is not in the container.
    #[error("process {pid} is not in the container (its cgroup is {cgroup})")]
    Elsewhere {
        /// Which.
        pid: u32,
        /// Where it is.
        cgroup: String,
    },
    /// Never.
    #[error("process {pid} is {what}")]
    Protected {
        /// Which.
        pid: u32,
        /// What it is.
        what: &'static str,
    },
    /// The system refused.
    #[error("{call} for process {pid}: {errno}")]
    System {
        /// Which call.
        call: &'static str,
        /// Which process.
        pid: u32,
        /// Why.
        errno: Errno,
    },
}

/// Sends SIGKILL to `process` if it still is that process and lives in `container`.
///
/// # Errors
/// [`KillError`] says which check failed; nothing was sent then.
pub fn kill(process: ProcessKey, container: ContainerKey, registry: &Registry) -> Result<(), KillError> {
    if container == HOST {
        return Err(KillError::Protected { pid: process.tgid, what: "the host's own" });
    }
    kill_if(process, |cgroup| {
        if registry.key_of_process(cgroup) == Some(container) {
            return Ok(());
        }
        let path = crate::container::hierarchy::path_of(cgroup, registry.hierarchy());
        Err(path.unwrap_or("unknown").to_owned())
    })
}

/// Sends SIGKILL if `belongs` says so of the contents of `/proc/PID/cgroup` (else where it is).
fn kill_if(process: ProcessKey, belongs: impl FnOnce(&str) -> Result<(), String>) -> Result<(), KillError> {
    let pid = process.tgid;
    let protected = |what| Err(KillError::Protected { pid, what });
    if pid <= 1 {
        return protected("the host's init");
    }
    if pid == std::process::id() {
        return protected("Bulkhead itself");
    }
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Err(KillError::Gone(pid));
    };
    let fd = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return Err(KillError::Gone(pid)),
        Err(errno) => {
            return Err(KillError::System { call: "pidfd_open", pid, errno });
        }
    };
    // From here on the pidfd pins the process. What /proc says about the number is about it, as
    // long as the start time is right: were it reused, the pidfd's signal would find nobody.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| KillError::Gone(pid))?;
    if start_ticks_of(&stat) != Some(start_ticks(process.start_ns)) {
        return Err(KillError::Reused(pid));
    }
    if matches!(stat_field(&stat, 3), Some("Z" | "X")) {
        return Err(KillError::Gone(pid));
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| KillError::Gone(pid))?;
    belongs(&cgroup).map_err(|cgroup| KillError::Elsewhere { pid, cgroup })?;
    match pidfd_send_signal(fd, Signal::KILL) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(KillError::Gone(pid)),
        Err(errno) => Err(KillError::System { call: "pidfd_send_signal", pid, errno }),
    }
}

/// Is the process the init of a pid namespace other than the host's? Killing it ends its container.
pub fn is_container_init(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    innermost_pid(&status) == Some(1)
}

/// The last number of `NSpid:`, the pid in the innermost namespace.
fn innermost_pid(status: &str) -> Option<u32> {
    status.lines().find_map(|l| l.strip_prefix("NSpid:"))?.split_ascii_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_start_time_is_counted_from_the_last_parenthesis() {
        let stat = "7 (a) S 1 2) R 1 7 7 0 -1 4194304 95 0 0 0 0 0 0 0 20 0 1 0 123456 2500000 90 1 2 3";
        assert_eq!(start_ticks_of(stat), Some(123_456));
        assert_eq!(stat_field(stat, 3), Some("R"));
        assert_eq!(start_ticks_of("7 (x"), None);
        assert_eq!(stat_field(stat, 1), None);
    }

    #[test]
    fn starts_are_compared_by_tick() {
        assert!(same_start(1_234_567_890_123, 1_234_560_000_000));
        assert!(!same_start(1_234_567_890_123, 1_234_570_000_000));
    }

    #[test]
    fn the_innermost_pid_is_the_last() {
        assert_eq!(innermost_pid("Name:\tx\nNSpid:\t4711\t1\n"), Some(1));
        assert_eq!(innermost_pid("Name:\tx\nNSpid:\t4711\n"), Some(4711));
        assert!(!is_container_init(std::process::id()) || std::process::id() == 1);
    }

    #[test]
    fn the_right_process_is_killed_and_no_other() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let tick_ns = 1_000_000_000 / ticks_per_second();
        let start_ns = start_ticks_of(&stat).unwrap() * tick_ns + 1;
        let key = ProcessKey { tgid: child.id(), start_ns };
        let late = ProcessKey { start_ns: start_ns + 2 * tick_ns, ..key };
        assert_eq!(kill_if(late, |_| Ok(())), Err(KillError::Reused(key.tgid)));
        let elsewhere = kill_if(key, |_| Err("/x".into())).unwrap_err();
        assert_eq!(elsewhere, KillError::Elsewhere { pid: key.tgid, cgroup: "/x".into() });
        assert!(child.try_wait().unwrap().is_none());
        kill_if(key, |_| Ok(())).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        assert_eq!(kill_if(key, |_| Ok(())), Err(KillError::Gone(key.tgid)));
    }

    proptest! {
        #[test]
        fn any_stat_line_is_read_without_a_panic(text in "\\PC{0,200}") {
            let _ = start_ticks_of(&text);
        }
    }
}
