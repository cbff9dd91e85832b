//! Cgroups as an engine with the cgroupfs driver makes them: the same path in every hierarchy that a
//! monitor may read or act in.

use super::{Result, at};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// v1 controllers in which a container gets a cgroup: by `pids` or `memory` it is told, by `freezer` it
/// is frozen. The others cost a synchronisation of all processors for every process that joins.
const CONTROLLERS: [&str; 3] = ["pids", "memory", "freezer"];

/// Longest wait for killed processes to leave their cgroup.
const EMPTY_WAIT: Duration = Duration::from_secs(10);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A parent cgroup: `/NAME/docker` in each hierarchy, removed when dropped.
#[derive(Debug)]
pub struct Group {
    name: String,
    folders: Vec<PathBuf>,
}

impl Group {
    /// Makes it. `name` is one component.
    ///
    /// # Errors
    /// Without root, or where nothing is mounted.
    pub fn make(name: &str) -> Result<Self> {
        let path = Path::new("/proc/self/mounts");
        let mounts = fs::read_to_string(path).map_err(at("read", path))?;
        let mut group = Self { name: name.to_owned(), folders: Vec::new() };
        for mount in hierarchies(&mounts) {
            let folder = mount.join(name);
            fs::create_dir_all(folder.join("docker")).map_err(at("make", &folder))?;
            group.folders.push(folder);
        }
        Ok(group)
    }

    /// Its path from the root of each hierarchy.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// A new container's cgroup in it.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn cgroup(&self) -> Result<Cgroup> {
        let id = fresh_id();
        let mut cgroup = Cgroup { folders: Vec::new(), id };
        for parent in &self.folders {
            let folder = parent.join("docker").join(&cgroup.id);
            fs::create_dir(&folder).map_err(at("make", &folder))?;
            cgroup.folders.push(folder);
        }
        Ok(cgroup)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.folders);
    }
}

/// A container's cgroups; everything in them is killed and they are removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    /// 64 hexadecimal digits.
    pub id: String,
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// The membership files, open for writing: `0` written to each takes the writer in.
    pub(crate) fn doors(&self) -> Result<Vec<File>> {
        let open = |folder: &PathBuf| {
            let path = folder.join("cgroup.procs");
            File::options().write(true).open(&path).map_err(at("open", &path))
        };
        self.folders.iter().map(open).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.folders);
    }
}

/// Mount points of the hierarchies that matter, from /proc/self/mounts. A monitor's private mount of the
/// unified hierarchy shows the same directories a second time and is passed over.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let v1 = kind == "cgroup" && options.split(',').any(|option| CONTROLLERS.contains(&option));
        let v2 = kind == "cgroup2" && point.starts_with("/sys/fs/cgroup");
        if (v1 || v2) && !found.iter().any(|known| known == Path::new(point)) {
            found.push(PathBuf::from(point));
        }
    }
    found
}

/// 64 hexadecimal digits that no engine gave out.
fn fresh_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("ba4e{:08x}{serial:08x}{:044x}", std::process::id(), now.as_nanos())
}

fn remove(folders: &[PathBuf]) {
    let deadline = Instant::now() + EMPTY_WAIT;
    loop {
        let left: Vec<&PathBuf> = folders.iter().filter(|folder| !remove_tree(folder)).collect();
        if left.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            eprintln!("cgroups left behind: {left:?}");
            return;
        }
        for folder in left {
            kill_members(folder);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn remove_tree(folder: &Path) -> bool {
    for child in children(folder) {
        remove_tree(&child);
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}

/// Only ever called on cgroups made here: nothing else is in them than what was started here.
fn kill_members(folder: &Path) {
    for child in children(folder) {
        kill_members(&child);
    }
    for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw)
            && pid != Pid::INIT
            && pid != rustix::process::getpid()
        {
            let _ended_by_itself = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_each_layout() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n";
        assert_eq!(hierarchies(v1), [PathBuf::from("/sys/fs/cgroup/pids")]);
        let unified = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nnone /run/bulkhead/cgroup cgroup2 rw 0 0\n";
        let both = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(hierarchies(&format!("{v1}{unified}")), both);
        assert_eq!(hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), [PathBuf::from("/sys/fs/cgroup")]);
    }

    #[test]
    fn ids_look_like_an_engines_and_differ() {
        let (one, two) = (fresh_id(), fresh_id());
        assert_eq!(one.len(), 64);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, two);
    }
}
