//! By what marks the packets of a container are told: its network namespace if it has one to itself, its
//! cgroup v2 if it has one, and else its sockets one by one.

use super::freezer;
use crate::container::registry::Container;
use crate::container::{Registry, hierarchy};
use monitor_common::state::{
    CUT_CGROUP, CUT_NETNS, CUT_PORT, CUT_SOCKET, CutKey, RESPONSE_CGROUP, RESPONSE_NETNS, RESPONSE_SOCKET,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Marks of one container at most; the map holds four times as many.
const MARKS: usize = 4096;
/// Levels of cgroups below the container's own.
const DEPTH: usize = 8;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// For the kernel half.
    pub keys: BTreeSet<CutKey>,
    /// Containers are told by cgroup v2 here: the kernel half needs no key for it.
    pub unified: bool,
}

impl Marks {
    /// `RESPONSE_*` that they need.
    pub fn bits(&self) -> u32 {
        let keys = self.keys.iter().fold(0, |bits, key| {
            bits | match key.kind {
                CUT_NETNS => RESPONSE_NETNS,
                CUT_CGROUP => RESPONSE_CGROUP,
                _ => RESPONSE_SOCKET,
            }
        });
        keys | if self.unified { RESPONSE_CGROUP } else { 0 }
    }

    /// In words.
    pub fn names(&self) -> Vec<String> {
        let bits = self.bits();
        [(RESPONSE_NETNS, "network namespace"), (RESPONSE_CGROUP, "cgroup v2"), (RESPONSE_SOCKET, "sockets")]
            .into_iter()
            .filter(|(bit, _)| bits & bit != 0)
            .map(|(_, name)| name.to_owned())
            .collect()
    }
}

/// Reads the marks of a container as it is now. `unified` is a mount of the cgroup v2 root. `ports`: with the
/// ports that it listens on, where sockets are told one by one; that takes the kernel a walk over all its
/// sockets, tens of milliseconds and more on a loaded machine.
pub fn marks(registry: &Registry, container: &Container, unified: &Path, ports: bool) -> Marks {
    let Some(folder) = registry.directory(container.key) else { return Marks::default() };
    let members = processes_below(&folder, DEPTH);
    let mut marks = Marks { keys: BTreeSet::new(), unified: registry.hierarchy().id == 0 };
    if !marks.unified {
        for pid in &members {
            marks.keys.extend(own_cgroups(*pid, container, unified));
        }
    }
    let shared = shared_namespaces(registry, container);
    let mut by_socket = Vec::new();
    for pid in &members {
        match namespace(*pid) {
            Some(netns) if !shared.contains(&netns) => {
                marks.keys.insert(CutKey { id: netns, kind: CUT_NETNS, reserved: 0 });
            }
            Some(netns) => by_socket.push((*pid, netns)),
            None => {}
        }
    }
    if marks.bits() & RESPONSE_CGROUP == 0 {
        let mut tables: HashMap<u64, String> = HashMap::new();
        for (pid, netns) in by_socket {
            let table = tables.entry(netns).or_insert_with(|| if ports { tcp_table(pid) } else { String::new() });
            marks.keys.extend(sockets(pid, netns, table).into_iter().take(MARKS.saturating_sub(marks.keys.len())));
        }
    }
    marks
}

/// Processes in a cgroup and those below it.
pub fn processes_below(folder: &Path, depth: usize) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid != 0).collect();
    if depth > 0 {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.extend(processes_below(&entry.path(), depth - 1));
            }
        }
    }
    all
}

/// Inode number of a process's network namespace.
fn namespace(pid: u32) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|meta| meta.ino())
}

/// Namespaces that are not this container's alone: the host's, and those of other containers (a pod's).
fn shared_namespaces(registry: &Registry, container: &Container) -> HashSet<u64> {
    let others = registry.live();
    let others = others
        .iter()
        .filter(|other| other.key != container.key)
        .filter_map(|other| registry.directory(other.key))
        .flat_map(|folder| processes_below(&folder, 1).into_iter().take(1));
    others.chain([1, std::process::id()]).filter_map(namespace).collect()
}

/// Ids of the cgroups v2 that the container has on a host where it is told by a v1 controller.
fn own_cgroups(pid: u32, container: &Container, unified: &Path) -> Vec<CutKey> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) else { return Vec::new() };
    let Some(folder) = freezer::directory(unified, path, &container.id) else { return Vec::new() };
    let mut keys = Vec::new();
    ids_below(&folder, DEPTH, &mut keys);
    keys
}

fn ids_below(folder: &Path, depth: usize, keys: &mut Vec<CutKey>) {
    let Ok(meta) = std::fs::metadata(folder) else { return };
    keys.push(CutKey { id: meta.ino(), kind: CUT_CGROUP, reserved: 0 });
    if depth == 0 || keys.len() >= MARKS {
        return;
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            ids_below(&entry.path(), depth - 1, keys);
        }
    }
}

/// A process's sockets, and the ports it listens on: what is accepted there has no file until accept(2).
fn sockets(pid: u32, netns: u64, table: &str) -> Vec<CutKey> {
    let inodes: HashSet<u64> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect();
    listening(table, &inodes)
        .into_iter()
        .map(|port| CutKey { id: netns << 16 | u64::from(port), kind: CUT_PORT, reserved: 0 })
        .chain(inodes.iter().map(|inode| CutKey { id: *inode, kind: CUT_SOCKET, reserved: 0 }))
        .collect()
}

/// The TCP sockets of a process's network namespace.
fn tcp_table(pid: u32) -> String {
    ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default()).concat()
}

/// Local ports of the listening sockets among `inodes`, from `/proc/PID/net/tcp` (proc(5)).
fn listening(table: &str, inodes: &HashSet<u64>) -> Vec<u16> {
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let inode: u64 = fields.get(9)?.parse().ok()?;
            let listens = *fields.get(3)? == "0A" && inodes.contains(&inode);
            let port = fields.get(1)?.rsplit(':').next()?;
            listens.then(|| u16::from_str_radix(port, 16).ok())?
        })
        .collect()
}

/// Some process of a container.
pub fn member(registry: &Registry, container: &Container) -> Option<u32> {
    processes_below(&registry.directory(container.key)?, DEPTH).first().copied()
}

/// A mount of the cgroup v2 root, if there is one.
pub fn unified() -> Option<std::path::PathBuf> {
    hierarchy::unified(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_names_follow_the_marks() {
        let mut marks = Marks::default();
        assert_eq!((marks.bits(), marks.names().len()), (0, 0), "nothing to tell it by");
        marks.unified = true;
        assert_eq!(marks.names(), ["cgroup v2"]);
        marks.keys.insert(CutKey { id: 1, kind: CUT_NETNS, reserved: 0 });
        marks.keys.insert(CutKey { id: 2, kind: CUT_PORT, reserved: 0 });
        assert_eq!(marks.names(), ["network namespace", "cgroup v2", "sockets"]);
    }

    #[test]
    fn only_own_listeners_give_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
   2: 0100007F:1F92 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 20 4 30 10 -1\n";
        assert_eq!(listening(table, &HashSet::from([4711, 4713])), [0x1f90]);
    }

    #[test]
    fn this_process_and_its_sockets_are_found() -> std::io::Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = u64::from(listener.local_addr()?.port());
        let netns = namespace(std::process::id()).unwrap_or_default();
        let keys = sockets(std::process::id(), netns, &tcp_table(std::process::id()));
        assert!(netns != 0 && keys.contains(&CutKey { id: netns << 16 | port, kind: CUT_PORT, reserved: 0 }));
        assert!(keys.iter().any(|key| key.kind == CUT_SOCKET));
        Ok(())
    }
}
