//! A cgroup that looks like a Docker container's, in every hierarchy by which one is recognised, without
//! an engine: the benchmark measures the monitor, not Docker.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A container's cgroups. Removed on drop if [`Container::remove`] was not called.
pub struct Container {
    folders: Vec<PathBuf>,
    /// Folders `…/docker` that were not there before.
    parents: Vec<PathBuf>,
    id: String,
}

impl Container {
    /// Makes the cgroups: v1 `pids` where mounted, and v2.
    pub fn make() -> Result<Self> {
        let mounts = hierarchies(&fs::read_to_string("/proc/self/mounts").context("read the mounts")?);
        if mounts.is_empty() {
            bail!("neither a cgroup v2 nor a v1 pids hierarchy is mounted");
        }
        let id = random_id()?;
        let mut container = Self { folders: Vec::new(), parents: Vec::new(), id };
        for mount in mounts {
            let parent = mount.join("docker");
            if !parent.exists() {
                fs::create_dir(&parent).with_context(|| format!("create {}", parent.display()))?;
                container.parents.push(parent.clone());
            }
            let folder = parent.join(&container.id);
            fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
            container.folders.push(folder);
        }
        Ok(container)
    }

    /// 64 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The `cgroup.procs` files to join it by.
    pub fn procs(&self) -> impl Iterator<Item = PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs"))
    }

    /// Removes the cgroups. A process that has just ended may still be counted in for a moment.
    pub fn remove(mut self) -> Result<()> {
        for folder in std::mem::take(&mut self.folders) {
            remove_folder(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        self.remove_parents();
        Ok(())
    }

    /// An engine that started meanwhile may have put its own containers there: then they stay.
    fn remove_parents(&self) {
        for parent in &self.parents {
            let _ = fs::remove_dir(parent);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = remove_folder(folder) {
                eprintln!("bench: {} is left behind: {error}", folder.display());
            }
        }
        self.remove_parents();
    }
}

fn remove_folder(folder: &Path) -> std::io::Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                if std::time::Instant::now() > deadline {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// Mount points of the v1 `pids` hierarchy and of v2, from /proc/self/mounts.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_pids = kind == "cgroup" && options.split(',').any(|option| option == "pids");
        let first_v2 = kind == "cgroup2" && point.starts_with("/sys/fs/cgroup");
        if is_pids || first_v2 {
            found.push(PathBuf::from(point));
        }
    }
    found
}

/// 64 hexadecimal digits that no engine gave out.
fn random_id() -> Result<String> {
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
    Ok(format!("be4c{:028x}{:032x}", std::process::id(), seed.as_nanos()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn finds_hybrid_and_unified_hierarchies() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let expected = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(hierarchies(hybrid), expected);
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\nnone /run/bulkhead/cgroup cgroup2 rw 0 0\n";
        assert_eq!(hierarchies(unified), [PathBuf::from("/sys/fs/cgroup")]);
    }

    #[test]
    fn ids_look_like_dockers() {
        let id = random_id().unwrap();
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
