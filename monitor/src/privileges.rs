//! Capabilities: which are needed when and why, and the drop to the smaller set once the programs
//! are attached. The table is also docs/capabilities.md and the bounding set of the systemd unit.

use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;
use std::fmt::Write as _;

/// How long a capability is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until the programs are attached.
    Start,
    /// As long as the daemon runs.
    Always,
    /// As long as the daemon runs, where bpf(2) on a map's descriptor asks for it (tried at start).
    IfBpfAsks,
}

/// One capability and its reason.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Which.
    pub capability: Capability,
    /// How long.
    pub phase: Phase,
    /// What for.
    pub why: &'static str,
}

/// Everything the daemon ever needs.
pub const NEEDS: &[Need] = &[
    Need {
        capability: Capability::CAP_BPF,
        phase: Phase::IfBpfAsks,
        why: "load programs and make maps. Later only where the kernel asks for it to use a map by its \
              descriptor: before 5.19, with `kernel.unprivileged_bpf_disabled` set (commit c8644cd0efe7)",
    },
    Need {
        capability: Capability::CAP_PERFMON,
        phase: Phase::Start,
        why: "load and attach tracing programs, which read kernel memory (with CAP_BPF, 5.8 and later)",
    },
    Need {
        capability: Capability::CAP_NET_ADMIN,
        phase: Phase::Start,
        why: "load and attach the cgroup programs that see and refuse connections",
    },
    Need {
        capability: Capability::CAP_SYS_ADMIN,
        phase: Phase::Start,
        why: "mount a private cgroup v2 hierarchy where the host has none (cgroup v1 only), and a BPF file \
              system where there is none for the pins; list loaded programs at a takeover; nothing else on \
              5.8 and later",
    },
    Need {
        capability: Capability::CAP_SYS_RESOURCE,
        phase: Phase::Start,
        why: "raise RLIMIT_MEMLOCK, which BPF maps count against up to 5.10; lower the daemon's own oom_score_adj \
              where no service manager has",
    },
    Need {
        capability: Capability::CAP_SETPCAP,
        phase: Phase::Start,
        why: "take the capabilities that are dropped out of the bounding set as well",
    },
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        phase: Phase::Always,
        why: "read /proc/PID/exe, fd and root of processes that are not ours (ptrace access check, \
              proc(5)): what ran before the start, and parents of short-lived processes",
    },
    Need {
        capability: Capability::CAP_DAC_READ_SEARCH,
        phase: Phase::Always,
        why: "follow /proc/PID/root into file systems of containers whose folders other users own",
    },
    Need {
        capability: Capability::CAP_KILL,
        phase: Phase::Always,
        why: "send SIGKILL through a pidfd to processes of other users",
    },
];

/// Why capabilities could not be dropped.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// A capability set cannot be changed.
    #[error("{operation}: {source}")]
    Caps {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: caps::errors::CapsError,
    },
    /// `PR_SET_NO_NEW_PRIVS` was refused.
    #[error("PR_SET_NO_NEW_PRIVS: {0}")]
    NoNewPrivs(std::io::Error),
    /// /proc/self/task cannot be read.
    #[error("/proc/self/task: {0}")]
    Threads(std::io::Error),
}

/// What the drop left.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropped {
    /// Capabilities of this thread now.
    pub kept: Vec<String>,
    /// Other threads of this process that still have more. Capabilities belong to threads: what
    /// runs before the drop keeps its own.
    pub threads_with_more: Vec<u32>,
}

/// The set that stays, given whether bpf(2) asks for CAP_BPF.
pub fn kept(bpf_asks: bool) -> CapsHashSet {
    let stays = |n: &&Need| match n.phase {
        Phase::Start => false,
        Phase::Always => true,
        Phase::IfBpfAsks => bpf_asks,
    };
    NEEDS.iter().filter(stays).map(|n| n.capability).collect()
}

/// Drops this thread to what is needed after the programs are attached, for good: bounding,
/// permitted, effective, inheritable and ambient sets, and no new privileges through exec. To be
/// called before other threads are started; they inherit the result.
///
/// # Errors
/// The kernel refuses a step. What has been dropped by then stays dropped.
pub fn drop_after_attach() -> Result<Dropped, PrivilegeError> {
    drop_to(&kept(bpf_needs_capability()))
}

fn drop_to(keep: &CapsHashSet) -> Result<Dropped, PrivilegeError> {
    let step = |operation: &'static str| move |source| PrivilegeError::Caps { operation, source };
    let permitted = caps::read(None, CapSet::Permitted).map_err(step("read capabilities"))?;
    let effective = caps::read(None, CapSet::Effective).map_err(step("read capabilities"))?;
    let stay: CapsHashSet = permitted.intersection(keep).copied().collect();
    caps::clear(None, CapSet::Ambient).map_err(step("clear the ambient set"))?;
    caps::clear(None, CapSet::Inheritable).map_err(step("clear the inheritable set"))?;
    // Without CAP_SETPCAP the bounding set stays as it is; no_new_privs makes it irrelevant.
    if effective.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).map_err(step("read capabilities"))?;
        for capability in bounding.difference(keep) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(step("shrink the bounding set"))?;
        }
    }
    caps::set(None, CapSet::Effective, &stay).map_err(step("shrink the effective set"))?;
    caps::set(None, CapSet::Permitted, &stay).map_err(step("shrink the permitted set"))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| PrivilegeError::NoNewPrivs(e.into()))?;
    let mut names: Vec<String> = stay.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    let mask = stay.iter().fold(0, |bits, c| bits | c.bitmask());
    Ok(Dropped { kept: names, threads_with_more: threads_with_more(mask)? })
}

/// Threads of this process whose permitted set has bits outside `mask`.
fn threads_with_more(mask: u64) -> Result<Vec<u32>, PrivilegeError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").map_err(PrivilegeError::Threads)? {
        let entry = entry.map_err(PrivilegeError::Threads)?;
        // A thread that has ended meanwhile has no capabilities.
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let id = entry.file_name().to_str().and_then(|n| n.parse().ok());
        if let (Some(id), Some(bits)) = (id, permitted_of(&status))
            && bits & !mask != 0
        {
            found.push(id);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// `CapPrm` out of /proc/PID/status.
fn permitted_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Does bpf(2) refuse work on a map's descriptor to a thread without CAP_BPF? Tried on no
/// descriptor at all, in a thread that gives its own capability up: EBADF means it was let in.
pub fn bpf_needs_capability() -> bool {
    let probe = || {
        for capability in [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN] {
            if caps::drop(None, CapSet::Effective, capability).is_err() {
                return true;
            }
        }
        lookup_without_descriptor() != Some(libc::EBADF)
    };
    // If the thread cannot be started or dies, the safe answer is to keep the capability.
    std::thread::Builder::new()
        .name("bpf-probe".into())
        .spawn(probe)
        .map_or(true, |thread| thread.join().unwrap_or(true))
}

/// `errno` of a BPF_MAP_LOOKUP_ELEM on descriptor -1.
fn lookup_without_descriptor() -> Option<i32> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    // The part of union bpf_attr for map elements: map_fd, padding, key, value, flags.
    let attributes: [u64; 4] = [u64::from(u32::MAX), 0, 0, 0];
    let size = size_of_val(&attributes);
    // SAFETY: bpf(2) reads `size` bytes from the pointer, which is what the array holds and which
    // outlives the call; with an invalid descriptor the kernel follows no pointer inside it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, attributes.as_ptr(), size) };
    (result < 0).then(|| std::io::Error::last_os_error().raw_os_error()).flatten()
}

const PAGE: &str = "\
# Capabilities

Bulkhead needs no more than the capabilities below; `config/bulkhead.service` bounds it to them. Once the
programs are attached the daemon drops to what it needs while it runs, out of every set (bounding, permitted,
effective, inheritable, ambient), and sets `no_new_privs`: whatever happens to the process later, it cannot load
another program, mount, or change the network.

Generated from `monitor/src/privileges.rs` by `bulkhead docs --write`.

| capability | kept | for |
| --- | --- | --- |
";

const NOTES: &str = "
- Not among them: CAP_DAC_OVERRIDE. The folder of `output.file`, `/run/bulkhead` and `/var/lib/bulkhead` must belong
  to root, and so must the engine's socket (it does).
- Not among them either: CAP_CHOWN, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_NET_RAW, CAP_SETUID.
- What is attached stays attached without any capability: a BPF link lives as long as its descriptor or its pin, and
  closing a descriptor asks for nothing. Removing a pin is removing a file: the folder of the pins belongs to root
  and has mode 0700.
- Capabilities belong to threads. The drop comes before the daemon's other threads are started.
";

/// `docs/capabilities.md`.
pub fn markdown() -> String {
    let mut out = PAGE.to_owned();
    for need in NEEDS {
        let kept = match need.phase {
            Phase::Start => "until attached",
            Phase::Always => "always",
            Phase::IfBpfAsks => "always, where the kernel asks for it",
        };
        let _ = writeln!(out, "| `{}` | {kept} | {} |", need.capability, need.why);
    }
    out.push_str(NOTES);
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_stays_is_little() {
        let names = |set: CapsHashSet| {
            let mut names: Vec<_> = set.iter().map(ToString::to_string).collect();
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(names(kept(false)), "CAP_DAC_READ_SEARCH CAP_KILL CAP_SYS_PTRACE");
        assert_eq!(names(kept(true)), "CAP_BPF CAP_DAC_READ_SEARCH CAP_KILL CAP_SYS_PTRACE");
    }

    #[test]
    fn the_unit_bounds_to_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/bulkhead.service");
        let unit = std::fs::read_to_string(path).unwrap();
        let mut bound: Vec<&str> = unit
            .lines()
            .filter_map(|l| l.strip_prefix("CapabilityBoundingSet="))
            .flat_map(str::split_whitespace)
            .collect();
        let mut table: Vec<String> = NEEDS.iter().map(|n| n.capability.to_string()).collect();
        bound.sort_unstable();
        table.sort_unstable();
        assert_eq!(bound, table);
    }

    #[test]
    fn a_thread_that_drops_has_no_more() {
        let root = rustix::process::geteuid().is_root();
        let after = std::thread::spawn(|| {
            let dropped = drop_to(&kept(true));
            let effective = caps::read(None, CapSet::Effective).unwrap();
            let raised = caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN);
            let privs = rustix::thread::no_new_privs().unwrap();
            (dropped.unwrap(), effective, raised.is_ok(), privs)
        });
        let (dropped, effective, raised, no_new_privs) = after.join().unwrap();
        assert!(effective.is_subset(&kept(true)), "{effective:?}");
        assert!(!raised && no_new_privs);
        // The test's own threads did not drop: with privileges they are told.
        let had = caps::read(None, CapSet::Permitted).unwrap();
        assert_eq!(root && !had.is_subset(&kept(true)), !dropped.threads_with_more.is_empty());
    }

    #[test]
    fn the_bpf_probe_leaves_this_thread_alone() {
        let before = caps::read(None, CapSet::Effective).unwrap();
        let _ = bpf_needs_capability();
        assert_eq!(caps::read(None, CapSet::Effective).unwrap(), before);
    }

    #[test]
    fn permitted_is_read_from_status() {
        assert_eq!(permitted_of("Name:\tx\nCapPrm:\t00000000000000a1\n"), Some(0xa1));
        assert_eq!(permitted_of("Name:\tx\n"), None);
    }
}
