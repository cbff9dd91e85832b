//! The demo's folder: the monitor's configuration, sockets and alerts, and the container's mount points.

use super::error::{DemoError, Doing as _};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// For root only; removed with all it holds when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes it in /run (or, without one, /tmp) under a name nobody can foresee.
    pub(super) fn make() -> Result<Self, DemoError> {
        let parent = Path::new("/run");
        let parent = if parent.is_dir() { parent } else { Path::new("/tmp") };
        let path = parent.join(format!("bulkhead-demo-{}", random_hex(8)?));
        // Fails if it exists, so it is ours to remove.
        DirBuilder::new().mode(0o700).create(&path).doing(|| format!("make folder {}", path.display()))?;
        Ok(Self { path })
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
