//! What a detector may know besides the event.

use super::settings::Settings;
use crate::event::{ContainerKey, Event, Exec, File, HOST, ProcessKey, file, state};
use crate::finding::{Detection, ProcessView};
use crate::provenance::{Process, ProcessTable};
use smol_str::SmolStr;
use std::net::SocketAddr;

/// What the container stage knows. Every answer has a safe default, so that a detector works
/// before identity is known.
pub trait ContainerFacts {
    /// The container's first process, if known.
    fn init(&self, _container: ContainerKey) -> Option<ProcessKey> {
        None
    }

    /// When the container was started, ns since boot.
    fn started_ns(&self, _container: ContainerKey) -> Option<u64> {
        None
    }

    /// Does the file lie on a mount of the host's own file tree, rather than on the container's
    /// layers or on a volume made for it?
    fn is_host_file(&self, _container: ContainerKey, file: &File) -> bool {
        looks_like_host_file(file)
    }

    /// Is another process of the container in this mount namespace (inode number)? One that only `except` is
    /// in was made by somebody else.
    fn shares_mounts(&self, _container: ContainerKey, _namespace: u64, _except: u32) -> bool {
        true
    }

    /// Is this the user namespace (inode number) of the container's first process?
    fn is_own_user_namespace(&self, _container: ContainerKey, _namespace: u64) -> bool {
        true
    }

    /// The process' id as its own pid namespace counts.
    fn inner_pid(&self, _tgid: u32) -> Option<u32> {
        None
    }

    /// Drift alone is to be reported for this container (label or baseline).
    fn drift_alerts(&self, _container: ContainerKey) -> bool {
        false
    }

    /// The container's baseline or configuration expects this connection.
    fn expects_connect(&self, _container: ContainerKey, _peer: SocketAddr) -> bool {
        false
    }

    /// The reason of an exception in the configuration that covers the detection.
    fn excepted(&self, _event: &Event, _detection: &Detection, _processes: &ProcessTable) -> Option<String> {
        None
    }

    /// The container's baseline or configuration expects it to use the runtime's socket.
    fn expects_runtime_socket(&self, _container: ContainerKey) -> bool {
        false
    }
}

/// [`ContainerFacts`] with every default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFacts;

impl ContainerFacts for NoFacts {}

/// Folders in which engines keep what belongs to containers: a file there is no host file although
/// it lies on the host's disk.
const ENGINE_FOLDERS: &[&str] = &[
    "/docker/volumes/",
    "/docker/containers/",
    "/containers/storage/",
    "/kubelet/pods/",
    "/containerd/io.containerd.",
    "/lib/docker/overlay2/",
];

/// [`ContainerFacts::is_host_file`] from the file alone: another superblock than the container's
/// root, on a disk, and not in a folder where an engine keeps its volumes.
pub fn looks_like_host_file(file: &File) -> bool {
    const PROC: u32 = 0x9fa0;
    const SYSFS: u32 = 0x6265_6572;
    file.has(file::FILE_FOREIGN_SB)
        && !file.has(file::FILE_MEMFD)
        && !matches!(file.magic, PROC | SYSFS)
        && !ENGINE_FOLDERS.iter().any(|folder| file.path.contains(folder))
        // A tmpfs of the container's own (`--tmpfs`, /dev/shm, an emptyDir in memory) keeps the
        // path from its mount's root; the host's /run or /tmp on tmpfs cannot be told from it.
        && !file.has(file::FILE_TMPFS)
}

/// See the module.
pub struct Context<'a> {
    /// Who started whom.
    pub processes: &'a ProcessTable,
    /// Thresholds and lists.
    pub settings: &'a Settings,
    /// What is known of the containers.
    pub containers: &'a dyn ContainerFacts,
}

impl<'a> Context<'a> {
    /// The acting process, if known.
    pub fn process(&self, event: &Event) -> Option<&'a Process> {
        self.processes.get(event.process)
    }

    /// A process in words: `bash (bash -i, pid 42)`.
    pub fn describe(&self, key: ProcessKey) -> String {
        match self.processes.get(key) {
            Some(p) => describe(&p.comm, &p.program.args, key.tgid),
            None => format!("process {}", key.tgid),
        }
    }

    /// Is the process, or the one that made it, a package manager out of the image?
    pub fn is_package_manager(&self, key: ProcessKey, task_flags: u32) -> bool {
        state::is_package_manager(task_flags)
            || self
                .processes
                .get(key)
                .is_some_and(|p| state::is_package_manager(p.task_flags) || self.settings.is_trusted_writer(p))
    }

    /// Was the process started from outside its container: by the runtime's exec, or as the first?
    pub fn is_entered(&self, event: &Event, task_flags: u32, parent: ProcessKey) -> bool {
        if event.container == HOST {
            return false;
        }
        match self.processes.get(parent) {
            Some(parent) => parent.container != event.container,
            None => task_flags & state::TASK_ENTERED != 0,
        }
    }

    /// Is the program the container runtime's own, run inside before it starts the container's? The process keeps its
    /// parent outside for good, whatever else it executes later.
    pub fn is_the_runtimes(&self, event: &Event, exec: &Exec) -> bool {
        // Where no event told what came before (a runtime's init that waits while the monitor starts), nobody knows.
        let is_first = || self.process(event).is_none_or(|p| p.generation <= 1);
        exec.task_flags & state::TASK_ENTERING != 0
            || self.is_entered(event, exec.task_flags, exec.parent) && is_first()
    }

    /// Does it belong to the tree of the container's own entry point, which is still starting?
    pub fn is_starting_up(&self, event: &Event) -> bool {
        let start = self.containers.started_ns(event.container);
        start.is_some_and(|start| event.time_ns.saturating_sub(start) < self.settings.startup_ns)
            && self.is_of_entry_point(event) == Some(true)
    }

    /// Is it the container's first program, or does it descend from that, rather than from a session of the runtime's? Above
    /// it there may be steps of the runtime's, in the container as well. `None`: it is not known which that was.
    pub fn is_of_entry_point(&self, event: &Event) -> Option<bool> {
        let init = self.containers.init(event.container)?;
        let mut above = self.processes.ancestors(event.process).take_while(|a| a.container == event.container);
        Some(event.process == init || above.any(|a| a.key == init))
    }

    /// Does the program sit in the image, as far as the flags tell?
    pub fn is_from_image(process: &Process) -> bool {
        !process.has(state::TASK_DRIFT | state::TASK_EXE_TAINTED)
    }
}

/// A program start in words.
pub(super) fn describe(comm: &str, args: &[SmolStr], pid: u32) -> String {
    const SHOWN: usize = 80;
    let mut line = String::with_capacity(SHOWN + '…'.len_utf8());
    let words =
        args.iter().enumerate().flat_map(|(place, arg)| (place > 0).then_some(' ').into_iter().chain(arg.chars()));
    for (place, c) in words.enumerate() {
        if place == SHOWN {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    if line.is_empty() || line == comm {
        format!("{comm} (pid {pid})")
    } else {
        format!("{comm} (`{line}`, pid {pid})")
    }
}

/// The view of a process that a finding carries.
impl From<&Process> for ProcessView {
    fn from(p: &Process) -> Self {
        Self {
            pid: p.key.tgid,
            start_ns: p.key.start_ns,
            name: p.comm.to_string(),
            executable: p.program.exe.to_string(),
            args: p.program.args.iter().map(ToString::to_string).collect(),
            uid: p.uid,
            in_container: p.container != HOST,
        }
    }
}
