//! What the container stage knows, as the detectors ask for it.

use crate::container::Registry;
use crate::container::host_mounts::HostMounts;
use crate::detect::ContainerFacts;
use crate::event::{Body, ContainerKey, Event, File, HOST, ProcessKey, Reason, Rung, Verdict, file, state};
use crate::finding::Detection;
use crate::provenance::{Process, ProcessTable};
use crate::recording::{Notes, Question};
use crate::respond::exceptions::Exceptions;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

/// Label by which a container asks for drift to be reported.
const DRIFT_LABEL: &str = "bulkhead.drift";

/// Processes remembered that came from outside into one container.
const ENTERED: usize = 16;

/// See the module.
pub struct Facts {
    registry: Registry,
    mounts: RefCell<HostMounts>,
    drift_alert: bool,
    notes: Notes,
    exceptions: Exceptions,
    /// Who came from outside into each container. The earliest that has not ended is its first process; one of the
    /// runtime's own may have been in before.
    entered: HashMap<ContainerKey, Vec<Entered>>,
    bad_images: HashSet<ContainerKey>,
}

/// A process that came from outside.
#[derive(Clone, Copy)]
struct Entered {
    process: ProcessKey,
    /// When it was seen.
    time_ns: u64,
    ended: bool,
}

impl Entered {
    const fn new(process: ProcessKey, time_ns: u64) -> Self {
        Self { process, time_ns, ended: false }
    }
}

impl Facts {
    /// Knows nothing of any container yet.
    pub fn new(registry: Registry, mounts: HostMounts, drift_alert: bool, notes: Notes) -> Self {
        let (entered, bad_images) = (HashMap::new(), HashSet::new());
        let (mounts, exceptions) = (RefCell::new(mounts), Exceptions::default());
        Self { registry, mounts, drift_alert, notes, exceptions, entered, bad_images }
    }

    /// Learns from an event: the first program that comes from outside into a container is its init.
    pub fn see(&mut self, event: &Event) {
        if event.container == HOST {
            return;
        }
        match &event.body {
            Body::Exec(exec) if exec.task_flags & state::TASK_ENTERED != 0 => {
                let entered = self.entered.entry(event.container).or_default();
                entered.retain(|known| !known.ended);
                if entered.len() < ENTERED && entered.iter().all(|known| known.process != event.process) {
                    entered.push(Entered::new(event.process, event.time_ns));
                }
            }
            Body::Exit { .. } => {
                let Some(entered) = self.entered.get_mut(&event.container) else { return };
                entered.iter_mut().filter(|known| known.process == event.process).for_each(|known| known.ended = true);
                // The only one stays, for what is still told of its descendants.
                if entered.len() > 1 {
                    entered.retain(|known| !known.ended);
                }
            }
            _ => {}
        }
    }

    /// Learns from a process that is older than the events: a container's oldest is its init.
    pub fn older(&mut self, process: &Process) {
        if process.container == HOST {
            return;
        }
        let started_ns = process.program.time_ns.max(process.key.start_ns);
        let entered = self.entered.entry(process.container).or_default();
        match entered.first_mut() {
            Some(init) if process.key.start_ns < init.process.start_ns => *init = Entered::new(process.key, started_ns),
            Some(_) => {}
            None => entered.push(Entered::new(process.key, started_ns)),
        }
    }

    /// The first process of a container.
    fn first(&self, container: ContainerKey) -> Option<Entered> {
        self.entered.get(&container)?.first().copied()
    }

    /// A container is gone.
    pub fn forget(&mut self, container: ContainerKey) {
        self.entered.remove(&container);
        self.bad_images.remove(&container);
    }

    /// Is this the first time that this container's image is found bad?
    pub fn first_bad_image(&mut self, container: ContainerKey) -> bool {
        self.bad_images.insert(container)
    }

    /// Was it found bad?
    pub fn has_bad_image(&self, container: ContainerKey) -> bool {
        self.bad_images.contains(&container)
    }

    /// Where the host sees a file of its own that a container opened.
    pub fn host_path(&self, opened: &File) -> Option<String> {
        if !opened.has(file::FILE_FOREIGN_SB) {
            return None;
        }
        let mounts = self.mounts.borrow();
        if mounts.is_host_file(opened, None) { mounts.host_path(opened) } else { None }
    }

    /// The engine told where it keeps volumes and layers.
    pub fn engine_root(&mut self, root: &str) {
        self.mounts.borrow_mut().add_engine_root(root);
    }

    /// What the configuration expects.
    pub fn exceptions(&mut self, exceptions: &Exceptions) {
        self.exceptions = exceptions.clone();
    }

    /// Is a process of the container's other than `except` in this mount namespace? `None`: its processes are not known.
    fn others_share(&self, container: ContainerKey, namespace: u64, except: u32) -> Option<bool> {
        let text = std::fs::read_to_string(self.registry.directory(container)?.join("cgroup.procs")).ok()?;
        let mut others = text.lines().filter_map(|line| line.trim().parse::<u32>().ok()).filter(|tgid| *tgid != except);
        Some(others.any(|tgid| namespace_of(tgid, "mnt") == Some(namespace)))
    }

    /// The configured default for drift.
    pub fn drift_alert(&mut self, on: bool) {
        self.drift_alert = on;
    }
}

impl ContainerFacts for Facts {
    fn init(&self, container: ContainerKey) -> Option<ProcessKey> {
        self.first(container).map(|init| init.process)
    }

    fn started_ns(&self, container: ContainerKey) -> Option<u64> {
        self.first(container).map(|init| init.time_ns)
    }

    fn is_host_file(&self, _container: ContainerKey, opened: &File) -> bool {
        if !opened.has(file::FILE_FOREIGN_SB) {
            return false;
        }
        let mut mounts = self.mounts.borrow_mut();
        mounts.refresh();
        let answer = mounts.is_host_file(opened, None);
        self.notes.host_file(opened, answer);
        answer
    }

    fn excepted(&self, event: &Event, detection: &Detection, processes: &ProcessTable) -> Option<String> {
        let view = || self.registry.view(event.container);
        self.exceptions.covering(event, detection, processes, view).map(str::to_owned)
    }

    fn shares_mounts(&self, container: ContainerKey, namespace: u64, except: u32) -> bool {
        let answer = self.others_share(container, namespace, except).unwrap_or(true);
        self.notes.answer(Question::SharesMounts(container, namespace, except), Some(u64::from(answer)));
        answer
    }

    fn is_own_user_namespace(&self, container: ContainerKey, namespace: u64) -> bool {
        let init = self.first(container).map(|init| init.process.tgid);
        let answer = init.and_then(|tgid| namespace_of(tgid, "user")).is_none_or(|own| own == namespace);
        self.notes.answer(Question::OwnUserNamespace(container, namespace), Some(u64::from(answer)));
        answer
    }

    fn inner_pid(&self, tgid: u32) -> Option<u32> {
        let answer = inner_pid(tgid);
        self.notes.answer(Question::InnerPid(tgid), answer.map(u64::from));
        answer
    }

    fn drift_alerts(&self, container: ContainerKey) -> bool {
        let label = self.registry.get(container).and_then(|c| c.metadata.labels.get(DRIFT_LABEL).cloned());
        match label.as_deref() {
            Some("alert") => true,
            Some(_) => false,
            None => self.drift_alert,
        }
    }
}

/// The last of the ids that /proc gives it.
fn inner_pid(tgid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tgid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

/// Inode number of a process' namespace.
fn namespace_of(tgid: u32, kind: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{tgid}/ns/{kind}")).ok().map(|namespace| namespace.ino())
}

/// Some process of a container, to look at its root directory.
pub fn some_process(registry: &Registry, container: ContainerKey) -> Option<u32> {
    let folder = registry.directory(container)?;
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// An event that stands for the container itself, for findings that no act led to.
pub fn container_event(registry: &Registry, container: ContainerKey) -> Event {
    standing_for(container, some_process(registry, container).unwrap_or(0), crate::kernel::clock::boot_ns())
}

/// The same, of a process and a moment of the caller's.
pub fn standing_for(container: ContainerKey, tgid: u32, time_ns: u64) -> Event {
    Event {
        id: crate::startup::STARTUP_ID | container,
        time_ns,
        process: ProcessKey { tgid, start_ns: 0 },
        tid: tgid,
        uid: 0,
        container,
        verdict: Verdict::Observed,
        reason: Reason::None,
        rung: Rung::None,
        peer_tgid: None,
        body: Body::Exit { code: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::hierarchy::Hierarchy;
    use crate::detect::testing::{CONTAINER, Lab, exec};

    fn entered(lab: &Lab, pid: u32) -> Event {
        let mut body = exec(3, &["x"]);
        body.task_flags |= state::TASK_ENTERED;
        lab.event(pid, Body::Exec(Box::new(body)))
    }

    /// A runtime may start itself anew inside, and end there when the container's first process runs already.
    #[test]
    fn a_runtimes_own_process_is_not_the_first() {
        for ends_before in [true, false] {
            let registry = Registry::new(Hierarchy::nowhere());
            let mut facts = Facts::new(registry, HostMounts::from_mountinfo(""), false, Notes::default());
            let lab = Lab::new();
            let end = lab.event(20, Body::Exit { code: 0 });
            facts.see(&entered(&lab, 20));
            assert_eq!(facts.init(CONTAINER), Some(Lab::key(20)));
            if ends_before {
                facts.see(&end);
            }
            facts.see(&entered(&lab, 21));
            if !ends_before {
                facts.see(&end);
            }
            assert_eq!(facts.init(CONTAINER), Some(Lab::key(21)));
            // Later sessions are not the first either.
            facts.see(&entered(&lab, 22));
            facts.see(&lab.event(22, Body::Exit { code: 0 }));
            facts.see(&entered(&lab, 23));
            assert_eq!(facts.init(CONTAINER), Some(Lab::key(21)));
        }
    }
}
