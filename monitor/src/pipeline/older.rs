//! Processes older than the monitor. /proc tells their start to a clock tick, the kernel half to the
//! nanosecond; here the two become one key, and the kernel half learns of them.

use crate::container::Registry;
use crate::event::{Body, Event, HOST, ProcessKey, Stdio};
use crate::kernel::maps::Maps;
use crate::provenance::{Process, Program, Resolve};
use crate::respond::kill::same_start;
use crate::startup::STARTUP_ID;
use monitor_common::state::{InodeKey, Task};
use std::collections::HashMap;
use std::sync::Arc;

/// See the module.
#[derive(Default)]
pub struct Older(HashMap<u32, u64>);

impl Older {
    /// Notes a process of the start-up scan, and tells the kernel half of it.
    pub fn note(&mut self, maps: &mut Maps, event: &Event) {
        self.0.insert(event.process.tgid, event.process.start_ns);
        if let Body::Exec(exec) = &event.body {
            let mut task: Task = bytemuck::Zeroable::zeroed();
            task.start_ns = event.process.start_ns;
            task.container = event.container;
            task.flags = exec.task_flags;
            task.parent_tgid = exec.parent.tgid;
            task.stdin = pipe(&exec.stdio[0]);
            task.stdout = pipe(&exec.stdio[1]);
            // The path that /proc tells is that in the container's view; on its root both are the same.
            let tgid = event.process.tgid;
            let mounts = || std::fs::read_to_string(format!("/proc/{tgid}/mountinfo")).unwrap_or_default();
            if event.container != HOST && is_on_root(&mounts(), &exec.exe.path) {
                task.exe = monitor_common::profile::path(&exec.exe.path);
            }
            found_line(maps, event.process.tgid, &mut task);
            maps.add_task(event.process.tgid, &task);
        }
    }

    /// Gives the processes of an event the keys they were noted under.
    pub fn rename(&self, event: &mut Event) {
        if self.0.is_empty() {
            return;
        }
        self.key(&mut event.process);
        match &mut event.body {
            Body::Exec(exec) => self.key(&mut exec.parent),
            Body::Fork { parent, .. } => self.key(parent),
            _ => {}
        }
    }

    fn key(&self, key: &mut ProcessKey) {
        if let Some(start_ns) = self.0.get(&key.tgid)
            && same_start(*start_ns, key.start_ns)
        {
            key.start_ns = *start_ns;
        }
    }

    /// A process has ended: its pid may come again.
    pub fn forget_if_over(&mut self, event: &Event) {
        if matches!(event.body, Body::Exit { .. }) && event.id & STARTUP_ID == 0 {
            self.0.remove(&event.process.tgid);
        }
    }
}

/// Is a file of this path on the process's root file system, whose own root is that of the process?
fn is_on_root(mountinfo: &str, path: &str) -> bool {
    let below = |folder: &str| folder == "/" || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    });
    // Of mounts over each other the last one counts.
    let nearest = mounts.filter(|(_, at)| *at == path || below(at)).max_by_key(|(_, at)| at.len());
    nearest.is_some_and(|(root, at)| root == "/" && at == "/")
}

/// Whose descendant it is, as far as its parent is noted already and in the same container.
fn found_line(maps: &Maps, tgid: u32, task: &mut Task) {
    let parent = maps.task(task.parent_tgid).filter(|parent| parent.container == task.container);
    if let Some(parent) = parent {
        task.lineage = parent.lineage;
        task.depth = parent.depth;
    }
    let depth = task.depth as usize;
    if let Some(slot) = task.lineage.get_mut(depth) {
        *slot = monitor_common::lineage::id(tgid, task.start_ns);
        task.depth += 1;
    }
}

fn pipe(stdio: &Stdio) -> InodeKey {
    match stdio {
        Stdio::Pipe(inode) => InodeKey { ino: inode.ino, dev: inode.dev, generation: 0 },
        _ => InodeKey::default(),
    }
}

/// Fills gaps in the process table from /proc.
pub struct FromProc {
    registry: Registry,
}

impl FromProc {
    /// Reads with this registry's idea of containers.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }
}

impl Resolve for FromProc {
    fn resolve(&mut self, key: ProcessKey) -> Option<Process> {
        let folder = format!("/proc/{}", key.tgid);
        let stat = std::fs::read_to_string(format!("{folder}/stat")).ok()?;
        let ticks = crate::respond::kill::start_ticks_of(&stat)?;
        if key.start_ns != 0 && ticks != crate::respond::kill::start_ticks(key.start_ns) {
            return None; // the pid came again
        }
        let cgroup = std::fs::read_to_string(format!("{folder}/cgroup")).unwrap_or_default();
        let container = self.registry.key_of_process(&cgroup).unwrap_or(crate::event::HOST);
        let mut process = Process::unknown(key, container);
        process.comm = std::fs::read_to_string(format!("{folder}/comm")).unwrap_or_default().trim_end().into();
        let parent = crate::respond::kill::stat_field(&stat, 4)?.parse::<u32>().ok()?;
        if parent != 0 {
            let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
            let start_ns = crate::respond::kill::start_ticks_of(&stat).map_or(0, |ticks| ticks * 10_000_000);
            process.parent = Some(ProcessKey { tgid: parent, start_ns });
        }
        let cmdline = std::fs::read(format!("{folder}/cmdline")).unwrap_or_default();
        let exe = std::fs::read_link(format!("{folder}/exe")).unwrap_or_default();
        process.program = Arc::new(Program {
            exe: exe.to_string_lossy().into(),
            args: cmdline
                .split(|b| *b == 0)
                .filter(|arg| !arg.is_empty())
                .map(|arg| String::from_utf8_lossy(arg).into())
                .collect(),
            ..Program::default()
        });
        Some(process)
    }
}

#[cfg(test)]
mod tests {
    use super::is_on_root;

    #[test]
    fn paths_on_other_mounts_are_not_the_kernels() {
        let mounts = "1 0 0:5 / / rw - overlay overlay rw\n2 1 8:1 /vol /data rw - ext4 /dev/sda1 rw\n";
        assert!(is_on_root(mounts, "/usr/bin/x") && is_on_root(mounts, "/database"));
        assert!(!is_on_root(mounts, "/data/x"));
        assert!(!is_on_root("1 0 8:1 /rootfs / rw - ext4 /dev/sda1 rw\n", "/usr/bin/x"), "another root");
        assert!(!is_on_root("", "/usr/bin/x"));
    }
}
