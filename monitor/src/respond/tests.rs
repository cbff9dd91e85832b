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

#[test]
fn who_dies_in_the_kernel_while_its_line_is_hunted_is_told() {
    let gone = ProcessKey { tgid: 4_000_000, start_ns: 7_000_000_000 };
    let (rules, registry) = (rules(Mode::Protect, Action::Kill), registry());
    let (mut notes, mut held) = (Notes::default(), Held::default());
    notes.born.insert(monitor_common::lineage::id(gone.tgid, gone.start_ns), 2);
    let mut means = Means { rules: &rules, registry: &registry, reflex: &mut notes, held: &mut held, stop: None };
    let acted = super::act(&mut means, &event(KEY, Verdict::Observed, Rung::None, gone), &miner(gone), &[]);
    assert_eq!(acted.outcome, Outcome::Killed { by: EnforcedBy::Signal, processes: Vec::new() });
    let report = held.pursue(&mut notes, &registry, acted.hunt.unwrap()).unwrap();
    assert!(report.result.unwrap().remark.starts_with("2 more died"));
}

fn task(tgid: u32, start_ns: u64, line: &[u32]) -> monitor_common::state::Task {
    let mut task: monitor_common::state::Task = bytemuck::Zeroable::zeroed();
    (task.container, task.start_ns, task.depth) = (KEY, start_ns, line.len() as u32 + 1);
    task.lineage[..line.len()].copy_from_slice(line);
    task.lineage[line.len()] = monitor_common::lineage::id(tgid, start_ns);
    task
}

#[test]
fn a_line_is_followed_through_generations_that_have_ended() {
    let culprit = ProcessKey { tgid: 4_000_001, start_ns: 7_000_000_000 };
    let own = monitor_common::lineage::id(culprit.tgid, culprit.start_ns);
    let mut notes = Notes::default();
    notes.tasks.insert(4_000_900, task(4_000_900, 9_000_000_000, &[11, own, 12, 13]));
    notes.tasks.insert(4_000_901, task(4_000_901, 9_000_000_000, &[11, 14]));
    let mut hunt = Hunt::start(&mut notes, KEY, &[culprit]);
    assert_eq!(notes.doomed, HashMap::from([(own, KEY)]));
    assert_eq!(notes.bits, monitor_common::state::RESPONSE_DOOM);
    assert_eq!(hunt.look(&notes, &registry()), 1, "the descendant, and not its neighbour");
    assert_eq!(hunt.look(&notes, &registry()), 0, "once");
    assert!(hunt.killed().is_empty(), "there is no such process");
    assert!(hunt.run(&notes, &registry()));
    hunt.end(&mut notes, true);
    assert!(notes.doomed.is_empty() && notes.bits == 0);
}

#[test]
fn kills_in_a_loop_are_hunted_together() {
    let culprit = |number: u32| ProcessKey { tgid: 4_000_000 + number, start_ns: 7_000_000_000 };
    let (registry, mut notes, mut held) = (registry(), Notes::default(), Held::default());
    let begun = std::time::Instant::now();
    let mut at_once = 0;
    // Until the container has had its time; each kill takes some of it.
    while held.may_hunt(KEY) {
        let hunt = Hunt::start(&mut notes, KEY, &[culprit(at_once)]);
        assert!(held.pursue(&mut notes, &registry, hunt).is_none() && notes.doomed.is_empty());
        at_once += 1;
        assert!(begun.elapsed().as_secs() < 20, "there is no limit");
    }
    assert!(held.may_hunt(KEY + 1), "another container has its own time");
    for number in 0..3 {
        let hunt = Hunt::start(&mut notes, KEY, &[culprit(1_000_000 + number)]);
        assert!(held.pursue(&mut notes, &registry, hunt).is_none());
    }
    assert_eq!(notes.doomed.len(), 3, "who is born into them dies meanwhile");
    held.tick(&mut notes, &registry);
    assert!(notes.doomed.is_empty() && held.may_hunt(KEY));
}

#[test]
fn beyond_the_last_generation_told_apart_its_place_counts() {
    let culprit = ProcessKey { tgid: 4_000_001, start_ns: 7_000_000_000 };
    let mut notes = Notes::default();
    let mut deep = task(culprit.tgid, culprit.start_ns, &[5; monitor_common::lineage::LINEAGE - 1]);
    deep.lineage[monitor_common::lineage::LINEAGE - 1] = 99;
    notes.tasks.insert(culprit.tgid, deep);
    let _hunt = Hunt::start(&mut notes, KEY, &[culprit]);
    assert_eq!(notes.doomed, HashMap::from([(99, KEY)]));
}

#[test]
fn a_quarantine_is_a_policy_bit_that_outlives_other_changes() {
    use monitor_common::policy::{POLICY_QUARANTINE, POLICY_WATCHED};
    let (registry, rules) = (registry(), rules(Mode::Monitor, Action::Kill));
    let container = registry.get(KEY).unwrap();
    let (mut notes, mut held) = (Notes::default(), Held::new(None, true));
    let report = held.quarantine(&mut notes, &registry, &rules, &container);
    assert!(report.result.is_ok(), "{report:?}");
    assert_eq!(notes.policies[&KEY].flags & (POLICY_QUARANTINE | POLICY_WATCHED), POLICY_QUARANTINE | POLICY_WATCHED);
    assert_ne!(held.policy(&rules, &container).flags & POLICY_QUARANTINE, 0, "what a reload writes");
    assert!(held.quarantine(&mut notes, &registry, &rules, &container).result.is_err(), "twice");
    assert!(held.views(&registry)[0].quarantined);
    assert!(held.release(&mut notes, &registry, &rules, &container).result.is_ok());
    assert_eq!((notes.policies[&KEY].flags & POLICY_QUARANTINE, notes.bits), (0, 0));
    assert!(held.release(&mut notes, &registry, &rules, &container).result.is_err(), "twice");
    held.quarantine(&mut notes, &registry, &rules, &container);
    assert!(held.forget(&mut notes, KEY) && notes.bits == 0 && held.views(&registry).is_empty());
    assert!(!held.forget(&mut notes, KEY));
}

fn contained(mode: Mode, action: Action, stop: Option<&Stop>) -> Acted {
    let (registry, rules) = (registry(), rules(mode, action));
    let (mut notes, mut held) = (Notes::default(), Held::new(None, true));
    let culprit = ProcessKey { tgid: 4_000_000, start_ns: 5 };
    let mut means = Means { rules: &rules, registry: &registry, reflex: &mut notes, held: &mut held, stop };
    act_on(&mut means, culprit)
}

fn act_on(means: &mut Means<'_>, culprit: ProcessKey) -> Acted {
    super::act(means, &event(KEY, Verdict::Observed, Rung::None, culprit), &miner(culprit), &[])
}

#[test]
fn findings_contain_the_whole_container_in_protect_only() {
    let acted = contained(Mode::Protect, Action::Quarantine, None);
    assert_eq!((acted.outcome, acted.reports.len()), (Outcome::Quarantined, 1));
    for mode in [Mode::Monitor, Mode::Off] {
        for action in [Action::Quarantine, Action::Freeze, Action::Stop] {
            let acted = contained(mode, action, None);
            assert!(acted.outcome == Outcome::Observed && acted.reports.is_empty(), "{mode:?} {action:?}");
        }
    }
    let acted = contained(Mode::Protect, Action::Stop, None);
    assert!(matches!(&acted.outcome, Outcome::Refused { why } if why.contains("no container engine")), "{acted:?}");
    assert!(acted.reports[0].result.is_err(), "a refusal is on record");
    let stop: Stop = Box::new(|container| if container.id == ID { Ok(()) } else { Err("another".into()) });
    assert_eq!(contained(Mode::Protect, Action::Stop, Some(&stop)).outcome, Outcome::Stopping);
    let acted = contained(Mode::Protect, Action::Freeze, None);
    assert!(matches!(&acted.outcome, Outcome::Refused { why } if why.contains("no processes")), "{acted:?}");
}

#[test]
fn what_contains_is_no_bit_of_the_kernel_half() {
    let of = |action| Rules { actions: HashMap::from([(FindingKind::ReverseShell, action)]), ..Rules::default() };
    assert_ne!(of(Action::Kill).enforce_bits(), 0);
    for action in [Action::Alert, Action::Freeze, Action::Quarantine, Action::Stop] {
        assert_eq!(of(action).enforce_bits(), 0, "{action:?}");
    }
}

#[test]
fn orders_find_containers_and_respect_the_rails() {
    use order::{OrderError, allowed, find};
    let registry = registry();
    let container = find(&registry, ID).unwrap();
    assert_eq!(find(&registry, &ID[..6]).unwrap().key, KEY);
    assert!(matches!(find(&registry, "host"), Err(OrderError::Refused(_))));
    for nobody in ["", "nobody", "f"] {
        assert!(matches!(find(&registry, nobody), Err(OrderError::Unknown(_))), "{nobody}");
    }
    let path = format!("/docker/3fa1{}", &"0".repeat(60));
    let other = Cgroup { id: KEY + 1, parent: 1, gone: false, hierarchy: registry.hierarchy().id, path };
    registry.on_cgroup(&other).unwrap();
    let error = find(&registry, "3fa1").unwrap_err().to_string();
    assert!(error.contains("2 containers begin with"), "{error}");
    let mut r = rules(Mode::Monitor, Action::Alert);
    assert_eq!(allowed(&r, &registry, &container, Deed::Freeze), Ok(()), "a person's order, in monitor too");
    r.scope_cgroups = vec!["/elsewhere".into()];
    assert!(allowed(&r, &registry, &container, Deed::Freeze).is_err());
    assert_eq!(allowed(&r, &registry, &container, Deed::Release), Ok(()), "what undoes is always allowed");
    let r = rules(Mode::Off, Action::Alert);
    assert!(allowed(&r, &registry, &container, Deed::Quarantine).is_err());
    let gone = Container { gone: true, ..Container::clone(&container) };
    assert!(allowed(&r, &registry, &gone, Deed::Thaw).is_err());
    let host = Container { key: HOST, ..Container::clone(&container) };
    assert!(allowed(&r, &registry, &host, Deed::Thaw).is_err());
}
