//! The steps that make a container's file system and its first process's credentials, in a runtime's
//! order and with its defaults (OCI runtime specification, "Default Filesystems"; Docker's own lists of
//! masked and read-only paths, devices and capabilities).

use super::plan::{Step, text};
use super::spec::{Mount, Network, Program, Source, Spec};
use super::user::User;
use super::{Cgroup, Error, Result, at};
use rustix::mount::MountFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "/dev/ptmx"),
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const MASKED_FILES: [&str; 5] =
    ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"];
const MASKED_FOLDERS: [&str; 4] = ["/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware"];

/// Where the overlay is put together before it becomes the root.
pub const ROOT: &str = "root";
/// What the container writes.
pub const UPPER: &str = "upper";
/// The overlay's own.
pub const WORK: &str = "work";

/// Everything from joining the cgroup to the credentials of the first process.
pub fn first_process(cgroup: &Cgroup, spec: &mut Spec, user: &User) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = cgroup.doors()?.into_iter().map(Step::Join).collect();
    if let Network::Namespace(namespace) = std::mem::replace(&mut spec.network, Network::Inherited) {
        steps.push(Step::Enter(namespace, LinkNameSpaceType::Network));
    }
    let mut new = UnshareFlags::NEWNS | UnshareFlags::NEWUTS;
    if !spec.ipc_host {
        new |= UnshareFlags::NEWIPC;
    }
    steps.extend([Step::Unshare(new), Step::Private]);
    root(spec, &mut steps)?;
    pseudo(spec, &mut steps)?;
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    // As an engine does it: a mount may lie in another.
    mounts.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    for mount in mounts {
        self::mount(mount, &mut steps)?;
    }
    if let Some(init) = &spec.init {
        bind(init, "/sbin/docker-init", true, &mut steps)?;
    }
    steps.extend([Step::Detach(text("/.old")?), Step::RemoveFolder(text("/.old")?)]);
    if !spec.privileged {
        close(&mut steps)?;
    }
    if spec.read_only {
        steps.push(Step::ReadOnly(text("/")?));
    }
    steps.push(Step::HostName(spec.hostname.clone()));
    credentials(&spec.program, user, spec.capabilities, &mut steps)?;
    Ok(steps)
}

/// Working folder, session, capabilities, ids.
pub fn credentials(program: &Program, user: &User, mask: u64, steps: &mut Vec<Step>) -> Result<()> {
    let folder = if program.folder.is_empty() { "/" } else { &program.folder };
    steps.extend([Step::ChangeTo(text(folder)?), Step::Session, Step::Keep(mask)]);
    // Docker's own `su`: the group of the user is also a supplementary one.
    let mut groups = vec![user.gid];
    groups.extend(user.groups.iter().filter(|gid| **gid != user.gid));
    let groups = groups.into_iter().map(Gid::from_raw).collect();
    steps.push(Step::Become(groups, Gid::from_raw(user.gid), Uid::from_raw(user.uid)));
    Ok(())
}

fn root(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let mut options = b"lowerdir=".to_vec();
    for (number, layer) in spec.lower.iter().enumerate() {
        if number > 0 {
            options.push(b':');
        }
        options.extend(layer.as_os_str().as_bytes());
    }
    for (key, name) in [(&b",upperdir="[..], UPPER), (b",workdir=", WORK)] {
        options.extend(key);
        options.extend(spec.folder.join(name).as_os_str().as_bytes());
    }
    let target = text(spec.folder.join(ROOT).as_os_str().as_bytes())?;
    steps.extend([
        Step::Mount {
            kind: text("overlay")?,
            target: target.clone(),
            flags: MountFlags::empty(),
            data: text(options)?,
        },
        Step::ChangeTo(target),
        Step::Folder(text(".old")?, 0o700),
        Step::Pivot,
        Step::ChangeTo(text("/")?),
    ]);
    Ok(())
}

fn file_system(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<Step> {
    Ok(Step::Mount { kind: text(kind)?, target: text(target)?, flags, data: text(data)? })
}

fn pseudo(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    let bare = quiet | MountFlags::NODEV;
    for folder in ["/proc", "/dev", "/sys"] {
        steps.push(Step::Folder(text(folder)?, 0o755));
    }
    steps.push(file_system("proc", "/proc", bare, "")?);
    steps.push(file_system("tmpfs", "/dev", MountFlags::NOSUID | MountFlags::STRICTATIME, "mode=755,size=65536k")?);
    for folder in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        steps.push(Step::Folder(text(folder)?, 0o755));
    }
    steps.push(file_system("devpts", "/dev/pts", quiet, "newinstance,ptmxmode=0666,mode=0620,gid=5")?);
    steps.push(file_system("tmpfs", "/dev/shm", bare, "mode=1777,size=65536k")?);
    steps.push(Step::Try(Box::new(file_system("mqueue", "/dev/mqueue", bare, "")?)));
    for (path, major, minor) in DEVICES {
        steps.push(Step::Device(text(path)?, major, minor));
    }
    for (to, at) in LINKS {
        steps.push(Step::Link { to: text(to)?, at: text(at)? });
    }
    let sys = if spec.privileged { bare } else { bare | MountFlags::RDONLY };
    steps.push(file_system("sysfs", "/sys", sys, "")?);
    Ok(())
}

fn mount(mount: &Mount, steps: &mut Vec<Step>) -> Result<()> {
    match &mount.source {
        Source::Bind(source) => bind(source, &mount.target, mount.read_only, steps),
        Source::Tmpfs(options) => {
            folders(&mount.target, steps)?;
            let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
            let mut data = Vec::new();
            // Flags and data come in one list; Docker's default is noexec.
            flags |= MountFlags::NOEXEC;
            for option in options.split(',').filter(|option| !option.is_empty()) {
                match option {
                    "exec" => flags.remove(MountFlags::NOEXEC),
                    "suid" => flags.remove(MountFlags::NOSUID),
                    "dev" => flags.remove(MountFlags::NODEV),
                    "ro" => flags |= MountFlags::RDONLY,
                    "rw" | "noexec" | "nosuid" | "nodev" => {}
                    other => data.push(other),
                }
            }
            steps.push(file_system("tmpfs", &mount.target, flags, &data.join(","))?);
            Ok(())
        }
    }
}

fn bind(source: &Path, target: &str, read_only: bool, steps: &mut Vec<Step>) -> Result<()> {
    // A link in it would be followed in the container.
    let source = source.canonicalize().map_err(at("find", source))?;
    if source.is_dir() {
        folders(target, steps)?;
    } else {
        let folder = Path::new(target).parent().map(Path::to_string_lossy).unwrap_or_default();
        folders(&folder, steps)?;
        steps.push(Step::File(text(target)?));
    }
    let outside = [b"/.old", source.as_os_str().as_bytes()].concat();
    steps.push(Step::Bind { source: text(outside)?, target: text(target)? });
    if read_only {
        steps.push(Step::ReadOnly(text(target)?));
    }
    Ok(())
}

/// A folder with its parents.
fn folders(path: &str, steps: &mut Vec<Step>) -> Result<()> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(Error::Invalid(format!("{path} is no absolute path in a container")));
    }
    let mut folder = PathBuf::from("/");
    for part in path.split('/').filter(|part| !part.is_empty()) {
        folder.push(part);
        steps.push(Step::Folder(text(folder.as_os_str().as_bytes())?, 0o755));
    }
    Ok(())
}

/// What of /proc and /sys an unprivileged container may not write or see.
fn close(steps: &mut Vec<Step>) -> Result<()> {
    let mut attempt = |step| steps.push(Step::Try(Box::new(step)));
    for path in READ_ONLY {
        attempt(Step::Bind { source: text(path)?, target: text(path)? });
        attempt(Step::ReadOnly(text(path)?));
    }
    for path in MASKED_FILES {
        attempt(Step::Bind { source: text("/dev/null")?, target: text(path)? });
    }
    for path in MASKED_FOLDERS {
        attempt(file_system("tmpfs", path, MountFlags::RDONLY, "size=0k")?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn parents_of_a_mount_are_made_and_none_lead_out() {
        let mut steps = Vec::new();
        folders("/a/b", &mut steps).unwrap();
        assert!(
            matches!(&steps[..], [Step::Folder(a, _), Step::Folder(b, _)] if a.as_bytes() == b"/a" && b.as_bytes() == b"/a/b")
        );
        assert!(folders("/a/../..", &mut steps).is_err());
        assert!(folders("a", &mut steps).is_err());
    }
}
