//! What is Bulkhead's own, for the kernel half to know: the daemon's process, its files, control socket and
//! cgroups, the maps and links of the programs, and their pins. A container that reaches for one is found and, in
//! `protect`, stopped. What is pinned goes on knowing it while no daemon runs.

use crate::container::{Registry, hierarchy, kernel_dev};
use crate::event::HOST;
use crate::kernel::maps::Maps;
use crate::kernel::pins::Pins;
use crate::respond::kill::start_ticks_of;
use aya::maps::MapInfo;
use monitor_common::hash::{self, path_key};
use monitor_common::lineage::TICK_NS;
use monitor_common::own::{OWN_CONTAINER, OWN_INODE, OWN_LINK, OWN_MAP, OWN_PROCESS, OWN_SOCKET, OwnKey};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug, Default)]
pub struct Own {
    /// What stays as it is for as long as the daemon runs.
    fixed: BTreeMap<OwnKey, u64>,
    /// Names of pins, for kernels that tell a removal by its path ([`path_key`]).
    names: BTreeSet<u64>,
    /// Files that may be replaced by others of the same name.
    files: Vec<PathBuf>,
    socket: PathBuf,
    /// Folders of the cgroups that it was started in.
    home: Vec<PathBuf>,
    /// What the kernel half was told last.
    told: BTreeMap<OwnKey, u64>,
}

impl Own {
    /// With what the daemon holds and has pinned now. `files` and `socket` need not be there yet; an empty path
    /// is none. To be called before capabilities are dropped.
    pub fn collect(pins: Option<&Pins>, files: Vec<PathBuf>, socket: &Path) -> Self {
        let files = files.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
        let mut own = Self { files, socket: socket.into(), ..Self::default() };
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        own.home = places(&read("cgroup"), &read("mountinfo")).into_iter().map(|(_, folder)| folder).collect();
        for (kind, id) in objects() {
            own.fixed.insert(OwnKey { id, kind, dev: 0 }, 1);
        }
        if let Some(pins) = pins {
            own.pinned(pins);
        }
        if let Some(start) = start_ns() {
            own.fixed.insert(OwnKey { id: std::process::id().into(), kind: OWN_PROCESS, dev: 0 }, start);
        }
        own
    }

    fn pinned(&mut self, pins: &Pins) {
        let root = pins.root();
        self.fixed.extend(inode(root, OWN_INODE));
        for version in pins.versions() {
            let folder = pins.folder(&version);
            let own = hash::name(version.as_bytes());
            self.names.insert(path_key(own, root.file_name().map_or(0, name), 0));
            for path in [folder.maps(), folder.links()] {
                self.names.insert(path_key(0, path.file_name().map_or(0, name), own));
                self.fixed.extend(inode(&path, OWN_INODE));
                self.fixed.extend(path.parent().and_then(|folder| inode(folder, OWN_INODE)));
            }
            for entry in std::fs::read_dir(folder.maps()).into_iter().flatten().flatten() {
                if let Ok(info) = MapInfo::from_pin(entry.path()) {
                    self.fixed.insert(OwnKey { id: info.id().into(), kind: OWN_MAP, dev: 0 }, 1);
                }
            }
        }
    }

    /// Moves the daemon back to the cgroups that it was started in: a container's process has moved it.
    pub fn go_home(&self) {
        for folder in &self.home {
            if let Err(error) = std::fs::write(folder.join("cgroup.procs"), std::process::id().to_string()) {
                tracing::warn!(%error, cgroup = %folder.display(), "the daemon cannot go back to its cgroup");
            }
        }
    }

    /// Tells the kernel half what has changed since the last call.
    pub fn tell(&mut self, maps: &mut Maps, registry: &Registry) {
        let mut now = self.fixed.clone();
        now.extend(self.files.iter().filter_map(|path| inode(path, OWN_INODE)));
        now.extend(inode(&self.socket, OWN_SOCKET));
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if let Some(container) = registry.key_of_process(&cgroups).filter(|key| *key != HOST) {
            now.insert(OwnKey { id: container, kind: OWN_CONTAINER, dev: 0 }, 1);
        }
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        now.extend(folders(&cgroups, &mountinfo).iter().filter_map(|path| inode(path, OWN_INODE)));
        if now != self.told {
            maps.set_own(&now, &self.names);
            self.told = now;
        }
    }
}

/// How much less than others the kernel likes to end the daemon for lack of memory: what the systemd unit sets.
const OOM_SCORE: i32 = -900;

/// Takes the daemon out of the kernel's first choice when a container has eaten the memory, wherever it was started
/// from. To be called before capabilities are dropped; a score that is lower already stays.
pub fn spare_from_oom() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let score = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if score.is_none_or(|score| score > OOM_SCORE)
        && let Err(error) = std::fs::write(FILE, OOM_SCORE.to_string())
    {
        tracing::warn!(%error, "the kernel may end the daemon first when memory runs out: oom_score_adj stays as it is");
    }
}

fn name(name: &OsStr) -> u32 {
    hash::name(name.as_encoded_bytes())
}

/// A file or folder as it is now.
fn inode(path: &Path, kind: u32) -> Option<(OwnKey, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((OwnKey { id: meta.ino(), kind, dev: kernel_dev(meta.dev()) }, 1))
}

/// Start of this process, ns since boot, to the tick.
fn start_ns() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    start_ticks_of(&stat).map(|ticks| ticks * TICK_NS)
}

/// Maps and links that this process has descriptors of (proc(5), `map_id` and `link_id` of fdinfo).
fn objects() -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for (label, kind) in [("map_id:", OWN_MAP), ("link_id:", OWN_LINK)] {
            let id = text.lines().find_map(|line| line.strip_prefix(label)?.trim().parse().ok());
            found.extend(id.map(|id| (kind, id)));
        }
    }
    found
}

/// The cgroups that this process is in: where each hierarchy is mounted, and the folder in it.
fn places(cgroups: &str, mountinfo: &str) -> Vec<(PathBuf, PathBuf)> {
    let place = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let mount = match parts.next()?.split(',').next() {
            None | Some("") => hierarchy::unified(mountinfo),
            Some(first) => hierarchy::v1(mountinfo, first),
        }?;
        let folder = mount.join(parts.next()?.trim_start_matches('/'));
        Some((mount, folder))
    };
    cgroups.lines().filter_map(place).collect()
}

/// Their folders, and those above them but for the roots, which are everybody's: who writes there freezes, starves or
/// ends what is in them.
fn folders(cgroups: &str, mountinfo: &str) -> Vec<PathBuf> {
    let places = places(cgroups, mountinfo);
    let up = |(mount, folder): &(PathBuf, PathBuf)| -> Vec<PathBuf> {
        folder.ancestors().take_while(|above| above != mount).map(Path::to_owned).collect()
    };
    places.iter().flat_map(up).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const MOUNTS: &str = "30 20 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                          31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_root_cgroup_is_everybodys() {
        let text = "4:pids:/system.slice/bulkhead.service\n0::/\n7:devices:/x\n";
        assert_eq!(places("0::/\n", MOUNTS), [("/sys/fs/cgroup/unified".into(), "/sys/fs/cgroup/unified/".into())]);
        let expected = ["/sys/fs/cgroup/pids/system.slice/bulkhead.service", "/sys/fs/cgroup/pids/system.slice"];
        assert_eq!(folders(text, MOUNTS), expected.map(PathBuf::from));
    }

    #[test]
    fn files_are_told_by_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        assert_eq!(inode(&file, OWN_INODE), None);
        std::fs::write(&file, "").unwrap();
        let before = inode(&file, OWN_INODE).unwrap();
        let other = folder.path().join("y");
        std::fs::write(&other, "").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert_ne!(inode(&file, OWN_INODE).unwrap(), before);
    }

    #[test]
    fn the_process_knows_its_own_start() {
        assert!(start_ns().is_some_and(|start| start > 0));
    }
}
