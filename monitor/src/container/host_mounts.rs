//! Tells whether a file that a container wrote lies on a file system of the host: the way the
//! docker123321 containers left (`/mnt/etc/crontab` on a bind mount of the host's `/`).
//!
//! The kernel half gives a file's device and its path from the root of its *file system*, which a
//! bind mount cannot disguise. A file is the host's if
//!
//! 1. its device is mounted in the host's own mount namespace (`/proc/1/mountinfo`): a tmpfs, a
//!    procfs or a volume driver's file system that exists only inside the container is not;
//! 2. that mount is not one that exists for containers: an overlay (the engine mounts every
//!    container's root in the host's namespace too) other than the host's own root, a kubelet's or
//!    engine's tmpfs, or a pseudo file system that every namespace shares (sysfs, cgroup);
//! 3. its path is not in an engine's storage (named volumes, `resolv.conf`, `emptyDir`, layers of
//!    a driver without overlay): engines keep what belongs to containers there, on the host's disk;
//! 4. where container root and file share a device (the vfs and btrfs drivers, runc on a plain
//!    directory), the path begins as only the host's own tree does (`/etc`, `/root`, …).
//!
//! A path that was cut (more than eight components) is not the host's: the files that a host acts
//! upon (crontabs, keys, units, profiles) are never that deep, and deep ones are engine storage.

use super::{kernel_dev, unescape_mount};
use crate::event::File;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// The host's mounts are read again at most this often. An engine mounts for every container it
/// starts, so a change is no reason to read at once.
const REFRESH: Duration = Duration::from_secs(5);

/// Directories of engines whose contents belong to containers, as consecutive path components.
const ENGINE_STORAGE: &[&[&str]] = &[
    &["docker", "volumes"],
    &["docker", "overlay2"],
    &["docker", "containers"],
    &["docker", "vfs"],
    &["docker", "btrfs"],
    &["docker", "zfs"],
    &["docker", "rootfs"],
    &["docker", "buildkit"],
    &["docker", "tmp"],
    &["containers", "storage"],
    &["containerd", "io.containerd.*"],
    &["kubelet", "pods"],
    &["kubelet", "plugins"],
    &["rancher", "k3s", "agent"],
    &["volumes", "*", "_data"],
];

/// File systems that look the same from every container, or are made anew for each.
const SHARED: &[&str] =
    &["sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "pstore", "nsfs", "bpf", "securityfs", "overlay"];

/// First components of the host's own tree that no container's root directory is kept in.
const HOST_TREE: &[&str] = &["etc", "root", "usr", "bin", "sbin", "lib", "lib32", "lib64", "boot", "proc", "run"];

/// Where a file system shows in the host's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Path of the mount's root inside the file system.
    root: String,
    /// Mount point on the host.
    point: String,
}

/// The host's mounts.
#[derive(Debug, Default)]
pub struct HostMounts {
    /// By device, kernel encoding.
    devices: HashMap<u32, Vec<Mount>>,
    /// Data roots that the engines named, as host paths.
    engine_roots: Vec<String>,
    read_at: Option<Instant>,
}

impl HostMounts {
    /// Reads them.
    ///
    /// # Errors
    /// `/proc/1/mountinfo` cannot be read.
    pub fn read() -> std::io::Result<Self> {
        let mut mounts = Self::default();
        mounts.load()?;
        Ok(mounts)
    }

    fn load(&mut self) -> std::io::Result<()> {
        self.devices = parse(&std::fs::read_to_string("/proc/1/mountinfo")?);
        self.read_at = Some(Instant::now());
        Ok(())
    }

    /// From the contents of a mountinfo file.
    pub fn from_mountinfo(mountinfo: &str) -> Self {
        Self { devices: parse(mountinfo), ..Self::default() }
    }

    /// Reads them again if they are older than five seconds. Call it from a slow path; a failed
    /// read keeps what is known.
    pub fn refresh(&mut self) {
        if self.read_at.is_none_or(|at| at.elapsed() >= REFRESH)
            && let Err(error) = self.load()
        {
            // Try again after the same time, not at every call.
            self.read_at = Some(Instant::now());
            tracing::warn!(%error, "cannot read the host's mounts");
        }
    }

    /// An engine keeps its data here (`docker info`): everything below belongs to containers.
    pub fn add_engine_root(&mut self, path: &str) {
        let path = path.trim_end_matches('/').to_owned();
        if !path.is_empty() && !self.engine_roots.contains(&path) {
            self.engine_roots.push(path);
        }
    }

    /// Is this device mounted on the host as its own?
    pub fn is_host_device(&self, dev: u32) -> bool {
        self.devices.contains_key(&dev)
    }

    /// Does a file that a container opened lie on the host's file systems? `root_dev` is the
    /// device of the container's root directory, if known. See the module for the reasoning.
    pub fn is_host_file(&self, file: &File, root_dev: Option<u32>) -> bool {
        let Some(host_path) = self.host_path(file) else {
            // Too deep for the record: its lower end still tells an engine's folders from others.
            let cut = !file.path.starts_with('/');
            return cut
                && root_dev != Some(file.inode.dev)
                && self.is_host_device(file.inode.dev)
                && !self.is_engine_storage(&file.path);
        };
        if self.is_engine_storage(&file.path) || self.is_engine_storage(&host_path) {
            return false;
        }
        if root_dev != Some(file.inode.dev) {
            return true;
        }
        let mut parts = host_path.split('/').filter(|p| !p.is_empty());
        let first = parts.next().unwrap_or("");
        let second = parts.next().unwrap_or("");
        HOST_TREE.contains(&first) || (first, second) == ("var", "spool")
    }

    /// The file's path as the host sees it; `None` if it does not see it, or the path was cut.
    pub fn host_path(&self, file: &File) -> Option<String> {
        let mounts = self.devices.get(&file.inode.dev)?;
        if !file.path.starts_with('/') {
            return None;
        }
        mounts
            .iter()
            .filter_map(|m| {
                let below = match m.root.as_str() {
                    "/" => file.path.as_str(),
                    root => file.path.strip_prefix(root).filter(|r| r.starts_with('/') || r.is_empty())?,
                };
                Some(format!("{}{below}", m.point.trim_end_matches('/')))
            })
            .min_by_key(String::len)
    }

    fn is_engine_storage(&self, path: &str) -> bool {
        let below = |root: &String| path.strip_prefix(root.as_str()).is_some_and(|r| r.starts_with('/'));
        if self.engine_roots.iter().any(below) {
            return true;
        }
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        ENGINE_STORAGE.iter().any(|pattern| {
            parts.windows(pattern.len()).any(|w| w.iter().zip(*pattern).all(|(p, want)| component(p, want)))
        })
    }
}

fn component(part: &str, want: &str) -> bool {
    match want.strip_suffix('*') {
        Some(prefix) => part.starts_with(prefix),
        None => part == want,
    }
}

/// The device of a process's root directory, kernel encoding.
pub fn root_device(tgid: u32) -> Option<u32> {
    // The trailing slash follows the link into the process's own root.
    std::fs::metadata(format!("/proc/{tgid}/root/")).ok().map(|m| kernel_dev(m.dev()))
}

fn parse(mountinfo: &str) -> HashMap<u32, Vec<Mount>> {
    let mut devices: HashMap<u32, Vec<Mount>> = HashMap::new();
    for line in mountinfo.lines() {
        if let Some((dev, mount)) = parse_line(line) {
            devices.entry(dev).or_default().push(mount);
        }
    }
    devices
}

fn parse_line(line: &str) -> Option<(u32, Mount)> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(2);
    let (major, minor) = front.next()?.split_once(':')?;
    let dev = major.parse::<u32>().ok()?.checked_shl(20)? | minor.parse::<u32>().ok()?;
    let root = unescape_mount(front.next()?);
    let point = unescape_mount(front.next()?);
    let fs = back.split(' ').next()?;
    // A live system's or a nested host's own root may be an overlay.
    if SHARED.contains(&fs) && point != "/" {
        return None;
    }
    // tmpfs and bind mounts that an engine or kubelet made for a container.
    let for_container =
        ["/docker/containers/", "/kubelet/pods/", "/run/containerd/", "/containers/storage/", "/run/netns"]
            .iter()
            .any(|part| point.contains(part))
            || point.starts_with("/run/docker/");
    (!for_container).then_some((dev, Mount { root, point }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::event::Inode;

    const INFO: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
        27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        28 27 254:16 / /home rw,relatime shared:5 - xfs /dev/vdb rw\n\
        29 27 254:32 /sub/data /srv/my\\040data rw - btrfs /dev/vdc rw\n\
        30 27 0:24 / /run rw - tmpfs tmpfs rw\n\
        60 27 0:55 / /var/lib/docker/overlay2/abc/merged rw - overlay overlay rw\n\
        61 27 0:56 / /var/lib/docker/containers/abc/mounts/shm rw - tmpfs shm rw\n\
        62 27 0:57 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~projected/t rw - tmpfs tmpfs rw\n";
    const DISK: u32 = 254 << 20;
    const OVERLAY: u32 = 55;

    fn file(dev: u32, path: &str) -> File {
        File { inode: Inode { dev, ino: 7 }, path: path.into(), ..File::default() }
    }

    #[test]
    fn files_on_a_bind_mount_of_the_hosts_tree_are_the_hosts() {
        let m = HostMounts::from_mountinfo(INFO);
        for (dev, path, host) in [
            (DISK, "/etc/crontab", "/etc/crontab"),
            (DISK, "/root/.ssh/authorized_keys", "/root/.ssh/authorized_keys"),
            (DISK | 16, "/bob/.ssh/authorized_keys", "/home/bob/.ssh/authorized_keys"),
            (DISK | 32, "/sub/data/x", "/srv/my data/x"),
            (24, "/cron.pid", "/run/cron.pid"),
            (21, "/sys/kernel/core_pattern", "/proc/sys/kernel/core_pattern"),
        ] {
            assert!(m.is_host_file(&file(dev, path), Some(OVERLAY)), "{path}");
            assert_eq!(m.host_path(&file(dev, path)).unwrap(), host);
        }
    }

    #[test]
    fn what_belongs_to_containers_is_not() {
        let mut m = HostMounts::from_mountinfo(INFO);
        for (dev, path) in [
            (OVERLAY, "/etc/crontab"),
            (99, "/etc/crontab"),
            (56, "/x"),
            (57, "/token"),
            (22, "/kernel/uevent_helper"),
            (DISK, "/var/lib/docker/volumes/data/_data/etc/crontab"),
            (DISK, "/var/lib/docker/containers/abc/resolv.conf"),
            (DISK, "/home/bob/.local/share/containers/storage/volumes/v/_data"),
            (DISK, "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v/crontab"),
            (DISK, "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/s"),
            (DISK, "…/volumes/data/_data/home/a/.ssh/authorized_keys"),
            (DISK | 32, "/other/x"),
        ] {
            assert!(!m.is_host_file(&file(dev, path), Some(OVERLAY)), "{path}");
        }
        assert!(m.is_host_file(&file(DISK, "/srv/engine/x/etc/crontab"), Some(OVERLAY)));
        m.add_engine_root("/srv/engine/");
        assert!(!m.is_host_file(&file(DISK, "/srv/engine/x/etc/crontab"), Some(OVERLAY)));
        assert!(m.is_host_file(&file(DISK, "/srv/engineer/etc/crontab"), Some(OVERLAY)));
    }

    #[test]
    fn a_container_root_on_the_hosts_disk_is_told_by_the_path() {
        let m = HostMounts::from_mountinfo(INFO);
        assert!(m.is_host_file(&file(DISK, "/etc/cron.d/x"), Some(DISK)));
        assert!(m.is_host_file(&file(DISK, "/var/spool/cron/crontabs/root"), Some(DISK)));
        assert!(!m.is_host_file(&file(DISK, "/srv/bundle/rootfs/etc/crontab"), Some(DISK)));
        assert!(!m.is_host_file(&file(DISK, "/var/lib/docker/vfs/dir/abc/etc/crontab"), Some(DISK)));
    }

    #[test]
    fn an_overlay_may_be_the_hosts_root() {
        let m = HostMounts::from_mountinfo("1 0 0:9 / / rw - overlay overlay rw\n");
        assert!(m.is_host_file(&file(9, "/etc/crontab"), Some(10)));
    }

    #[test]
    fn this_hosts_root_is_a_host_device() {
        let mut m = HostMounts::read().unwrap();
        m.refresh();
        assert!(m.is_host_device(root_device(1).or_else(|| root_device(std::process::id())).unwrap()));
    }
}
