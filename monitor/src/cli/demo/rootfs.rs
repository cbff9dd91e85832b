//! The container's root, built inside its own mount namespace: it goes with the container's last process and
//! never shows on the host. What the container writes lands in memory, and that is verified, not assumed.

use super::init::Root;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::pivot_root;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

/// Directories that may be mounts of their own and without which no program runs. An overlay over the
/// root shows only the mount point below them.
const PROGRAMS: &[&str] = &["usr", "bin", "sbin", "lib", "lib64", "etc", "nix", "gnu"];
/// Where a key is planted.
const KEYS: &str = "/root/.ssh";
/// Room for what the container writes.
const ROOM: &str = "size=64m,mode=0755";

/// Names the operation in the error.
pub(super) fn named(what: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Builds the root below `folder` and makes it the root of this process.
pub(super) fn enter(folder: &Path) -> io::Result<Root> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| named("make the mounts private", error))?;
    umask(Mode::empty());
    let scratch = folder.join("scratch");
    fs::create_dir(&scratch)?;
    memory(&scratch, ROOM, MsFlags::MS_NODEV)?;
    let root = scratch.join("root");
    for name in ["upper", "work", "root"] {
        fs::create_dir(scratch.join(name))?;
    }
    let kind = match overlay(&scratch, &root) {
        Ok(()) => Root::Overlay,
        Err(_) => read_only("/".as_ref(), &root).map(|()| Root::ReadOnly)?,
    };
    for name in PROGRAMS {
        let (source, target) = (Path::new("/").join(name), root.join(name));
        if is_mount_point(&source)? {
            read_only(&source, &target)?;
        }
    }
    pivot(&root)?;
    furnish(kind)?;
    Ok(kind)
}

fn overlay(scratch: &Path, root: &Path) -> io::Result<()> {
    let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", scratch.display());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), root, Some("overlay"), flags, Some(layers.as_str()))?;
    Ok(())
}

fn read_only(source: &Path, target: &Path) -> io::Result<()> {
    let what = || format!("bind {} read-only", source.display());
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| named(&what(), e))?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(|e| named(&what(), e))
}

fn memory(at: &Path, options: &str, flags: MsFlags) -> io::Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), flags | MsFlags::MS_NOSUID, Some(options))
        .map_err(|error| named(&format!("mount a tmpfs on {}", at.display()), error))
}

/// Is `path` a directory on another mount than its parent? A symbolic link is none.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let path = path.to_string_lossy();
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| point == path))
}

/// `pivot_root(".", ".")` stacks the old root on the new one (pivot_root(2)), so no directory is needed for it.
fn pivot(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    pivot_root(".", ".").map_err(|error| named("pivot_root", error))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|error| named("detach the host's root", error))?;
    std::env::set_current_dir("/")
}

/// Mounts what the container has of its own. Runs after the pivot: a symbolic link among the mount points
/// then leads somewhere inside.
fn furnish(kind: Root) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(|error| named("mount /proc", error))?;
    // The host's /tmp may hold anybody's files, a marker of an earlier demo among them.
    memory("/tmp".as_ref(), "size=16m,mode=1777", MsFlags::MS_NODEV)?;
    if Path::new("/run").is_dir() {
        memory("/run".as_ref(), "size=1m,mode=0755", MsFlags::MS_NODEV)?;
    }
    if kind == Root::ReadOnly {
        memory("/root".as_ref(), "size=1m,mode=0700", MsFlags::MS_NODEV)?;
    }
    devices()?;
    keys(kind)
}

fn devices() -> io::Result<()> {
    memory("/dev".as_ref(), "size=64k,mode=0755", MsFlags::MS_NOEXEC)?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = Path::new("/dev").join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
            .map_err(|error| named(&format!("make {}", path.display()), error))?;
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, Path::new("/dev").join(name))?;
    }
    Ok(())
}

/// Makes the folder an SSH key is planted in, on the container's own memory or not at all.
fn keys(kind: Root) -> io::Result<()> {
    let ours = if kind == Root::Overlay { fs::metadata("/")?.dev() } else { fs::metadata("/root")?.dev() };
    // Before anything is made there: /root may be a mount of its own, or a link to somewhere else.
    let there = ["/root/.ssh", "/root"].iter().find_map(|path| fs::metadata(path).ok());
    if there.is_some_and(|found| found.dev() != ours) {
        return Err(io::Error::other(format!(
            "{KEYS} is not on the container's own layer; the demo writes nowhere else"
        )));
    }
    fs::create_dir_all(KEYS)?;
    fs::set_permissions(KEYS, fs::Permissions::from_mode(0o700))?;
    if fs::metadata(KEYS)?.dev() != ours {
        return Err(io::Error::other(format!("{KEYS} left the container's own layer")));
    }
    Ok(())
}
