#![expect(clippy::unwrap_used, reason = "tests")]

//! On real child processes; the container is a registry entry that the test's own cgroup stands
//! for where that can be arranged, so the checks read the real /proc.

use super::testing::{Notes, act};
use super::*;
use crate::container::hierarchy::{self, Hierarchy};
use crate::container::registry::Metadata;
use crate::event::{Body, Cgroup, Reason};
use crate::finding::FindingKind;
use std::collections::HashMap;
use std::process::{Child, Command};

const KEY: u64 = 77;
const ID: &str = "3fa1c6d2b7e84f0a9c5d1e2f3a4b5c6d7e8f90123456789abcdef0123456789a";

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn key(&self) -> ProcessKey {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let ns = kill::start_ticks_of(&stat).unwrap() * 10_000_000;
        // As the kernel half would give it: somewhere inside the tick.
        ProcessKey { tgid: self.0.id(), start_ns: ns + 1_234_567 }
    }

    fn alive(&mut self) -> bool {
        std::thread::sleep(std::time::Duration::from_millis(50));
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn event(container: u64, verdict: Verdict, rung: Rung, process: ProcessKey) -> Event {
    Event {
        id: 1,
        time_ns: 1,
        process,
        tid: process.tgid,
        uid: 0,
        container,
        verdict,
        reason: Reason::None,
        rung,
        peer_tgid: None,
        body: Body::Exit { code: 0 },
    }
}

fn rules(mode: Mode, action: Action) -> Rules {
    Rules { default_mode: mode, actions: HashMap::from([(FindingKind::Miner, action)]), ..Rules::default() }
}

/// A registry with one container, to which this process does not belong.
fn registry() -> Registry {
    let hierarchy =
        hierarchy::detect().unwrap_or(Hierarchy { id: 0, controller: String::new(), mount: "/sys/fs/cgroup".into() });
    let registry = Registry::new(hierarchy);
    let hierarchy = registry.hierarchy().id;
    let path = format!("/docker/{ID}");
    registry.on_cgroup(&Cgroup { id: KEY, parent: 1, gone: false, hierarchy, path }).unwrap();
    registry.complete(ID, Metadata { complete: true, ..Metadata::default() });
    registry
}

fn miner(culprit: ProcessKey) -> Detection {
    Detection::new(FindingKind::Miner, culprit, "test")
}

#[test]
fn a_process_outside_the_container_is_refused_and_lives() {
    let mut child = Sleeper::start();
    let e = event(KEY, Verdict::Observed, Rung::None, child.key());
    let outcome = act(&rules(Mode::Protect, Action::Kill), &registry(), &e, &miner(child.key()), &[]);
    assert!(matches!(&outcome, Outcome::Refused { why } if why.contains("not in the container")), "{outcome:?}");
    assert!(child.alive());
}

#[test]
fn monitor_mode_alert_action_and_weak_evidence_touch_nothing() {
    let mut child = Sleeper::start();
    let e = event(KEY, Verdict::Observed, Rung::None, child.key());
    let mut weak = miner(child.key());
    for r in [rules(Mode::Monitor, Action::Kill), rules(Mode::Protect, Action::Alert), rules(Mode::Off, Action::Kill)] {
        assert_eq!(act(&r, &registry(), &e, &weak, &[]), Outcome::Observed);
    }
    weak.alert_only = true;
    assert_eq!(act(&rules(Mode::Protect, Action::Kill), &registry(), &e, &weak, &[]), Outcome::Observed);
    assert!(child.alive());
}

#[test]
fn the_host_is_never_acted_on() {
    let mut child = Sleeper::start();
    let e = event(HOST, Verdict::Observed, Rung::None, child.key());
    let mut r = rules(Mode::Protect, Action::Kill);
    assert_eq!(act(&r, &registry(), &e, &miner(child.key()), &[]), Outcome::Observed);
    r.host_enforce = true;
    assert!(matches!(act(&r, &registry(), &e, &miner(child.key()), &[]), Outcome::Refused { .. }));
    assert!(child.alive());
}

#[test]
fn init_bulkhead_and_the_host_are_out() {
    let registry = registry();
    let mut child = Sleeper::start();
    for pid in [0, 1, std::process::id()] {
        let error = kill::kill(ProcessKey { tgid: pid, start_ns: 0 }, KEY, &registry).unwrap_err();
        assert!(matches!(error, KillError::Protected { .. }));
    }
    let error = kill::kill(child.key(), HOST, &registry).unwrap_err();
    assert!(matches!(error, KillError::Protected { .. }));
    assert!(child.alive());
}

#[test]
fn what_the_kernel_did_is_told() {
    let gone = ProcessKey { tgid: 4_000_000, start_ns: 5 };
    let r = rules(Mode::Protect, Action::Kill);
    let killed = act(&r, &registry(), &event(KEY, Verdict::Killed, Rung::Signal, gone), &miner(gone), &[]);
    assert_eq!(killed, Outcome::Killed { by: EnforcedBy::Signal, processes: vec![gone.tgid] });
    let denied = act(&r, &registry(), &event(KEY, Verdict::Denied, Rung::Cgroup, gone), &miner(gone), &[]);
    assert_eq!(denied, Outcome::Denied { by: EnforcedBy::Cgroup });
    let observed = act(&r, &registry(), &event(KEY, Verdict::Observed, Rung::None, gone), &miner(gone), &[]);
    assert!(matches!(observed, Outcome::Refused { why } if why.contains("already ended")));
}
