//! Takes away what a lab leaves on the machine: at its end, and at the next start what a crashed one
//! left behind. Only things that carry the lab's own name or lie in its own folders are touched.

use super::process::{Interrupt, pidfd, wait_pidfd};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Every mounted cgroup hierarchy.
pub fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    cgroup_mounts_of(&mounts)
}

fn cgroup_mounts_of(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(path))
        })
        .collect()
}

/// Kills what still runs below cgroup `name` in any hierarchy, then removes the groups.
pub fn remove_cgroup(name: &str) {
    let roots: Vec<PathBuf> =
        cgroup_mounts().into_iter().map(|mount| mount.join(name)).filter(|path| path.is_dir()).collect();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let busy: Vec<u32> = roots.iter().flat_map(|root| processes(root)).collect();
        for pid in &busy {
            kill(*pid, Duration::ZERO);
        }
        let left = roots.iter().filter(|root| !remove_tree(root)).count();
        if left == 0 || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn processes(group: &Path) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 1 && *pid != std::process::id())
        .collect();
    for child in directories(group) {
        found.extend(processes(&child));
    }
    found
}

fn directories(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(group: &Path) -> bool {
    for child in directories(group) {
        remove_tree(&child);
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

/// SIGTERM, `grace`, SIGKILL; with no grace SIGKILL at once.
pub fn kill(pid: u32, grace: Duration) {
    let Ok(fd) = pidfd(pid) else {
        return;
    };
    let never = Interrupt::default();
    if !grace.is_zero() {
        let _gone = rustix::process::pidfd_send_signal(&fd, Signal::TERM);
        if wait_pidfd(&fd, Instant::now() + grace, &never) {
            return;
        }
    }
    let _gone = rustix::process::pidfd_send_signal(&fd, Signal::KILL);
    wait_pidfd(&fd, Instant::now() + Duration::from_secs(5), &never);
}

/// Ends the process whose id is in `pid_file`, if its command line names `marker`: a pid file alone
/// proves nothing, the number may have been given to another process since.
pub fn end_process(pid_file: &Path, marker: &Path) {
    let Some(pid) = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok()) else {
        return;
    };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&command).contains(&*marker.to_string_lossy()) {
        kill(pid, Duration::from_secs(15));
    }
}

/// Detaches every mount on and below `folder`, deepest first.
pub fn unmount_below(folder: &Path) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in mounts_below(&text, folder) {
        let _gone = rustix::mount::unmount(&mount, UnmountFlags::DETACH);
    }
}

fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(folder))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_on_and_below_the_folder_deepest_first() {
        let info = "1 0 8:1 / / rw - ext4 x rw\n\
            2 1 8:1 / /a/lab/docker/overlay2/x/merged rw - overlay overlay rw\n\
            3 2 8:1 / /a/lab/docker/overlay2/x/merged/proc rw - proc proc rw\n\
            4 1 8:1 / /a/labour rw - ext4 x rw\n";
        assert_eq!(
            mounts_below(info, Path::new("/a/lab")),
            [PathBuf::from("/a/lab/docker/overlay2/x/merged/proc"), PathBuf::from("/a/lab/docker/overlay2/x/merged"),]
        );
    }

    #[test]
    fn both_kinds_of_cgroup_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            cgroup_mounts_of(mounts),
            [PathBuf::from("/sys/fs/cgroup/pids"), PathBuf::from("/sys/fs/cgroup/unified"),]
        );
    }
}
