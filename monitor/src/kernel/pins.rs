//! Pins: where in a BPF file system the maps and links are kept, so that they outlive the daemon.
//!
//! Below the root there is one folder a version (`v<ABI>-<hash>`), with a folder `links` and a folder
//! `maps`. A version is made as `new` and renamed when it is whole. The lock of the root's directory
//! is what makes one daemon the only reader of the rings; it goes with the process that holds it.

use monitor_common::ABI_VERSION;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, statfs};
use rustix::mount::{MountFlags, mount};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where pins are unless the configuration says otherwise.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/bulkhead";
/// The usual mount point of the BPF file system; the directory is made by the kernel.
const USUAL: &str = "/sys/fs/bpf";
/// Name of a version that is not whole yet.
const UNFINISHED: &str = "new";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// How often a lock that somebody holds is tried again.
const LOOK: Duration = Duration::from_millis(20);

/// Why nothing can be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is no BPF file system and none can be mounted.
    #[error(
        "no BPF file system at {at} and none can be mounted there ({source}): mount one with \
         `mount -t bpf bpf {at}`, or set pins.root (\"\" pins nothing)",
        at = at.display()
    )]
    NoFileSystem {
        /// Where.
        at: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another daemon has the root.
    #[error("another daemon has the pins in {}", .0.display())]
    Busy(PathBuf),
}

/// The root of the pins, locked for this process.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    // Dropping it gives the lock up.
    _lock: OwnedFd,
}

/// The root, not locked yet.
#[derive(Debug)]
pub struct Unlocked {
    root: PathBuf,
    folder: OwnedFd,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links: a program is detached with its last one.
    pub links: usize,
    /// Maps.
    pub maps: usize,
}

impl Unlocked {
    /// Makes the root if it is not there, and the BPF file system below it if there is none. To be
    /// called before a mount namespace of our own is made: what is mounted there ends with us.
    ///
    /// # Errors
    /// [`PinError::NoFileSystem`], or the root cannot be made.
    pub fn make(root: &Path) -> Result<Self, PinError> {
        let make = |path: &Path| {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
        };
        let nearest = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if !is_bpf(nearest) {
            // Below the usual place a folder can be made only once it is mounted.
            let usual = root.starts_with(USUAL) && root != Path::new(USUAL);
            let at = if usual { Path::new(USUAL) } else { root };
            if !usual {
                make(at)?;
            }
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("bpf", at, "bpf", flags, Some(c"mode=0700"))
                .map_err(|source| PinError::NoFileSystem { at: at.into(), source: source.into() })?;
            tracing::info!(at = %at.display(), "a BPF file system was mounted");
        }
        make(root)?;
        Self::existing(root)?.ok_or_else(|| failed("open", root)(io::ErrorKind::NotFound.into()))
    }

    /// The root if it is there, on a BPF file system.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn existing(root: &Path) -> Result<Option<Self>, PinError> {
        if !root.is_dir() || !is_bpf(root) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let folder = open(root, flags, Mode::empty()).map_err(|error| failed("open", root)(error.into()))?;
        Ok(Some(Self { root: root.into(), folder }))
    }

    /// Takes the lock, waiting for at most `patience`.
    ///
    /// # Errors
    /// [`PinError::Busy`].
    pub fn lock(&self, patience: Duration) -> Result<Pins, PinError> {
        let end = Instant::now() + patience;
        loop {
            match flock(&self.folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOOK),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(PinError::Busy(self.root.clone())),
                Err(error) => return Err(failed("lock", &self.root)(error.into())),
            }
        }
        let lock = self.folder.try_clone().map_err(failed("lock", &self.root))?;
        Ok(Pins { root: self.root.clone(), _lock: lock })
    }
}

impl Pins {
    /// Where they are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whole versions that are there.
    pub fn versions(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| name.starts_with('v'));
        names.sort();
        names
    }

    /// Folder of a version.
    pub fn folder(&self, version: &str) -> Folder {
        Folder(self.root.join(version))
    }

    /// An empty folder for a version that is being made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn unfinished(&self) -> Result<Folder, PinError> {
        self.remove(UNFINISHED)?;
        let folder = self.folder(UNFINISHED);
        for path in [folder.maps(), folder.links()] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("make", &path))?;
        }
        Ok(folder)
    }

    /// The version that was being made did not come about.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    pub fn discard(&self) -> Result<Removed, PinError> {
        self.remove(UNFINISHED)
    }

    /// The unfinished version is whole: gives it its name, which must be free.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn finish(&self, version: &str) -> Result<Folder, PinError> {
        self.rename(UNFINISHED, version)
    }

    /// Gives a version another name.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn rename(&self, from: &str, to: &str) -> Result<Folder, PinError> {
        let (from, to) = (self.root.join(from), self.root.join(to));
        std::fs::rename(&from, &to).map_err(failed("rename", &from))?;
        Ok(Folder(to))
    }

    /// Removes a version, links first.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(&self, version: &str) -> Result<Removed, PinError> {
        let folder = self.folder(version);
        let removed = Removed { links: empty(&folder.links())?, maps: empty(&folder.maps())? };
        match std::fs::remove_dir(&folder.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &folder.0)(error)),
            _ => Ok(removed),
        }
    }

    /// Removes every version, and the root itself.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove_all(self) -> Result<Removed, PinError> {
        let mut all = self.remove(UNFINISHED)?;
        for version in self.versions() {
            let removed = self.remove(&version)?;
            all.links += removed.links;
            all.maps += removed.maps;
        }
        // It stays where it is a mount point: unmounting is left to who has the right to.
        let _ = std::fs::remove_dir(&self.root);
        Ok(all)
    }
}

/// One version's folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Its maps.
    pub fn maps(&self) -> PathBuf {
        self.0.join("maps")
    }

    /// Its links.
    pub fn links(&self) -> PathBuf {
        self.0.join("links")
    }
}

/// Name of a version: everything that decides whether programs that are attached already are the ones
/// that would be attached now. FNV-1a: it tells builds apart and guards against nobody.
pub fn version(parts: &[&[u8]]) -> String {
    let lengths = parts.iter().flat_map(|part| (part.len() as u64).to_le_bytes());
    let hash = fnv64(lengths.chain(parts.iter().flat_map(|part| part.iter().copied())));
    format!("{}{hash:016x}", abi_prefix())
}

/// FNV-1a, 64 bits.
pub fn fnv64(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What names of versions with our layouts begin with.
pub fn abi_prefix() -> String {
    format!("v{ABI_VERSION}-")
}

/// Removes a folder and what is pinned in it; how much that was.
fn empty(folder: &Path) -> Result<usize, PinError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.map_err(failed("list", folder))?.path();
        std::fs::remove_file(&path).map_err(failed("remove", &path))?;
        count += 1;
    }
    std::fs::remove_dir(folder).map_err(failed("remove", folder))?;
    Ok(count)
}

/// Unmounts a BPF file system that is mounted at the root itself, which is then ours alone, and
/// removes the empty folder.
///
/// # Errors
/// It is in use, or the right is missing.
pub fn unmount(root: &Path) -> io::Result<()> {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|meta| std::os::unix::fs::MetadataExt::dev(&meta));
    let own = root.parent().is_some_and(|parent| device(parent).ok() != device(root).ok());
    if !root.is_dir() || !is_bpf(root) || !own || root == Path::new(USUAL) {
        return Ok(());
    }
    rustix::mount::unmount(root, rustix::mount::UnmountFlags::empty())?;
    std::fs::remove_dir(root)
}

fn is_bpf(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type).ok() == Some(BPF_FS_MAGIC))
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> PinError + use<> {
    let path = path.to_owned();
    move |source| PinError::Io { what, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_tells_its_parts_apart() {
        let name = version(&[b"ab", b"c"]);
        assert!(name.starts_with(&abi_prefix()));
        // Dots are not allowed in names on a BPF file system (kernel/bpf/inode.c, bpf_lookup).
        assert!(!name.contains('.'));
        assert_eq!(name, version(&[b"ab", b"c"]));
        assert_ne!(name, version(&[b"a", b"bc"]));
    }

    #[test]
    fn an_ordinary_folder_is_no_root() {
        let folder = tempfile::tempdir();
        assert!(folder.is_ok_and(|folder| matches!(Unlocked::existing(folder.path()), Ok(None))));
        assert!(matches!(Unlocked::existing(Path::new("/nonexistent/x")), Ok(None)));
    }
}
