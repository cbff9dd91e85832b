//! The container's cgroup, named as Docker's cgroupfs driver would name it, in the hierarchy that is watched.

use super::error::{DemoError, Doing as _};
use super::folder::left_behind;
use crate::container::hierarchy::Hierarchy;
use crate::container::path::is_id;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A process that was just killed holds its cgroup until it is reaped.
const PATIENCE: Duration = Duration::from_secs(3);

/// File in the demo's folder that names its cgroup.
const NOTE: &str = "cgroup";

/// Removed when dropped, and the parent with it if it was made here.
#[derive(Debug)]
pub(super) struct Cgroup {
    dir: PathBuf,
    made_parent: bool,
}

impl Cgroup {
    /// Makes `path` (`/docker/ID`) in `hierarchy`, and a note of it in `folder`.
    pub(super) fn make(hierarchy: &Hierarchy, path: &str, folder: &Path) -> Result<Self, DemoError> {
        let dir = hierarchy.mount.join(path.trim_start_matches('/'));
        let parent = dir.parent().unwrap_or(&hierarchy.mount);
        let made_parent = match fs::create_dir(parent) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => return Err(DemoError::Step { what: format!("make cgroup {}", parent.display()), source }),
        };
        // From here on the drop removes the parent, also when the next step fails.
        let cgroup = Self { dir: dir.clone(), made_parent };
        let note = folder.join(NOTE);
        let text = format!("{}\n{made_parent}\n", dir.display());
        fs::write(&note, text).doing(|| format!("write {}", note.display()))?;
        fs::create_dir(&dir).doing(|| format!("make cgroup {}", dir.display()))?;
        Ok(cgroup)
    }

    /// The cgroup that is noted in the folder of a demo that was killed. A cgroup that is in use cannot be
    /// removed, so dropping it does no harm.
    pub(super) fn recorded(folder: &Path) -> Option<Self> {
        let note = fs::read_to_string(folder.join(NOTE)).ok()?;
        let mut lines = note.lines();
        let dir = PathBuf::from(lines.next()?);
        let made_parent = lines.next()? == "true";
        let believed = dir.file_name()?.to_str().is_some_and(is_id);
        // Lazily: dropping one that is not believed would remove what the note names.
        believed.then(|| Self { dir, made_parent })
    }

    /// Moves a process in.
    pub(super) fn add(&self, pid: u32) -> Result<(), DemoError> {
        let file = self.dir.join("cgroup.procs");
        fs::write(&file, pid.to_string()).doing(|| format!("write {}", file.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir) {
            left_behind(&format!("cgroup {}", self.dir.display()), &error);
        }
        if let (true, Some(parent)) = (self.made_parent, self.dir.parent()) {
            // An engine may have started meanwhile and use it: then it is not empty, and stays.
            let _ = fs::remove_dir(parent);
        }
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn hierarchy(mount: &Path) -> Hierarchy {
        Hierarchy { id: 8, controller: "pids".into(), mount: mount.into() }
    }

    #[test]
    fn a_parent_that_was_there_stays() {
        let (mount, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(mount.path().join("docker")).unwrap();
        let cgroup = Cgroup::make(&hierarchy(mount.path()), "/docker/one", folder.path()).unwrap();
        assert!(mount.path().join("docker/one").is_dir());
        drop(cgroup);
        assert!(mount.path().join("docker").is_dir());
        assert!(!mount.path().join("docker/one").exists());
    }

    #[test]
    fn a_parent_that_was_made_goes_and_one_in_use_stays() {
        let (mount, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(Cgroup::make(&hierarchy(mount.path()), "/docker/one", folder.path()).unwrap());
        assert!(!mount.path().join("docker").exists());
        let cgroup = Cgroup::make(&hierarchy(mount.path()), "/docker/one", folder.path()).unwrap();
        fs::create_dir(mount.path().join("docker/another")).unwrap();
        drop(cgroup);
        assert!(mount.path().join("docker/another").is_dir());
    }

    #[test]
    fn what_a_killed_demo_left_is_found_by_its_note() {
        let (mount, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = format!("/docker/{}", "5".repeat(64));
        let killed = Cgroup::make(&hierarchy(mount.path()), &path, folder.path()).unwrap();
        std::mem::forget(killed);
        drop(Cgroup::recorded(folder.path()).unwrap());
        assert!(!mount.path().join("docker").exists());
        // A note that names something else is not believed.
        fs::write(folder.path().join(NOTE), format!("{}\nfalse\n", mount.path().display())).unwrap();
        assert!(Cgroup::recorded(folder.path()).is_none());
        assert!(mount.path().exists());
    }
}
