//! Map keys and values of the reflex: tasks, pipes, inodes, sockets.

use crate::header::Header;
use crate::lineage::LINEAGE;
use crate::net::Peer;
use bytemuck::{Pod, Zeroable};

/// The container id of the host itself.
pub const HOST: u64 = 1;

/// [`Task::flags`]: connected or sent to an inet address in this program's life.
pub const TASK_NET_OUT: u32 = 1 << 0;
/// Reads bytes that came from the network through a pipe or a file.
pub const TASK_TAINTED: u32 = 1 << 1;
/// The program is a shell.
pub const TASK_SHELL: u32 = 1 << 2;
/// The program is another interpreter (Python, Perl, …).
pub const TASK_INTERPRETER: u32 = 1 << 3;
/// The program, or an ancestor, is a package manager out of the image.
pub const TASK_PACKAGE_MANAGER: u32 = 1 << 4;
/// The executable is not from the image: overlay upper layer, volume, tmpfs, memfd.
pub const TASK_DRIFT: u32 = 1 << 5;
/// The executable's bytes came from the network.
pub const TASK_EXE_TAINTED: u32 = 1 << 6;
/// Takes program text from standard input.
pub const TASK_READS_STDIN: u32 = 1 << 7;
/// A child shell that takes commands from a pipe or socket pair of this process is alive or was.
pub const TASK_FEEDS_SHELL: u32 = 1 << 8;
/// Has an outbound inet socket on descriptor 0.
pub const TASK_STDIN_INET: u32 = 1 << 9;
/// Has an outbound inet socket on descriptor 1 or 2.
pub const TASK_STDOUT_INET: u32 = 1 << 10;
/// Was started from outside the container (the runtime's exec, or its first process).
pub const TASK_ENTERED: u32 = 1 << 11;
/// Was put into the container's cgroup from outside and has not started its program there yet.
pub const TASK_ENTERING: u32 = 1 << 13;
/// With [`TASK_PACKAGE_MANAGER`]: below a shell or interpreter that the package manager started, such as
/// a maintainer script. It may install; what it fetches by itself is no package.
pub const TASK_PACKAGE_SCRIPT: u32 = 1 << 14;
/// Serves inbound sessions by design (sshd, inetd, …) out of the image.
pub const TASK_SESSION_SERVER: u32 = 1 << 12;

/// Fetches what somebody has asked for by name, out of the image: version control, a language's package manager. What it starts
/// (`npx curl …`) is none by that; it has no other privilege.
pub const TASK_FETCHER: u32 = 1 << 16;

/// Is what the program writes trusted, wherever it came from?
#[inline(always)]
pub const fn is_trusted_writer(flags: u32) -> bool {
    is_package_manager(flags) || flags & TASK_FETCHER != 0
}

/// Is the program a package manager, or a helper of its own that no script stands between?
#[inline(always)]
pub const fn is_package_manager(flags: u32) -> bool {
    flags & (TASK_PACKAGE_MANAGER | TASK_PACKAGE_SCRIPT) == TASK_PACKAGE_MANAGER
}

/// May it write start-up files as part of an installation? A maintainer script may until it connects or reads
/// what came from the network.
#[inline(always)]
pub const fn may_install(flags: u32) -> bool {
    flags & TASK_PACKAGE_MANAGER != 0
        && (flags & TASK_PACKAGE_SCRIPT == 0 || flags & (TASK_NET_OUT | TASK_TAINTED) == 0)
}
/// Belongs to a set that is being killed: dies before its first instruction.
pub const TASK_DOOMED: u32 = 1 << 15;

/// Descends from the first process of a container that was made while the monitor watched: the entry point, and what
/// it starts.
pub const TASK_BEGINS: u32 = 1 << 17;

/// For how long an entry point may install its image's own jobs and profile, ns since its start.
pub const STARTUP_NS: u64 = 30_000_000_000;

/// No two of them are the same bit.
const _: () = {
    let bits = [
        TASK_NET_OUT,
        TASK_TAINTED,
        TASK_SHELL,
        TASK_INTERPRETER,
        TASK_PACKAGE_MANAGER,
        TASK_DRIFT,
        TASK_EXE_TAINTED,
        TASK_READS_STDIN,
        TASK_FEEDS_SHELL,
        TASK_STDIN_INET,
        TASK_STDOUT_INET,
        TASK_ENTERED,
        TASK_SESSION_SERVER,
        TASK_ENTERING,
        TASK_PACKAGE_SCRIPT,
        TASK_DOOMED,
        TASK_FETCHER,
        TASK_BEGINS,
    ];
    let (mut i, mut seen) = (0, 0);
    while i < bits.len() {
        assert!(bits[i].count_ones() == 1 && seen & bits[i] == 0);
        seen |= bits[i];
        i += 1;
    }
};

/// (device, inode number) of a file, pipe or FIFO.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct InodeKey {
    /// Inode number.
    pub ino: u64,
    /// Device, kernel encoding.
    pub dev: u32,
    /// `i_generation` where a file that is to be marked later is kept; 0 in keys, and where it is not known.
    pub generation: u32,
}
const _: () = assert!(size_of::<InodeKey>() == 16);

/// Where tainted bytes came from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Origin {
    /// Process that had the connection.
    pub tgid: u32,
    /// Rewrites between the connection and here (0 = written by the downloader itself).
    pub hops: u32,
    /// Its start, ns since boot.
    pub start_ns: u64,
    /// Address it was connected to last.
    pub peer: Peer,
    /// When the taint was set, ns since boot.
    pub time_ns: u64,
}
const _: () = assert!(size_of::<Origin>() == 48);

/// Value of the `INODES` map: a file whose bytes came from the network.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Taint {
    /// From where.
    pub origin: Origin,
    /// Container of the writer.
    pub container: u64,
    /// `i_generation` of the file, 0 if it was not known: the number and device are given out again.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Taint>() == 64);

/// Files a task has opened for writing that are remembered until it connects.
pub const WRITES: usize = 4;

/// Value of the `TASKS` map, keyed by tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Task {
    /// Start of the process, ns since boot.
    pub start_ns: u64,
    /// Container root cgroup id, or [`HOST`].
    pub container: u64,
    /// `TASK_*`.
    pub flags: u32,
    /// Parent's tgid at fork.
    pub parent_tgid: u32,
    /// Standard input if it is a pipe or an AF_UNIX socket (else `ino` 0).
    pub stdin: InodeKey,
    /// Standard output if it is a pipe or regular file (else `ino` 0).
    pub stdout: InodeKey,
    /// Last FIFO opened for writing besides standard output (else `ino` 0).
    pub fifo_out: InodeKey,
    /// Ring of files opened for writing before a connection.
    pub writes: [InodeKey; WRITES],
    /// Next slot in `writes`.
    pub write_next: u32,
    /// Hash of the script operand's last name component, 0 if none.
    pub script: u32,
    /// Origin of the task's taint or, for `TASK_NET_OUT`, its own last peer.
    pub origin: Origin,
    /// Last inode reported for this task, so that it is reported once.
    pub last_open: InodeKey,
    /// Its ancestors in the container and itself ([`crate::lineage::id`]), the outermost first. Kept
    /// through any number of generations, so that a living process tells whose descendant it is when
    /// everybody in between has ended.
    pub lineage: [u32; LINEAGE],
    /// Entries of `lineage` in use.
    pub depth: u32,
    /// The kernel's number of the exec that was judged last (low half of `self_exec_id`): two programs see each exec
    /// where one may be left out. 0 if none was.
    pub exec_id: u32,
    /// Who listens at the AF_UNIX socket it connected to last (tgid), once that was told; else 0.
    pub unix_peer: u32,
    /// [`crate::profile::path`] of the program it runs; 0 until it starts one in its container.
    pub exe: u64,
    /// With [`UNTOLD_EXEC`]: [`crate::exec::Exec::shape`] of what it runs.
    pub shape: u64,
    /// Parent's start at its fork, ns since boot.
    pub parent_start_ns: u64,
    /// Children of it that live, more at most.
    pub children: u64,
    /// `UNTOLD_*`: what the daemon does not know of it yet.
    pub untold: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Task>() == 24 + 48 + 64 + 8 + 48 + 16 + 64 + 8 + 8 + 24 + 8);

/// [`Task::untold`]: that it was forked.
pub const UNTOLD_FORK: u32 = 1 << 0;
/// [`Task::untold`]: the program it runs.
pub const UNTOLD_EXEC: u32 = 1 << 1;

/// Value of the `HELD` map, by container: records that were counted instead of being written, because the container's
/// baseline expects what they would have told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Held {
    /// Program starts.
    pub execs: u64,
    /// Forks.
    pub forks: u64,
    /// Ends of processes that were never told of.
    pub exits: u64,
}
const _: () = assert!(size_of::<Held>() == 24);

/// Value of the `PIPES` map, keyed by [`InodeKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Pipe {
    /// Reader known by exec or FIFO open, 0 if none.
    pub reader: u32,
    /// Writer known by exec or FIFO open, 0 if none.
    pub writer: u32,
    /// The reader takes program text from this pipe: its tgid, else 0.
    pub shell: u32,
    /// 1 once bytes from the network may be in it.
    pub tainted: u32,
    /// Order barrier: bumped with an atomic add between a mark and the check of the other end.
    pub barrier: u64,
    /// Standard output of the reader when that is a pipe.
    pub down: InodeKey,
    /// From where, if tainted.
    pub origin: Origin,
}
const _: () = assert!(size_of::<Pipe>() == 24 + 16 + 48);

/// Value of the `SOCKETS` map, keyed by socket cookie: an inet socket a watched process connected.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Socket {
    /// Who connected it.
    pub tgid: u32,
    /// Units of payload copied outwards (see the kernel half, probes/packet).
    pub sent: u16,
    /// And inwards.
    pub received: u16,
    /// Start of that process.
    pub start_ns: u64,
    /// Its container.
    pub container: u64,
    /// Where to.
    pub peer: Peer,
    /// Real uid.
    pub uid: u32,
    /// TCP sequence number behind the last byte copied outwards.
    pub sent_to: u32,
    /// And inwards.
    pub received_to: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Socket>() == 64);

/// A program's content as far as the kernel can tell at exec without reading it: file size and the
/// extents of its code and data segments. A copy under another name has the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Fingerprint {
    /// File size, bytes.
    pub size: u64,
    /// `mm->end_code - mm->start_code`.
    pub code: u64,
    /// `mm->end_data - mm->start_data`.
    pub data: u64,
}
const _: () = assert!(size_of::<Fingerprint>() == 24);

/// Class bits of a program name or fingerprint (`CLASSES`, `FINGERPRINTS`).
pub const CLASS_SHELL: u32 = 1 << 0;
/// Another interpreter.
pub const CLASS_INTERPRETER: u32 = 1 << 1;
/// A package manager.
pub const CLASS_PACKAGE_MANAGER: u32 = 1 << 2;
/// A multi-call binary: the applet (argv\[0\], or argv\[1\]) decides.
pub const CLASS_MULTICALL: u32 = 1 << 3;
/// `-c` introduces program text (shells, Python).
pub const CLASS_FLAG_C: u32 = 1 << 4;
/// `-e` introduces program text (Perl, Ruby, Node, Lua).
pub const CLASS_FLAG_E: u32 = 1 << 5;
/// `-r` introduces program text (PHP).
pub const CLASS_FLAG_R: u32 = 1 << 6;
/// sshd, inetd and their like.
pub const CLASS_SESSION_SERVER: u32 = 1 << 7;
/// Version control, a language's package manager.
pub const CLASS_FETCHER: u32 = 1 << 8;

/// A cgroup came (`gone == 0`) or went.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct CgroupChange {
    /// Common header; `container` is the cgroup's own id.
    pub header: Header,
    /// Id of the parent cgroup.
    pub parent: u64,
    /// 1 = removed.
    pub gone: u32,
    /// Hierarchy id (0 = the unified one).
    pub hierarchy: u32,
    /// Path in the hierarchy, NUL-padded.
    pub path: [u8; 256],
}
const _: () = assert!(size_of::<CgroupChange>() == 64 + 16 + 256);

/// Key of the `LOSS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct LossKey {
    /// Container the lost record was about.
    pub container: u64,
    /// [`crate::header::Kind`] as integer.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<LossKey>() == 16);

/// Value of the one-entry `CONFIG` map: what may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// Policy of a container that the daemon has not confirmed yet.
    pub default_enforce: u32,
    /// 1: watch the host's own processes too.
    pub watch_host: u32,
    /// The daemon's own tgid: never acted upon while its heartbeat is fresh (after its death the
    /// number may become anybody's).
    pub self_tgid: u32,
    /// `RESPONSE_*`: which responses are in force anywhere. What is not costs nothing.
    pub responses: u32,
    /// 1: a daemon whose heartbeat is older than `limit_ns` takes enforcement with it; 0: it stays.
    pub release: u32,
    /// 1: what a container's baseline expects may be counted instead of told.
    pub holds_back: u32,
    /// When the daemon was last known to be alive, ns since boot.
    pub heartbeat_ns: u64,
    /// Age of the heartbeat from which on the daemon counts as gone, ns.
    pub limit_ns: u64,
    /// Nobody else knows it: what [`crate::exec::Exec::shape`] begins with.
    pub seed: u64,
}
const _: () = assert!(size_of::<Config>() == 48);

/// [`Config::responses`]: some network namespace is cut off.
pub const RESPONSE_NETNS: u32 = 1 << 0;
/// [`Config::responses`]: the sockets of some cgroup are cut off.
pub const RESPONSE_CGROUP: u32 = 1 << 1;
/// [`Config::responses`]: single sockets and listening ports are cut off.
pub const RESPONSE_SOCKET: u32 = 1 << 2;
/// [`Config::responses`]: a set of processes is being killed.
pub const RESPONSE_DOOM: u32 = 1 << 3;

/// Value of the `DOOMED` map: a set of processes that is being killed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Doomed {
    /// Whose.
    pub container: u64,
    /// Processes that were born into it, and died before their first instruction.
    pub born: u64,
}
const _: () = assert!(size_of::<Doomed>() == 16);

/// Key of the `QUARANTINE` map: what tells that a socket belongs to a quarantined container.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct CutKey {
    /// Depends on `kind`.
    pub id: u64,
    /// `CUT_*`.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<CutKey>() == 16);

/// [`CutKey::kind`]: `id` is the inode number of a network namespace.
pub const CUT_NETNS: u32 = 1;
/// `id` is the id of a cgroup v2.
pub const CUT_CGROUP: u32 = 2;
/// `id` is the inode number of a socket file.
pub const CUT_SOCKET: u32 = 3;
/// `id` is the inode number of a network namespace, shifted left by 16, and a local TCP port.
pub const CUT_PORT: u32 = 4;
