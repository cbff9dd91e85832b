//! Freezing and thawing a container: `cgroup.freeze` of cgroup v2, the freezer controller of v1.

use crate::container::registry::Container;
use crate::container::{Registry, hierarchy, path};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a container may take to freeze. A task in the middle of a disk operation takes as long as
/// the disk; on a quiet machine it is a millisecond.
pub const LIMIT: Duration = Duration::from_millis(250);

/// Why a container was not frozen or thawed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// There is nothing to freeze it with.
    #[error(
        "this host has no cgroup freezer for it: neither cgroup.freeze of cgroup v2 (Linux 5.2) nor the v1 freezer controller holds the container"
    )]
    NoFreezer,
    /// Nobody is in it.
    #[error("the container has no processes")]
    Empty,
    /// The file was refused.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Asked for and not reached in time.
    #[error("asked for, but after {waited:?} the kernel still says {state:?}")]
    Pending {
        /// How long.
        waited: Duration,
        /// What the kernel says.
        state: String,
    },
}

/// The freezer of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freezer {
    /// Its directory in cgroup v2.
    V2(PathBuf),
    /// Its directory in the v1 freezer hierarchy.
    V1(PathBuf),
}

impl Freezer {
    /// Finds it by way of a member process.
    ///
    /// # Errors
    /// [`FreezeError::Empty`], [`FreezeError::NoFreezer`].
    pub fn of(registry: &Registry, container: &Container, member: Option<u32>) -> Result<Self, FreezeError> {
        let member = member.ok_or(FreezeError::Empty)?;
        let proc_cgroup = std::fs::read_to_string(format!("/proc/{member}/cgroup")).map_err(|_| FreezeError::Empty)?;
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let found = Self::find(&proc_cgroup, &container.id, &mountinfo, registry.hierarchy().id == 0);
        found.into_iter().find(|freezer| freezer.file().exists()).ok_or(FreezeError::NoFreezer)
    }

    /// Candidates, the better first. A path that does not name this container (`/` where its runtime made
    /// no directory in that hierarchy) is none: it would freeze others.
    fn find(proc_cgroup: &str, id: &str, mountinfo: &str, unified: bool) -> Vec<Self> {
        let v2 = || {
            let path = line_of(proc_cgroup, |number, controllers| number == "0" && controllers.is_empty())?;
            Some(Self::V2(directory(&hierarchy::unified(mountinfo)?, path, id)?))
        };
        let v1 = || {
            let path = line_of(proc_cgroup, |_, controllers| controllers.split(',').any(|name| name == "freezer"))?;
            Some(Self::V1(directory(&hierarchy::v1(mountinfo, "freezer")?, path, id)?))
        };
        // The hierarchy that the engine itself uses comes first.
        if unified { [v2(), v1()] } else { [v1(), v2()] }.into_iter().flatten().collect()
    }

    /// In words.
    pub fn name(&self) -> &'static str {
        match self {
            Self::V2(_) => "cgroup v2 freezer",
            Self::V1(_) => "cgroup v1 freezer",
        }
    }

    fn file(&self) -> PathBuf {
        match self {
            Self::V2(folder) => folder.join("cgroup.freeze"),
            Self::V1(folder) => folder.join("freezer.state"),
        }
    }

    /// Is every process of the container frozen? `Err`: what the kernel says instead.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_frozen(&self) -> Result<bool, FreezeError> {
        Ok(match self {
            Self::V2(_) => self.state()? == "frozen",
            Self::V1(_) => self.state()? == "FROZEN",
        })
    }

    fn state(&self) -> Result<String, FreezeError> {
        let (file, v2) = match self {
            Self::V2(folder) => (folder.join("cgroup.events"), true),
            Self::V1(folder) => (folder.join("freezer.state"), false),
        };
        let text = std::fs::read_to_string(&file).map_err(|source| FreezeError::File { file, source })?;
        Ok(match v2 {
            true if text.lines().any(|line| line == "frozen 1") => "frozen".into(),
            true => "not frozen".into(),
            false => text.trim().to_owned(),
        })
    }

    /// Freezes or thaws it, and waits until that is so.
    ///
    /// # Errors
    /// [`FreezeError::File`], or [`FreezeError::Pending`] when the time was up: the kernel goes on.
    pub fn set(&self, frozen: bool, limit: Duration) -> Result<(), FreezeError> {
        let word = match (self, frozen) {
            (Self::V2(_), true) => "1",
            (Self::V2(_), false) => "0",
            (Self::V1(_), true) => "FROZEN",
            (Self::V1(_), false) => "THAWED",
        };
        let file = self.file();
        let begun = Instant::now();
        loop {
            // Under v1 a write also goes on with what was FREEZING (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
            std::fs::write(&file, word).map_err(|source| FreezeError::File { file: file.clone(), source })?;
            if self.is_frozen()? == frozen {
                return Ok(());
            }
            if begun.elapsed() >= limit {
                return Err(FreezeError::Pending { waited: limit, state: self.state()? });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn line_of(proc_cgroup: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<&str> {
    proc_cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers) = (parts.next()?, parts.next()?);
        let path = parts.next()?;
        wanted(number, controllers).then_some(path)
    })
}

/// The container's own directory, if the path names this container.
pub(super) fn directory(mount: &Path, path: &str, id: &str) -> Option<PathBuf> {
    let found = path::parse(path).filter(|found| found.id == id)?;
    Some(mount.join(found.root(path).trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const MOUNTS: &str = "\
30 20 0:25 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
31 20 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
32 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    fn id() -> String {
        "ab".repeat(32)
    }

    #[test]
    fn the_engines_own_hierarchy_comes_first() {
        let id = id();
        let proc = format!("6:freezer:/docker/{id}\n8:pids:/docker/{id}\n0::/docker/{id}/nested\n");
        let v1 = Freezer::V1(format!("/sys/fs/cgroup/freezer/docker/{id}").into());
        let v2 = Freezer::V2(format!("/sys/fs/cgroup/unified/docker/{id}").into());
        assert_eq!(Freezer::find(&proc, &id, MOUNTS, false), [v1.clone(), v2.clone()]);
        assert_eq!(Freezer::find(&proc, &id, MOUNTS, true), [v2, v1]);
    }

    #[test]
    fn the_root_and_other_containers_are_never_frozen() {
        let id = id();
        let other = "cd".repeat(32);
        let proc = format!("6:freezer:/\n8:pids:/docker/{id}\n0::/docker/{other}\n");
        assert_eq!(Freezer::find(&proc, &id, MOUNTS, false), []);
        assert_eq!(Freezer::find("", &id, MOUNTS, false), []);
    }

    #[test]
    fn states_are_read_and_a_refusal_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let v2 = Freezer::V2(folder.path().into());
        std::fs::write(folder.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        std::fs::write(folder.path().join("cgroup.freeze"), "").unwrap();
        assert!(!v2.is_frozen().unwrap());
        let error = v2.set(true, Duration::from_millis(3)).unwrap_err();
        assert!(error.to_string().contains("not frozen"), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join("cgroup.freeze")).unwrap(), "1");
        std::fs::write(folder.path().join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        v2.set(true, Duration::from_millis(3)).unwrap();
        let v1 = Freezer::V1(folder.path().join("gone"));
        assert!(v1.set(true, LIMIT).unwrap_err().to_string().contains("gone/freezer.state"));
        let v1 = Freezer::V1(folder.path().into());
        v1.set(true, LIMIT).unwrap();
        assert!(v1.is_frozen().unwrap(), "the file says what was written");
        v1.set(false, LIMIT).unwrap();
    }
}
