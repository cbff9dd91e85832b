//! One pass over /proc: what each process is, what its descriptors are and which sockets it holds.

use super::net_table::{Direction, NetTable, Row};
use crate::container::{Registry, kernel_dev};
use crate::event::{ContainerKey, File, Fingerprint, Inode, ProcessKey, Stdio};
use crate::respond::kill::{start_ticks_of, stat_field};
use monitor_common::exec::{ARGS_HEAD, ARGS_TAIL};
use monitor_common::file::{FILE_MEMFD, FILE_OVERLAY, FILE_TMPFS, FILE_UNLINKED, FILE_UPPER};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Descriptors looked at in one process; a server may have a million.
const MAX_FDS: usize = 8192;
/// statfs(2) magic of overlayfs and tmpfs (include/uapi/linux/magic.h).
const OVERLAYFS: u32 = 0x794c_7630;
const TMPFS: u32 = 0x0102_1994;

/// One end of a pipe or FIFO that a task holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PipeEnd {
    /// The pipe.
    pub inode: Inode,
    /// Descriptor.
    pub fd: u32,
    /// Open for reading.
    pub reads: bool,
    /// Open for writing.
    pub writes: bool,
}

/// An inet socket that a task holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSocket {
    /// Its inode.
    pub inode: u64,
    /// Addresses and direction.
    pub row: Row,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Task {
    /// Identity; the start is cut to a clock tick.
    pub key: ProcessKey,
    /// Parent's tgid.
    pub parent: u32,
    /// Real uid.
    pub uid: u32,
    /// comm.
    pub comm: String,
    /// Executable.
    pub exe: File,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Arguments.
    pub args: Vec<String>,
    /// There are more than are kept.
    pub args_cut: bool,
    /// Its container.
    pub container: ContainerKey,
    /// Inode of its network namespace.
    pub netns: u64,
    /// Descriptors 0, 1, 2.
    pub stdio: [Stdio; 3],
    /// Pipes and FIFOs.
    pub pipes: Vec<PipeEnd>,
    /// Pseudo terminals whose master it holds.
    pub masters: Vec<u32>,
    /// Pseudo terminal on its standard input.
    pub terminal: Option<u32>,
    /// Inet sockets.
    pub sockets: Vec<TaskSocket>,
}

impl Task {
    /// An outbound connection it holds.
    pub fn outbound(&self) -> Option<&TaskSocket> {
        self.sockets.iter().find(|s| s.row.direction == Direction::Outbound)
    }
}

/// Every process that has a program of its own (kernel threads have none).
///
/// # Errors
/// /proc cannot be listed.
pub fn read(registry: &Registry) -> std::io::Result<Vec<Task>> {
    let mut tables = HashMap::new();
    let mut tasks = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some(pid) = pid
            && let Some(task) = read_task(pid, registry, &mut tables)
        {
            tasks.push(task);
        }
    }
    Ok(tasks)
}

/// One process; `None` if it is a kernel thread or ended meanwhile.
pub fn read_task(pid: u32, registry: &Registry, tables: &mut HashMap<u64, Arc<NetTable>>) -> Option<Task> {
    let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?).into_owned();
    let exe = read_exe(pid)?;
    let netns = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
    let table = Arc::clone(tables.entry(netns).or_insert_with(|| Arc::new(NetTable::of_process(pid))));
    // A container that is not registered came after the registry's scan: the kernel half tells of it.
    let container = registry.key_of_process(&text("cgroup")?)?;
    let (args, args_cut) = read_args(pid);
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let field = |n| stat_field(&stat, n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let mut task = Task {
        key: ProcessKey { tgid: pid, start_ns: start_ticks_of(&stat)?.saturating_mul(tick_ns) },
        parent: u32::try_from(field(4)).unwrap_or(0),
        uid: real_uid(&text("status")?)?,
        comm: stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned(),
        fingerprint: Fingerprint {
            size: exe.size,
            // proc(5): startcode, endcode, start_data, end_data.
            code: field(27).saturating_sub(field(26)),
            data: field(46).saturating_sub(field(45)),
        },
        exe,
        args,
        args_cut,
        container,
        netns,
        stdio: [Stdio::None, Stdio::None, Stdio::None],
        pipes: Vec::new(),
        masters: Vec::new(),
        terminal: None,
        sockets: Vec::new(),
    };
    read_fds(&mut task, &table);
    // The pid may have been reused while it was read.
    let again = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?).into_owned();
    (start_ticks_of(&again) == start_ticks_of(&stat)).then_some(task)
}

fn real_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Arguments: the same head and tail that the kernel half keeps.
fn read_args(pid: u32) -> (Vec<String>, bool) {
    let mut bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let cut = bytes.len() > ARGS_HEAD + ARGS_TAIL;
    if cut {
        bytes.drain(ARGS_HEAD..bytes.len() - ARGS_TAIL);
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return (Vec::new(), cut);
    }
    (bytes.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect(), cut)
}

fn read_exe(pid: u32) -> Option<File> {
    let link = format!("/proc/{pid}/exe");
    let target = std::fs::read_link(&link).ok()?.to_string_lossy().into_owned();
    let meta = std::fs::metadata(&link).ok()?;
    let magic = rustix::fs::statfs(&link).map_or(0, |s| u32::try_from(s.f_type).unwrap_or(0));
    let path = target.strip_suffix(" (deleted)").unwrap_or(&target).to_owned();
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let flags = flag(meta.nlink() == 0, FILE_UNLINKED)
        | flag(path.starts_with("/memfd:"), FILE_MEMFD)
        | flag(magic == TMPFS, FILE_TMPFS)
        | flag(magic == OVERLAYFS, FILE_OVERLAY)
        | flag(magic == OVERLAYFS && in_upper(pid, &path), FILE_UPPER);
    Some(File {
        inode: Inode { dev: kernel_dev(meta.dev()), ino: meta.ino() },
        mode: meta.mode(),
        size: meta.size(),
        flags,
        magic,
        path: path.into(),
    })
}

/// Is there a copy of the file in the upper layer of the process's overlay root? Engines give the
/// layers as paths of the host.
fn in_upper(pid: u32, path: &str) -> bool {
    let Ok(mountinfo) = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")) else {
        return false;
    };
    upper_of_root(&mountinfo).is_some_and(|upper| std::fs::symlink_metadata(format!("{upper}{path}")).is_ok())
}

fn upper_of_root(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - overlay ")?;
        (front.split(' ').nth(4)? == "/").then_some(())?;
        back.rsplit(' ').next()?.split(',').find_map(|o| o.strip_prefix("upperdir="))
    })
}

fn read_fds(task: &mut Task, table: &NetTable) {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", task.key.tgid)) else {
        return;
    };
    for entry in entries.flatten().take(MAX_FDS) {
        let Some(fd) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let path = entry.path();
        if let (Ok(target), Ok(link)) = (std::fs::read_link(&path), entry.metadata()) {
            read_fd(task, table, fd, &path, &target.to_string_lossy(), link.mode());
        }
    }
}

/// One descriptor; `link_mode` is the mode of its link in /proc.
fn read_fd(task: &mut Task, table: &NetTable, fd: u32, path: &Path, target: &str, link_mode: u32) {
    let inet = inode_of(target, "socket:[").and_then(|ino| Some((ino, *table.get(ino)?)));
    if let Some((inode, row)) = inet
        && task.sockets.iter().all(|s| s.inode != inode)
    {
        task.sockets.push(TaskSocket { inode, row });
    }
    if target.ends_with("/ptmx") {
        task.masters.extend(tty_index(task.key.tgid, fd));
    }
    // Beyond 0–2 only pipes and FIFOs matter, and a FIFO's name looks like any file's.
    let named = target.starts_with('/') && !target.starts_with("/dev/");
    if fd > 2 && !named && !target.starts_with("pipe:[") {
        return;
    }
    let Some(meta) = Meta::of(path) else { return };
    if meta.kind == FileType::Fifo {
        // The link's own mode tells how the descriptor was opened (fs/proc/fd.c).
        let (reads, writes) = (link_mode & 0o400 != 0, link_mode & 0o200 != 0);
        task.pipes.push(PipeEnd { inode: meta.inode, fd, reads, writes });
    }
    if fd == 0 {
        task.terminal = target.strip_prefix("/dev/pts/").and_then(|n| n.parse().ok());
    }
    if let Some(slot) = task.stdio.get_mut(fd as usize) {
        *slot = stdio(&meta, inet.map(|(_, row)| row), target);
    }
}

/// What a descriptor refers to.
struct Meta {
    inode: Inode,
    kind: FileType,
    /// Major number of a device file.
    major: u32,
}

impl Meta {
    /// Never asks a server: a stat of a file on a dead network mount would hang.
    fn of(path: &Path) -> Option<Self> {
        let wanted = StatxFlags::TYPE | StatxFlags::INO;
        let s = statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted).ok()?;
        Some(Self {
            inode: Inode { dev: s.stx_dev_major << 20 | s.stx_dev_minor & 0xf_ffff, ino: s.stx_ino },
            kind: FileType::from_raw_mode(s.stx_mode.into()),
            major: s.stx_rdev_major,
        })
    }
}

fn inode_of(target: &str, prefix: &str) -> Option<u64> {
    target.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok()
}

/// Which pseudo terminal a master belongs to.
fn tty_index(pid: u32, fd: u32) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|l| l.strip_prefix("tty-index:"))?.trim().parse().ok()
}

fn stdio(meta: &Meta, inet: Option<Row>, target: &str) -> Stdio {
    if let Some(row) = inet {
        return match row.direction {
            Direction::Outbound => Stdio::InetOut(row.peer),
            Direction::Accepted => Stdio::InetOther(Some(row.peer)),
            Direction::Listening | Direction::Idle => Stdio::InetOther(None),
        };
    }
    match meta.kind {
        FileType::Fifo => Stdio::Pipe(meta.inode),
        // Not in the inet tables of its namespace. Netlink and packet sockets are nobody's stdio.
        FileType::Socket => Stdio::Unix(meta.inode),
        // Documentation/admin-guide/devices.txt: 4 and 5 terminals, 136–143 pseudo terminals.
        FileType::CharacterDevice => match meta.major {
            4 | 136..=143 => Stdio::Tty,
            5 if !target.ends_with("ptmx") => Stdio::Tty,
            _ => Stdio::Device,
        },
        FileType::RegularFile | FileType::Directory => Stdio::File(meta.inode),
        _ => Stdio::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_layer_is_the_roots() {
        let info = "1 0 0:50 / /data rw - overlay overlay rw,lowerdir=/l,upperdir=/not\n\
            2 0 0:51 / / rw,relatime - overlay overlay rw,lowerdir=/l:/m,upperdir=/var/lib/docker/overlay2/x/diff,workdir=/w\n";
        assert_eq!(upper_of_root(info), Some("/var/lib/docker/overlay2/x/diff"));
        assert_eq!(upper_of_root("1 0 254:0 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn links_and_uids() {
        assert_eq!(inode_of("socket:[4711]", "socket:["), Some(4711));
        assert_eq!(inode_of("anon_inode:[eventpoll]", "socket:["), None);
        assert_eq!(real_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(1000));
    }
}
