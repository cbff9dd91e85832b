//! What a container is made from.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A container to be made.
#[derive(Debug)]
pub struct Spec {
    /// Image layers, the uppermost first; absolute paths without `:` or `,`.
    pub lower: Vec<PathBuf>,
    /// An empty folder for what the container writes, on a file system that carries an overlay.
    pub folder: PathBuf,
    /// What is mounted into it, in order.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: Network,
    /// Process ids as the host's.
    pub pid_host: bool,
    /// Host name; the id's first digits if empty.
    pub hostname: String,
    /// Shares the host's SysV IPC objects.
    pub ipc_host: bool,
    /// Nothing of /proc and /sys is hidden or read-only.
    pub privileged: bool,
    /// The capabilities it keeps, bit by number; [`Spec::DOCKER_CAPABILITIES`] are an engine's default.
    pub capabilities: u64,
    /// The root file system is read-only.
    pub read_only: bool,
    /// What runs as the first process.
    pub program: Program,
    /// A static init that reaps orphans, bound to /sbin/docker-init and started before the program.
    pub init: Option<PathBuf>,
    /// Text files put in before the start, by absolute path.
    pub files: BTreeMap<String, String>,
}

impl Spec {
    /// Docker's default: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
    /// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
    pub const DOCKER_CAPABILITIES: u64 = 0xa804_25fb;
}

/// A program started in a container.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Arguments; the first is looked for in the environment's PATH.
    pub argv: Vec<String>,
    /// `KEY=value`; HOME is added.
    pub env: Vec<String>,
    /// NAME, UID, NAME:GROUP or UID:GID, of the image's own files.
    pub user: String,
    /// Working directory; `/` if empty.
    pub folder: String,
}

/// Something mounted into the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Absolute path in the container.
    pub target: String,
    /// Not writable.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or folder of the host, which exists.
    Bind(PathBuf),
    /// Memory; mount options as text.
    Tmpfs(String),
}

/// A container's network.
#[derive(Debug)]
pub enum Network {
    /// A namespace that was made and furnished.
    Namespace(OwnedFd),
    /// The maker's own.
    Inherited,
}
