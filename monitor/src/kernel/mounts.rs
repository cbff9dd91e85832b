//! File systems the loader needs: tracefs for the ids of system call tracepoints, a cgroup v2 mount
//! for the cgroup programs. Where the host has none, they are mounted in a mount namespace of the
//! daemon's own, so that nothing changes for anybody else.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Why a file system could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A private mount namespace was refused.
    #[error("make a private mount namespace: {0}")]
    Namespace(nix::Error),
    /// The mount was refused.
    #[error("mount {kind} on {at}: {source}")]
    Mount {
        /// File system type.
        kind: &'static str,
        /// Where.
        at: PathBuf,
        /// Why.
        source: nix::Error,
    },
}

/// Makes tracefs available at its usual place. Must be called before any thread is started, since a
/// mount namespace belongs to a thread.
pub fn tracefs() -> Result<(), MountError> {
    if Path::new(TRACEFS).join("events/syscalls").exists()
        || Path::new("/sys/kernel/debug/tracing/events/syscalls").exists()
    {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(MountError::Namespace)?;
    // Host mounts made later still arrive here; ours do not go there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(MountError::Namespace)?;
    mount_at("tracefs", Path::new(TRACEFS))
}

fn mount_at(kind: &'static str, at: &Path) -> Result<(), MountError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(kind), at, Some(kind), flags, None::<&str>).map_err(|source| MountError::Mount {
        kind,
        at: at.into(),
        source,
    })
}
