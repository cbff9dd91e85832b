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

/// See the module.
pub struct Facts {
    registry: Registry,
    mounts: RefCell<HostMounts>,
    drift_alert: bool,
    notes: Notes,
    exceptions: Exceptions,
    /// First process of each container and when it was seen.
    inits: HashMap<ContainerKey, (ProcessKey, u64)>,
    bad_images: HashSet<ContainerKey>,
}

impl Facts {
    /// Knows nothing of any container yet.
    pub fn new(registry: Registry, mounts: HostMounts, drift_alert: bool, notes: Notes) -> Self {
        let (inits, bad_images) = (HashMap::new(), HashSet::new());
        let (mounts, exceptions) = (RefCell::new(mounts), Exceptions::default());
        Self { registry, mounts, drift_alert, notes, exceptions, inits, bad_images }
    }

    /// Learns from an event: the first program that comes from outside into a container is its init. What a runtime runs on
    /// its way there is not, nor is the process it does that in always the same: whether it is in the cgroup by then is
    /// a matter of luck.
    pub fn see(&mut self, event: &Event) {
        if let Body::Exec(exec) = &event.body
            && event.container != HOST
            && exec.task_flags & (state::TASK_ENTERED | state::TASK_ENTERING) == state::TASK_ENTERED
        {
            self.inits.entry(event.container).or_insert((event.process, event.time_ns));
        }
    }

    /// Learns from a process that is older than the events: a container's oldest is its init.
    pub fn older(&mut self, process: &Process) {
        if process.container == HOST {
            return;
        }
        let started_ns = process.program.time_ns.max(process.key.start_ns);
        let init = self.inits.entry(process.container).or_insert((process.key, started_ns));
        if process.key.start_ns < init.0.start_ns {
            *init = (process.key, started_ns);
        }
    }

    /// A container is gone.
    pub fn forget(&mut self, container: ContainerKey) {
        self.inits.remove(&container);
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
        self.inits.get(&container).map(|init| init.0)
    }

    fn started_ns(&self, container: ContainerKey) -> Option<u64> {
        self.inits.get(&container).map(|init| init.1)
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
        let init = self.inits.get(&container).map(|init| init.0.tgid);
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
    use state::{TASK_ENTERED, TASK_ENTERING};

    #[test]
    fn a_runtime_on_its_way_is_not_the_first_process() {
        let mounts = HostMounts::from_mountinfo("");
        let mut facts = Facts::new(Registry::new(Hierarchy::nowhere()), mounts, false, Notes::default());
        for (tgid, flags) in [(7, TASK_ENTERED | TASK_ENTERING), (8, TASK_ENTERED), (9, TASK_ENTERED)] {
            let mut exec = crate::detect::exec_for_tests(1, &["runc", "init"]);
            exec.task_flags = flags;
            let mut event = standing_for(5, tgid, 0);
            event.body = Body::Exec(Box::new(exec));
            facts.see(&event);
        }
        assert_eq!(facts.init(5).map(|init| init.tgid), Some(8));
    }
}
