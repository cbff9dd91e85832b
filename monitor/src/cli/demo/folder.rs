//! The demo's folder: the monitor's configuration, sockets and alerts, and the container's mount points.

use super::cgroup::Cgroup;
use super::error::{DemoError, Doing as _};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, DirEntry, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How the folder's name begins.
const NAME: &str = "bulkhead-demo-";
/// A folder younger than this may belong to a demo that has not locked it yet.
const YOUNG: Duration = Duration::from_secs(10);

/// For root only, locked while the demo lives; removed with all it holds when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes it in /run (or, without one, /tmp) under a name nobody can foresee.
    pub(super) fn make() -> Result<Self, DemoError> {
        let path = parent().join(format!("{NAME}{}", random_hex(8)?));
        // Fails if it exists, so it is ours to remove.
        DirBuilder::new().mode(0o700).create(&path).doing(|| format!("make folder {}", path.display()))?;
        let lock = File::open(&path).doing(|| format!("open folder {}", path.display()))?;
        let folder = Self { path, _lock: lock };
        folder._lock.try_lock().doing(|| format!("lock folder {}", folder.path.display()))?;
        Ok(folder)
    }

    /// Removes what demos left that were killed before they could: folders of root's that nobody holds
    /// locked, and the cgroups they name. Their processes went with them.
    pub(super) fn sweep() {
        let entries = fs::read_dir(parent()).into_iter().flatten().filter_map(Result::ok);
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(NAME)) {
            if let Some(lock) = abandoned(&entry) {
                let folder = Self { path: entry.path(), _lock: lock };
                drop(Cgroup::recorded(folder.path()));
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The container's mounts were in a mount namespace of its own: here are only plain files.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            left_behind(&format!("folder {}", self.path.display()), &error);
        }
    }
}

fn parent() -> &'static Path {
    let run = Path::new("/run");
    if run.is_dir() { run } else { Path::new("/tmp") }
}

/// The lock of a folder whose demo is dead.
fn abandoned(entry: &DirEntry) -> Option<File> {
    // Not through a symbolic link: `DirEntry::metadata` does not follow one.
    let about = entry.metadata().ok().filter(|about| about.is_dir() && about.uid() == 0)?;
    let age = about.modified().ok()?.elapsed().ok()?;
    let lock = File::open(entry.path()).ok()?;
    (age > YOUNG && lock.try_lock().is_ok()).then_some(lock)
}

/// Something could not be removed.
static LEFT: AtomicBool = AtomicBool::new(false);

/// Tells of something the demo made and could not remove.
pub(super) fn left_behind(what: &str, error: &dyn std::fmt::Display) {
    LEFT.store(true, Ordering::Relaxed);
    let _ = writeln!(std::io::stderr(), "bulkhead: could not remove {what}: {error}");
}

/// Was everything that was to be removed by now removed?
pub(super) fn is_clean() -> bool {
    !LEFT.load(Ordering::Relaxed)
}

/// `bytes` random bytes in hexadecimal digits.
pub(super) fn random_hex(bytes: usize) -> Result<String, DemoError> {
    let mut raw = vec![0_u8; bytes];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut raw))
        .doing(|| "read /dev/urandom".to_owned())?;
    Ok(raw.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}
