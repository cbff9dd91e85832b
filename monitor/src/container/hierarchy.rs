//! Which cgroup hierarchy tells containers apart on this host, and where cgroup v2 is mounted for
//! the cgroup programs.
//!
//! On a v1 or hybrid host an engine makes a container's directory in every v1 controller; `pids`
//! is in every runtime's default set, cheap and never shared between containers. Only where no v1
//! controller is mounted does the unified hierarchy hold the containers.

use super::unescape_mount;
use std::path::{Path, PathBuf};

/// The watched hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Number as in `/proc/cgroups` and `/proc/PID/cgroup`; 0 is the unified hierarchy.
    pub id: u32,
    /// v1 controller that names it; empty for the unified hierarchy.
    pub controller: String,
    /// Where its root is mounted.
    pub mount: PathBuf,
}

impl Hierarchy {
    /// None at all: containers are told by a recording.
    pub fn nowhere() -> Self {
        Self { id: u32::MAX, controller: String::new(), mount: PathBuf::from("/nonexistent") }
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// A file could not be read.
    #[error("read {path}: {source}")]
    Read {
        /// Which.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing is mounted.
    #[error("no cgroup v1 pids, memory or cpu hierarchy and no cgroup v2 is mounted")]
    NotMounted,
    /// The private cgroup v2 mount failed.
    #[error("mount cgroup2 at {dir}: {source}")]
    Mount {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// v1 controllers in order of preference.
const CONTROLLERS: [&str; 3] = ["pids", "memory", "cpu"];

const MOUNTINFO: &str = "/proc/self/mountinfo";
const CGROUPS: &str = "/proc/cgroups";

/// Decides for this host.
///
/// # Errors
/// [`HierarchyError::Read`] without /proc, [`HierarchyError::NotMounted`] without any hierarchy.
pub fn detect() -> Result<Hierarchy, HierarchyError> {
    let mountinfo = read(MOUNTINFO)?;
    // Absent on a kernel without v1 controllers.
    let cgroups = std::fs::read_to_string(CGROUPS).unwrap_or_default();
    choose(&mountinfo, &cgroups).ok_or(HierarchyError::NotMounted)
}

fn read(path: &'static str) -> Result<String, HierarchyError> {
    std::fs::read_to_string(path).map_err(|source| HierarchyError::Read { path, source })
}

/// Decides from the contents of `/proc/self/mountinfo` and `/proc/cgroups`.
pub fn choose(mountinfo: &str, cgroups: &str) -> Option<Hierarchy> {
    for controller in CONTROLLERS {
        let id = hierarchy_id(cgroups, controller);
        if let (Some(id), Some(mount)) = (id, v1(mountinfo, controller)) {
            return Some(Hierarchy { id, controller: controller.to_owned(), mount });
        }
    }
    let mount = unified(mountinfo)?;
    Some(Hierarchy { id: 0, controller: String::new(), mount })
}

/// Where the whole cgroup v2 tree is mounted, the usual places first.
pub fn unified(mountinfo: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = mounts(mountinfo).filter(|m| m.fs == "cgroup2").map(|m| m.point).collect();
    let rank = |p: &PathBuf| match p.to_str() {
        Some("/sys/fs/cgroup") => 0,
        Some("/sys/fs/cgroup/unified") => 1,
        _ => 2,
    };
    found.sort_by_key(rank);
    found.into_iter().next()
}

/// Where the v1 hierarchy of a controller is mounted.
pub fn v1(mountinfo: &str, controller: &str) -> Option<PathBuf> {
    mounts(mountinfo)
        .find(|m| m.fs == "cgroup" && m.options.split(',').any(|option| option == controller))
        .map(|m| m.point)
}

/// Path of a cgroup in `hierarchy`, from the contents of `/proc/PID/cgroup`.
pub fn path_of<'c>(proc_cgroup: &'c str, hierarchy: &Hierarchy) -> Option<&'c str> {
    proc_cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let id: u32 = parts.next()?.parse().ok()?;
        let _controllers = parts.next()?;
        let path = parts.next()?;
        // "(deleted)" follows the path of a task whose cgroup was removed under it.
        (id == hierarchy.id).then(|| path.trim_end_matches(" (deleted)"))
    })
}

fn hierarchy_id(cgroups: &str, controller: &str) -> Option<u32> {
    cgroups
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            (fields.next()? == controller).then(|| fields.next()?.parse().ok()).flatten()
        })
        .filter(|id| *id != 0)
}

struct MountLine<'a> {
    point: PathBuf,
    fs: &'a str,
    options: &'a str,
}

/// Mounts of whole file systems; a bind mount of a part of a hierarchy is none of ours.
fn mounts(mountinfo: &str) -> impl Iterator<Item = MountLine<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let root = front.next()?;
        let point = PathBuf::from(unescape_mount(front.next()?));
        let mut back = back.split(' ');
        let fs = back.next()?;
        let _source = back.next()?;
        let options = back.next().unwrap_or("");
        (root == "/").then_some(MountLine { point, fs, options })
    })
}

/// A cgroup v2 mount of Bulkhead's own; unmounted when dropped.
#[derive(Debug)]
pub struct PrivateMount {
    dir: PathBuf,
}

impl PrivateMount {
    /// Its mount point.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot unmount the private cgroup v2 mount");
            return;
        }
        // The directory was made by us and is empty; a failure leaves an empty directory.
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// The cgroup v2 root for the cgroup programs: a mount that exists, else one of our own at `dir`.
///
/// # Errors
/// [`HierarchyError::Mount`] if the kernel has no cgroup v2 or the caller lacks CAP_SYS_ADMIN.
pub fn unified_or_private(dir: &Path) -> Result<(PathBuf, Option<PrivateMount>), HierarchyError> {
    if let Some(found) = unified(&read(MOUNTINFO)?) {
        return Ok((found, None));
    }
    let mount = mount_private(dir)?;
    Ok((mount.path().to_owned(), Some(mount)))
}

/// Mounts cgroup v2 at `dir`, which is made (mode 0700) if it is missing.
///
/// # Errors
/// [`HierarchyError::Mount`].
pub fn mount_private(dir: &Path) -> Result<PrivateMount, HierarchyError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |source| HierarchyError::Mount { dir: dir.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let flags =
        rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("cgroup2", dir, "cgroup2", flags, None).map_err(|errno| failed(errno.into()))?;
    Ok(PrivateMount { dir: dir.to_owned() })
}

#[cfg(test)]
#[path = "hierarchy_tests.rs"]
mod tests;
