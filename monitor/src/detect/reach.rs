//! A container reaches for what lies outside of it by system calls: the host's namespaces or another
//! container's, the host's root, its disks, its kernel, a neighbour's processes.

use super::Detector;
use super::context::Context;
use crate::event::{Body, ContainerKey, Event, HOST, Kind, Open, Reach, Reached, file};
use crate::finding::{Detection, FindingKind, Severity};

/// Types of BPF programs that look into the kernel or change what it does (include/uapi/linux/bpf.h): kprobe,
/// tracepoint, perf event, raw tracepoint (two), tracing, extension, LSM, struct_ops. Those of packets and cgroups are
/// an engine's or a service manager's daily work.
const TRACING: &[u64] = &[2, 5, 7, 17, 24, 26, 27, 28, 29];
/// Disks, by the first letters of their device files.
const DISKS: &[&str] = &["sd", "vd", "xvd", "hd", "nvme", "mmcblk", "md", "mapper/", "disk/"];
/// Programs of images that make user namespaces by design.
const NAMESPACE_MAKERS: &[&str] =
    &["bwrap", "buildah", "rootlesskit", "fuse-overlayfs", "flatpak", "firejail", "systemd"];

/// See the module.
pub struct ReachOut;

impl Detector for ReachOut {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Reach, Kind::Open]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        if event.container == HOST {
            return None;
        }
        match &event.body {
            Body::Reach(reach) if event.prevented() || !is_runtime(event, reach.task_flags, cx) => {
                called(event, reach, cx)
            }
            Body::Open(open) if open.file.has(file::FILE_ROOT) && !is_runtime(event, open.task_flags, cx) => {
                root(event, open, cx)
            }
            _ => None,
        }
    }
}

/// The runtime on its way into the container: out of an engine's programs, and started from outside.
fn is_runtime(event: &Event, task_flags: u32, cx: &Context<'_>) -> bool {
    cx.process(event).is_some_and(|p| {
        let named = |name: &str| cx.settings.runtimes.iter().any(|runtime| runtime == name) || name.starts_with("runc");
        (named(&p.comm) || named(p.program.name()))
            && p.parent.is_some_and(|parent| cx.is_entered(event, task_flags, parent))
    })
}

fn called(event: &Event, reach: &Reach, cx: &Context<'_>) -> Option<Detection> {
    let who = cx.describe(event.process);
    let tell = |kind, what, message: String, detail: String| {
        Detection::new(kind, event.process, message).with(event.id, what, 0, detail)
    };
    let weak = |mut detection: Detection, severity| {
        detection.alert_only = true;
        detection.severity = severity;
        detection
    };
    let escape = FindingKind::Escape;
    match &reach.what {
        Reached::Namespace(number) => {
            if !event.prevented() && cx.containers.shares_mounts(event.container, *number, event.process.tgid) {
                return None;
            }
            let message = format!("{who} has joined a mount namespace outside of its container");
            Some(tell(escape, "foreign_namespace", message, format!("mount namespace {number}")))
        }
        Reached::Mount { source, target, user_namespace } => {
            let detail = format!("mount of {source} on {target}");
            if is_process_folder(target) {
                let message = format!("{who} mounts over a process' folder in /proc");
                return Some(weak(tell(escape, "proc_mount", message, detail), Severity::Medium));
            }
            if is_disk(source) {
                let message = format!("{who} mounts a disk of the host: {source}");
                return Some(weak(tell(escape, "disk_mount", message, detail), Severity::High));
            }
            let own = cx.containers.is_own_user_namespace(event.container, *user_namespace);
            if reach.level == 0 || own || is_namespace_maker(event, cx) {
                return None;
            }
            let message = format!("{who} mounts in a user namespace of its own");
            Some(weak(tell(escape, "user_namespace_mount", message, detail), Severity::Low))
        }
        Reached::Module => {
            let came = if reach.failed { "the kernel refused it" } else { "the kernel took it" };
            let message = format!("{who} offers the kernel a module");
            Some(weak(tell(escape, "kernel_module", message, came.to_owned()), Severity::High))
        }
        Reached::Bpf(kind) => {
            if !TRACING.contains(kind) {
                return None;
            }
            let message = format!("{who} offers the kernel a BPF program that looks into it");
            Some(weak(tell(escape, "kernel_bpf", message, format!("program type {kind}")), Severity::High))
        }
        Reached::Trace { container, tgid } => Some(traced(event, *container, *tgid, cx)),
    }
}

fn traced(event: &Event, container: ContainerKey, tgid: u32, cx: &Context<'_>) -> Detection {
    let (kind, whose) = if container == HOST {
        (FindingKind::Escape, "the host")
    } else {
        (FindingKind::CredentialAccess, "another container")
    };
    let message = format!("{} traces a process of {whose}", cx.describe(event.process));
    let mut detection =
        Detection::new(kind, event.process, message).with(event.id, "foreign_trace", 0, format!("pid {tgid}"));
    detection.alert_only = true;
    detection
}

/// chroot(2) into a folder of the host.
fn root(event: &Event, open: &Open, cx: &Context<'_>) -> Option<Detection> {
    if !cx.containers.is_host_file(event.container, &open.file) {
        return None;
    }
    let path = &open.file.path;
    let message = format!("{} has made a folder of the host its root directory", cx.describe(event.process));
    let detail = format!("{path} on the host's file system");
    let mut detection =
        Detection::new(FindingKind::Escape, event.process, message).with(event.id, "foreign_root", 0, detail);
    detection.file = Some(path.to_string());
    Some(detection)
}

/// `/proc/7`, `/proc/7/…`
fn is_process_folder(target: &str) -> bool {
    let first = target.strip_prefix("/proc/").and_then(|rest| rest.split('/').next());
    first.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()))
}

fn is_disk(source: &str) -> bool {
    source.strip_prefix("/dev/").is_some_and(|name| DISKS.iter().any(|disk| name.starts_with(disk)))
}

fn is_namespace_maker(event: &Event, cx: &Context<'_>) -> bool {
    let makes =
        |name: &str| NAMESPACE_MAKERS.contains(&name) || cx.settings.runtimes.iter().any(|runtime| runtime == name);
    let own = cx.process(event).into_iter();
    own.chain(cx.processes.ancestors(event.process).take(3))
        .any(|p| p.container == event.container && Context::is_from_image(p) && makes(p.program.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::ContainerFacts;
    use crate::detect::testing::{CONTAINER, Lab, kinds, open};
    use crate::event::{ProcessKey, Reason, Verdict};
    use FindingKind::{CredentialAccess, Escape};

    struct Outside;
    impl ContainerFacts for Outside {
        fn init(&self, _: ContainerKey) -> Option<ProcessKey> {
            Some(Lab::key(5))
        }
        fn shares_mounts(&self, _: ContainerKey, namespace: u64, _: u32) -> bool {
            namespace == 7
        }
        fn is_own_user_namespace(&self, _: ContainerKey, namespace: u64) -> bool {
            namespace == 7
        }
    }

    fn lab() -> Lab {
        let mut lab = Lab::new();
        lab.facts = Box::new(Outside);
        lab
    }

    fn reach(lab: &mut Lab, pid: u32, level: u32, what: Reached) -> Vec<FindingKind> {
        kinds(&lab.act(pid, Body::Reach(Box::new(Reach { what, task_flags: 0, level, failed: false }))))
    }

    fn mount(source: &str, target: &str, user_namespace: u64) -> Reached {
        Reached::Mount { source: source.into(), target: target.into(), user_namespace }
    }

    #[test]
    fn namespaces() {
        assert!(reach(&mut lab(), 9, 0, Reached::Namespace(7)).is_empty(), "the container's own");
        assert_eq!(reach(&mut lab(), 9, 0, Reached::Namespace(8)), [Escape]);
        let mut lab = lab();
        let body = Reach { what: Reached::Namespace(7), task_flags: 0, level: 0, failed: false };
        let mut event = lab.event(9, Body::Reach(Box::new(body)));
        (event.verdict, event.reason) = (Verdict::Killed, Reason::Escape);
        assert_eq!(kinds(&lab.send(event)), [Escape], "what was stopped is told");
        lab.exec(30, 3, &["runc", "init"]);
        assert!(reach(&mut lab, 30, 0, Reached::Namespace(8)).is_empty(), "the runtime on its way in");
    }

    #[test]
    fn mounts() {
        assert!(reach(&mut lab(), 9, 0, mount("tmpfs", "/mnt", 7)).is_empty());
        assert_eq!(reach(&mut lab(), 9, 0, mount("/proc/1", "/proc/77", 7)), [Escape]);
        assert!(reach(&mut lab(), 9, 0, mount("proc", "/proc", 7)).is_empty());
        assert_eq!(reach(&mut lab(), 9, 0, mount("/dev/sda1", "/mnt", 7)), [Escape]);
        assert!(reach(&mut lab(), 9, 0, mount("/dev/null", "/x", 7)).is_empty());
        assert_eq!(reach(&mut lab(), 9, 1, mount("t", "/mnt", 8)), [Escape]);
        assert!(reach(&mut lab(), 9, 1, mount("t", "/mnt", 7)).is_empty(), "a container with a user namespace");
        let mut lab = lab();
        lab.exec(20, 9, &["bwrap", "--unshare-all", "true"]);
        assert!(reach(&mut lab, 20, 1, mount("t", "/mnt", 8)).is_empty());
    }

    #[test]
    fn the_kernel_and_neighbours() {
        assert_eq!(reach(&mut lab(), 9, 0, Reached::Module), [Escape]);
        assert_eq!(reach(&mut lab(), 9, 0, Reached::Bpf(2)), [Escape]);
        assert!(reach(&mut lab(), 9, 0, Reached::Bpf(8)).is_empty(), "of a cgroup");
        assert_eq!(reach(&mut lab(), 9, 0, Reached::Trace { container: HOST, tgid: 1 }), [Escape]);
        let other = Reached::Trace { container: CONTAINER + 1, tgid: 70 };
        assert_eq!(reach(&mut lab(), 9, 0, other), [CredentialAccess]);
    }

    #[test]
    fn roots() {
        let change = |path: &str| {
            let foreign = file::FILE_ROOT | file::FILE_FOREIGN_SB;
            kinds(&lab().act(9, Body::Open(Box::new(open(path, foreign, 0)))))
        };
        assert_eq!(change("/srv/host"), [Escape]);
        assert!(change("…/docker/volumes/v/_data/root").is_empty());
    }
}
