//! A fact from the kernel, decoded and owned. The contract between `kernel` (which makes them) and
//! everything after it.

pub use monitor_common::argv::Form;
pub use monitor_common::file;
pub use monitor_common::header::{Kind, Reason, Rung, Verdict};
pub use monitor_common::own::Attempt;
pub use monitor_common::state::{self, Fingerprint, HOST};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What identifies a process: a pid alone never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Start, ns since boot (`CLOCK_BOOTTIME`).
    pub start_ns: u64,
}

/// Id of a container's outermost cgroup in the watched hierarchy; [`HOST`] for the host.
pub type ContainerKey = u64;

/// One event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// `cpu << 48 | sequence`: unique while the programs are loaded.
    pub id: u64,
    /// When the hook ran, ns since boot (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// Acting process (for a fork: the child).
    pub process: ProcessKey,
    /// Thread id of the acting task.
    pub tid: u32,
    /// Real uid in the initial user namespace.
    pub uid: u32,
    /// Its container.
    pub container: ContainerKey,
    /// What the kernel half did.
    pub verdict: Verdict,
    /// Why, or what it would have done it for.
    pub reason: Reason,
    /// By which mechanism.
    pub rung: Rung,
    /// The other process a verdict is about (the network end of a pipe).
    pub peer_tgid: Option<u32>,
    /// The fact.
    pub body: Body,
}

/// The fact itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Body {
    /// A program was started.
    Exec(Box<Exec>),
    /// A process was made.
    Fork {
        /// Who made it.
        parent: ProcessKey,
        /// comm it starts with.
        comm: SmolStr,
    },
    /// A process ended; wait status as wait(2) gives it.
    Exit {
        /// Wait status.
        code: u32,
    },
    /// An outbound connection attempt, or a listen.
    Connect(Connect),
    /// An interesting open.
    Open(Box<Open>),
    /// First bytes of a connection.
    Payload(Box<Payload>),
    /// A running shell or interpreter put an outbound socket on a descriptor 0–2.
    Moved {
        /// All three as they are now.
        stdio: [Stdio; 3],
        /// `TASK_*` bits.
        task_flags: u32,
    },
    /// An AF_UNIX connect to a watched socket.
    UnixConnect {
        /// The name the server bound it to.
        name: SmolStr,
        /// The listening socket's file is a known runtime socket (by inode), not just named so.
        known: bool,
    },
    /// A cgroup came or went.
    Cgroup(Cgroup),
    /// An attempt upon Bulkhead itself.
    Tamper {
        /// What was tried.
        attempt: Attempt,
        /// Signal number or bpf(2) command, else 0.
        detail: u32,
        /// Number of the map, link or cgroup, else 0.
        object: u64,
    },
    /// A system call that reaches for what lies outside of the container.
    Reach(Box<Reach>),
    /// An AF_UNIX stream connect to another process of the container.
    UnixPeer {
        /// Who listens there (tgid).
        listener: u32,
    },
}

/// Such a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reach {
    /// Which.
    pub what: Reached,
    /// `TASK_*` bits of the caller.
    pub task_flags: u32,
    /// Nesting of the caller's user namespace; 0 is the host's.
    pub level: u32,
    /// It failed.
    pub failed: bool,
}

/// What was reached for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reached {
    /// Namespaces were joined; inode number of the mount namespace the process is in now.
    Namespace(u64),
    /// A mount.
    Mount {
        /// What, as the caller named it.
        source: String,
        /// Where.
        target: String,
        /// Inode number of the caller's user namespace.
        user_namespace: u64,
    },
    /// A module was offered to the kernel.
    Module,
    /// A BPF program of that type was.
    Bpf(u64),
    /// A process of another container is traced.
    Trace {
        /// Its container.
        container: ContainerKey,
        /// Itself.
        tgid: u32,
    },
}

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Closed.
    None,
    /// A terminal.
    Tty,
    /// A regular file.
    File(Inode),
    /// A character device such as /dev/null.
    Device,
    /// A pipe or FIFO.
    Pipe(Inode),
    /// An inet socket that connected outward.
    InetOut(SocketAddr),
    /// Another inet socket: accepted, listening, or older than the monitor.
    InetOther(Option<SocketAddr>),
    /// An AF_UNIX socket.
    Unix(Inode),
    /// Anything else.
    Other,
}

/// (device in kernel encoding `major << 20 | minor`, inode number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inode {
    /// Device.
    pub dev: u32,
    /// Number.
    pub ino: u64,
}

/// A file as the kernel knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Identity.
    pub inode: Inode,
    /// `i_mode`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// [`file`]`::FILE_*` bits.
    pub flags: u32,
    /// File system magic.
    pub magic: u32,
    /// Path inside its file system, from the fs root (`/etc/crontab`); a bind mount's target is not
    /// part of it. Starts with `…/` when more than 8 components deep.
    pub path: SmolStr,
}

/// Where tainted bytes came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The process that had the connection.
    pub process: ProcessKey,
    /// Rewrites since.
    pub hops: u32,
    /// Its peer.
    pub peer: Option<SocketAddr>,
    /// When, ns since boot.
    pub time_ns: u64,
}

/// A program start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// Parent at that moment.
    pub parent: ProcessKey,
    /// [`monitor_common::exec`]`::EXEC_*` bits.
    pub flags: u32,
    /// [`state`]`::TASK_*` bits after the exec.
    pub task_flags: u32,
    /// Where an interpreter takes its text from.
    pub form: Form,
    /// The executable.
    pub exe: File,
    /// Its content fingerprint.
    pub fingerprint: Fingerprint,
    /// Descriptors 0, 1, 2.
    pub stdio: [Stdio; 3],
    /// Origin of its taint.
    pub origin: Option<Origin>,
    /// comm after it.
    pub comm: SmolStr,
    /// Name it was invoked by.
    pub filename: SmolStr,
    /// Arguments (lossy UTF-8); see `args_cut`.
    pub args: Arc<[SmolStr]>,
    /// The block was longer than what is kept; head and tail are here.
    pub args_cut: bool,
}

/// An outbound connection attempt, or a listen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connect {
    /// Where to (for `Listen`: the local address).
    pub peer: SocketAddr,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// Socket cookie.
    pub cookie: u64,
    /// How.
    pub op: ConnectOp,
    /// `TASK_*` bits of the caller.
    pub task_flags: u32,
    /// For a verdict over a pipe chain: the shell at its end.
    pub sink_tgid: Option<u32>,
    /// comm of the caller.
    pub comm: SmolStr,
}

/// How a connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectOp {
    /// connect(2) or an equivalent.
    Connect,
    /// A datagram with an address.
    SendTo,
    /// listen(2).
    Listen,
    /// TCP Fast Open.
    FastOpen,
}

/// An interesting open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// The file.
    pub file: File,
    /// Where its bytes came from.
    pub origin: Option<Origin>,
    /// Sensitive class it matched.
    pub sensitive: Reason,
    /// `TASK_*` bits of the opener.
    pub task_flags: u32,
}

/// First bytes of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    /// The address the process asked for.
    pub peer: SocketAddr,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// Socket cookie.
    pub cookie: u64,
    /// Received rather than sent.
    pub inbound: bool,
    /// Units that those before it in this direction count for.
    pub index: u32,
    /// Length of the whole segment.
    pub segment: u32,
    /// Its first bytes, at most 512.
    #[serde(with = "bytes")]
    pub data: Vec<u8>,
}

/// Bytes are read as a whole, not one by one; in a recording both look the same.
mod bytes {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            to.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
}

/// A cgroup came or went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its id (`Event::container` is the same).
    pub id: ContainerKey,
    /// Its parent's id.
    pub parent: ContainerKey,
    /// Removed rather than made.
    pub gone: bool,
    /// 0 = unified.
    pub hierarchy: u32,
    /// Path in the hierarchy.
    pub path: String,
}

impl Event {
    /// Did the kernel half stop the act?
    pub fn prevented(&self) -> bool {
        self.verdict != Verdict::Observed
    }
}

impl Body {
    /// What kind of fact it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Exec(_) => Kind::Exec,
            Self::Fork { .. } => Kind::Fork,
            Self::Exit { .. } => Kind::Exit,
            Self::Connect(_) => Kind::Connect,
            Self::Open(_) => Kind::Open,
            Self::Payload(_) => Kind::Payload,
            Self::Cgroup(_) => Kind::Cgroup,
            Self::Moved { .. } => Kind::Moved,
            Self::UnixConnect { .. } => Kind::UnixConnect,
            Self::UnixPeer { .. } => Kind::UnixPeer,
            Self::Tamper { .. } => Kind::Tamper,
            Self::Reach(_) => Kind::Reach,
        }
    }
}

impl Stdio {
    /// The outbound peer, if it is such a socket.
    pub fn outbound(&self) -> Option<SocketAddr> {
        match self {
            Self::InetOut(peer) => Some(*peer),
            _ => None,
        }
    }
}

impl File {
    /// Last component of the path.
    pub fn name(&self) -> &str {
        last_component(&self.path)
    }

    /// Is a `FILE_*` bit set?
    pub fn has(&self, bit: u32) -> bool {
        self.flags & bit != 0
    }
}

/// What stands behind the last slash.
pub fn last_component(path: &str) -> &str {
    // Most paths are so short that a search made for long ones costs more than it saves.
    path.bytes().rposition(|byte| byte == b'/').and_then(|at| path.get(at + 1..)).unwrap_or(path)
}

/// An address as the kernel half gives it: 16 bytes, IPv4 mapped; the canonical form is returned.
pub fn canonical(addr: [u8; 16], port: u16) -> SocketAddr {
    let v6 = std::net::Ipv6Addr::from(addr);
    SocketAddr::new(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4), port)
}
