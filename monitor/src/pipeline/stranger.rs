//! Processes of containers that come to the control socket: turned away in every mode, and reported.

use super::{Input, Pipeline};
use crate::container::Registry;
use crate::event::{Attempt, Body, ContainerKey, Event, HOST, ProcessKey, Reason, Rung, Verdict};
use crate::kernel::clock::boot_ns;
use crate::kernel::maps::Marks;
use crate::startup::STARTUP_ID;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// Says why a process is turned away; `None`: it may ask.
pub type Gate = Arc<dyn Fn(u32) -> Option<String> + Send + Sync>;

/// Turns away who belongs to a container: by what the kernel half knows of the process, which stays when it moves
/// itself to another cgroup, or by its cgroup. The daemon's own container is no stranger to it.
pub fn gate(registry: Registry, marks: Option<Marks>, sender: SyncSender<Input>) -> Gate {
    Arc::new(move |pid| {
        let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
        let by_cgroup = of(&pid.to_string()).map(|text| registry.key_of_process(&text));
        let marked = marks.as_ref().and_then(|marks| marks.task(pid)).map(|task| task.container);
        let own = of("self").and_then(|text| registry.key_of_process(&text));
        let container = container(marked, by_cgroup, own)?;
        // A full queue costs the report, not the refusal.
        let _ = sender.try_send(Input::Stranger(pid));
        let id = container.and_then(|key| registry.get(key)).map_or("unknown".into(), |container| container.id.clone());
        Some(format!("process {pid} belongs to container {id}, and containers may not use this socket"))
    })
}

/// The container a peer belongs to (`Some(None)`: to one that is not known), `None` for the host and the daemon's own.
/// `by_cgroup` is `None` for a process that has ended.
fn container(
    marked: Option<ContainerKey>,
    by_cgroup: Option<Option<ContainerKey>>,
    own: Option<ContainerKey>,
) -> Option<Option<ContainerKey>> {
    let found = match marked.filter(|key| *key != HOST) {
        Some(key) => Some(key),
        None => by_cgroup.unwrap_or(None),
    };
    (found != Some(HOST) && (found.is_none() || found != own)).then_some(found)
}

impl Pipeline {
    /// Reports one that was turned away. The kernel half mostly tells of it too: that is the same finding.
    pub(super) fn on_stranger(&mut self, tgid: u32) {
        let Some(task) = self.maps.task(tgid) else {
            tracing::warn!(
                pid = tgid,
                "a process of a container that is not watched was turned away from the control socket"
            );
            return;
        };
        let mut event = Event {
            id: STARTUP_ID | u64::from(tgid),
            time_ns: boot_ns(),
            process: ProcessKey { tgid, start_ns: task.start_ns },
            tid: tgid,
            uid: 0,
            container: task.container,
            verdict: Verdict::Observed,
            reason: Reason::Tamper,
            rung: Rung::None,
            peer_tgid: None,
            body: Body::Tamper { attempt: Attempt::Control, detail: 0, object: 0 },
        };
        self.older.rename(&mut event);
        self.on_event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_and_the_daemons_own_container_may_ask() {
        assert_eq!(container(None, Some(Some(HOST)), Some(HOST)), None);
        assert_eq!(container(Some(HOST), Some(Some(HOST)), Some(HOST)), None);
        assert_eq!(container(None, Some(Some(7)), Some(7)), None, "the daemon's own");
        assert_eq!(container(None, Some(Some(7)), Some(HOST)), Some(Some(7)));
        assert_eq!(
            container(Some(7), Some(Some(HOST)), Some(HOST)),
            Some(Some(7)),
            "moved itself to the host's cgroup"
        );
        assert_eq!(container(None, Some(None), Some(HOST)), Some(None), "not registered");
        assert_eq!(container(None, None, Some(HOST)), Some(None), "has ended");
        assert_eq!(container(None, Some(None), None), Some(None), "both unknown");
    }
}
