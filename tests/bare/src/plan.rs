//! What a process does between fork and exec, as data: everything is prepared before the fork, because
//! after it, in a copy of a process with many threads, nothing may be allocated or locked.

use super::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};
use std::ffi::CString;
use std::fs::File;
use std::io::{Error as IoError, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// One step.
#[derive(Debug)]
pub enum Step {
    /// Into a cgroup, by its open membership file.
    Join(File),
    /// Into a namespace.
    Enter(OwnedFd, LinkNameSpaceType),
    /// New namespaces.
    Unshare(UnshareFlags),
    /// Mounts made from here on stay in this namespace.
    Private,
    /// A file system.
    Mount { kind: CString, target: CString, flags: MountFlags, data: CString },
    /// A file or folder at a second place, with what is mounted below.
    Bind { source: CString, target: CString },
    /// A mount made read-only.
    ReadOnly(CString),
    /// A folder with access bits; it may be there already.
    Folder(CString, u32),
    /// An empty file; it may be there already.
    File(CString),
    /// A character device for everyone, by major and minor number.
    Device(CString, u32, u32),
    /// A symbolic link; it may be there already.
    Link { to: CString, at: CString },
    /// The current folder becomes the root, the old root its subfolder `.old`.
    Pivot,
    /// Unmounts, with all that is below.
    Detach(CString),
    /// Removes an empty folder.
    RemoveFolder(CString),
    /// Current folder.
    ChangeTo(CString),
    /// Host name.
    HostName(String),
    /// A session of its own, without a terminal.
    Session,
    /// All other capabilities are given up for good.
    Keep(u64),
    /// Supplementary groups, group and user.
    Become(Vec<Gid>, Gid, Uid),
    /// A step whose failure does not matter, on a kernel or an image that lacks its object.
    Try(Box<Step>),
}

impl Step {
    fn take(&self) -> std::result::Result<(), Errno> {
        match self {
            Self::Join(door) => {
                (&mut &*door).write_all(b"0").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
            }
            Self::Enter(namespace, kind) => rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(*kind)),
            // SAFETY: the process has one thread here and shares nothing with its parent; the flags in
            // use are of namespaces, not of the file table.
            Self::Unshare(flags) => unsafe { rustix::thread::unshare_unsafe(*flags) },
            Self::Private => {
                rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            }
            Self::Mount { kind, target, flags, data } => {
                rustix::mount::mount(kind.as_c_str(), target.as_c_str(), kind.as_c_str(), *flags, data.as_c_str())
            }
            Self::Bind { source, target } => rustix::mount::mount_bind_recursive(source.as_c_str(), target.as_c_str()),
            Self::ReadOnly(target) => {
                let flags = MountFlags::BIND | MountFlags::RDONLY;
                rustix::mount::mount_remount(target.as_c_str(), flags, c"")
            }
            Self::Folder(path, mode) => present(rustix::fs::mkdir(path.as_c_str(), Mode::from_raw_mode(*mode))),
            Self::File(path) => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
                rustix::fs::open(path.as_c_str(), flags, Mode::from_raw_mode(0o644)).map(drop)
            }
            Self::Device(path, major, minor) => {
                let number = rustix::fs::makedev(*major, *minor);
                let mode = Mode::from_raw_mode(0o666);
                rustix::fs::mknodat(CWD, path.as_c_str(), FileType::CharacterDevice, mode, number)?;
                rustix::fs::chmod(path.as_c_str(), mode)
            }
            Self::Link { to, at } => present(rustix::fs::symlink(to.as_c_str(), at.as_c_str())),
            Self::Pivot => rustix::process::pivot_root(c".", c".old"),
            Self::Detach(path) => rustix::mount::unmount(path.as_c_str(), UnmountFlags::DETACH),
            Self::RemoveFolder(path) => rustix::fs::rmdir(path.as_c_str()),
            Self::ChangeTo(path) => rustix::process::chdir(path.as_c_str()),
            Self::HostName(name) => rustix::system::sethostname(name.as_bytes()),
            Self::Session => rustix::process::setsid().map(drop),
            Self::Keep(mask) => keep(*mask),
            Self::Become(groups, gid, uid) => {
                rustix::thread::set_thread_groups(groups)?;
                rustix::thread::set_thread_gid(*gid)?;
                rustix::thread::set_thread_uid(*uid)
            }
            Self::Try(step) => {
                let _does_not_matter = step.take();
                Ok(())
            }
        }
    }
}

fn present(result: std::result::Result<(), Errno>) -> std::result::Result<(), Errno> {
    match result {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn keep(mask: u64) -> std::result::Result<(), Errno> {
    for number in 0..64 {
        if mask >> number & 1 == 1 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // Beyond the last that this kernel knows.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    // Root keeps across exec what its bounding set allows; what it could hand on goes.
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets)
}

/// Which process ids the started process sees.
#[derive(Debug)]
pub enum Pids {
    /// It is the first of a new namespace.
    New,
    /// Those of a namespace.
    Of(OwnedFd),
    /// Those of its maker.
    Host,
}

/// Starts `command` after `steps`.
///
/// # Errors
/// [`Error::Step`] names the step that failed.
pub fn spawn(steps: Vec<Step>, mut command: Command, pids: Pids) -> Result<Child> {
    let failure = |step: &str| {
        let step = step.to_owned();
        move |source: IoError| Error::Step { step, source }
    };
    let names: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
    let (reports, report) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| failure("pipe")(e.into()))?;
    let take_all = move || {
        for (number, step) in steps.iter().enumerate() {
            if let Err(error) = step.take() {
                let _nobody_reads = rustix::io::write(&report, &(number as u32).to_ne_bytes());
                return Err(error.into());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on memory prepared before.
    unsafe { command.pre_exec(take_all) };
    // The namespace of future children belongs to a thread, so this one serves for one child.
    let started = std::thread::spawn(move || -> Result<std::io::Result<Child>> {
        match &pids {
            // SAFETY: a pid namespace concerns only this thread's future children.
            Pids::New => unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }
                .map_err(|e| failure("unshare(CLONE_NEWPID)")(e.into()))?,
            Pids::Of(fd) => rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .map_err(|e| failure("setns(CLONE_NEWPID)")(e.into()))?,
            Pids::Host => {}
        }
        Ok(command.spawn())
    });
    let started = started.join().map_err(|_| Error::Invalid("a thread that starts a process panicked".into()))??;
    started.map_err(|source| {
        let mut number = [0; 4];
        let step = match File::from(reports).read_exact(&mut number) {
            Ok(()) => names.get(u32::from_ne_bytes(number) as usize).cloned().unwrap_or_default(),
            Err(_nothing_reported) => "starting the program".to_owned(),
        };
        Error::Step { step, source }
    })
}

/// Text for the kernel.
///
/// # Errors
/// [`Error::Invalid`] for a text with a NUL byte.
pub fn text(text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Invalid("a path or an option contains a NUL byte".into()))
}
