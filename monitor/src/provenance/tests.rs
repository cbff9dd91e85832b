//! The table on event sequences.
use super::*;
use crate::event::{Body, Event, HOST, ProcessKey, Reason, Rung, Verdict};

fn key(pid: u32) -> ProcessKey {
    ProcessKey { tgid: pid, start_ns: u64::from(pid) }
}

fn event(pid: u32, time_ns: u64, body: Body) -> Event {
    Event {
        id: 1,
        time_ns,
        process: key(pid),
        tid: pid,
        uid: 0,
        container: 7,
        verdict: Verdict::Observed,
        reason: Reason::None,
        rung: Rung::None,
        peer_tgid: None,
        body,
    }
}

fn fork(table: &mut ProcessTable, pid: u32, parent: u32, at: u64) {
    table.apply(&event(pid, at, Body::Fork { parent: key(parent), comm: "x".into() }));
}

fn exit(table: &mut ProcessTable, pid: u32, at: u64) {
    table.apply(&event(pid, at, Body::Exit { code: 0 }));
}

const S: u64 = 1_000_000_000;

#[test]
fn a_double_fork_keeps_its_true_parents() {
    let mut t = ProcessTable::default();
    fork(&mut t, 10, 5, S);
    fork(&mut t, 11, 10, S);
    exit(&mut t, 10, S);
    // Long after: the intermediate is gone from the system, not from the lineage.
    fork(&mut t, 99, 5, 500 * S);
    fork(&mut t, 100, 99, 600 * S);
    let line: Vec<u32> = t.ancestors(key(11)).map(|p| p.key.tgid).collect();
    assert_eq!(line, [10, 5]);
    assert_eq!(t.descendants(key(5)).len(), 3);
    assert_eq!(t.tree_root(key(11)), key(5));
}

#[test]
fn what_ended_without_descendants_is_forgotten() {
    let mut t = ProcessTable::default();
    fork(&mut t, 5, 4, S);
    fork(&mut t, 10, 5, S);
    exit(&mut t, 10, 2 * S);
    fork(&mut t, 11, 5, 30 * S);
    assert!(t.get(key(10)).is_some(), "kept for a while: curl is gone before bash has read");
    fork(&mut t, 12, 5, 90 * S);
    assert!(t.get(key(10)).is_none());
    assert!(t.lookup_tgid(10).is_none());
}

#[test]
fn memory_is_bounded_under_churn() {
    let limits = Limits { processes: 500, ..Limits::default() };
    let mut t = ProcessTable::new(limits);
    for pid in 10..50_000 {
        // Half of them never report their end (lost events).
        fork(&mut t, pid, 5, S);
        if pid % 2 == 0 {
            exit(&mut t, pid, S);
        }
        assert!(t.len() <= 502);
    }
}

#[test]
fn a_flood_of_one_container_costs_no_other_its_processes() {
    let mut t = ProcessTable::new(Limits { processes: 500, ..Limits::default() });
    for pid in 10..20 {
        let mut other = event(pid, S, Body::Fork { parent: key(5), comm: "curl".into() });
        other.container = 8;
        t.apply(&other);
        exit(&mut t, pid, S);
    }
    for pid in 100..20_000 {
        fork(&mut t, pid, 99, 2 * S);
    }
    assert!((10..20).all(|pid| t.get(key(pid)).is_some()), "what ended just now is still needed");
}

#[test]
fn an_endless_chain_of_forks_stays_short() {
    let mut t = ProcessTable::default();
    for pid in 10..2000u32 {
        fork(&mut t, pid, pid - 1, u64::from(pid) * S);
        exit(&mut t, pid - 1, u64::from(pid) * S);
    }
    assert!(t.len() < 100, "{}", t.len());
    assert_eq!(t.ancestors(key(1999)).count(), ANCESTORS);
}

#[test]
fn a_cycle_ends() {
    let mut t = ProcessTable::default();
    fork(&mut t, 10, 11, S);
    fork(&mut t, 11, 10, S);
    assert_eq!(t.ancestors(key(10)).count(), ANCESTORS);
    let _ = t.tree_root(key(10));
}

#[test]
fn an_exec_before_its_fork_keeps_its_program() {
    let mut t = ProcessTable::default();
    let mut exec = crate::detect::exec_for_tests(1, &["bash", "-i"]);
    exec.parent = key(1);
    t.apply(&event(20, S, Body::Exec(Box::new(exec))));
    fork(&mut t, 20, 10, S);
    let p = t.get(key(20));
    assert_eq!(p.map(|p| (p.comm.as_str(), p.parent)), Some(("bash", Some(key(10)))));
}

#[test]
fn a_resolver_fills_gaps() {
    struct Proc;
    impl Resolve for Proc {
        fn resolve(&mut self, key: ProcessKey) -> Option<Process> {
            let mut p = Process::unknown(key, HOST);
            p.comm = "old".into();
            Some(p)
        }
    }
    let mut t = ProcessTable::default().with_resolver(Box::new(Proc));
    fork(&mut t, 10, 5, S);
    assert_eq!(t.parent(key(10)).map(|p| p.comm.as_str()), Some("old"));
    // The runtime outside: entered.
    assert_eq!(t.entered(key(10)), Some(true));
}

#[test]
fn what_a_process_of_the_host_was_started_as_is_kept() {
    let exec = |t: &mut ProcessTable, container, args: &[&str]| {
        let mut exec = crate::detect::exec_for_tests(1, args);
        exec.parent = key(1);
        t.apply(&Event { container, ..event(20, S, Body::Exec(Box::new(exec))) });
    };
    for (container, kept) in [(HOST, true), (7, false)] {
        let mut t = ProcessTable::default();
        exec(&mut t, container, &["sh", "-c", "bash -c 'bash -i'"]);
        exec(&mut t, container, &["bash", "-c", "bash -i"]);
        exec(&mut t, container, &["bash", "-i"]);
        let began_as = t.get(key(20)).and_then(|p| p.began_as.as_ref()).map(|p| p.args.join(" "));
        assert_eq!(began_as.as_deref(), kept.then_some("sh -c bash -c 'bash -i'"));
    }
}

#[test]
fn a_container_has_its_living_processes_and_those_that_moved_in() {
    let mut table = ProcessTable::new(Limits { processes: 100, linger_ns: 6_000 });
    let members = |table: &ProcessTable, container: u64| {
        let mut pids: Vec<u32> = table.in_container(container).map(|p| p.key.tgid).collect();
        pids.sort_unstable();
        pids
    };
    fork(&mut table, 10, 1, 1);
    fork(&mut table, 11, 10, 2);
    assert_eq!(members(&table, 7), [1, 10, 11]);
    let mut moved = event(11, 3, Body::Fork { parent: key(10), comm: "runc".into() });
    moved.container = 8;
    table.apply(&moved);
    assert_eq!((members(&table, 7), members(&table, 8)), (vec![1, 10], vec![11]));
    exit(&mut table, 11, 4);
    assert!(members(&table, 8).is_empty());
    fork(&mut table, 12, 10, 20_000);
    assert!(members(&table, 8).is_empty() && members(&table, 7) == [1, 10, 12], "after a sweep");
}
