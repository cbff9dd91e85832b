#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::finding::FindingKind;
use crate::output::samples;
use attack::Effect;
use stand_in::Service;

fn sample() -> Alert {
    match serde_json::from_value(serde_json::to_value(samples::reverse_shell_row()).unwrap()).unwrap() {
        crate::output::Row::Alert(alert) => *alert,
        other => panic!("{other:?}"),
    }
}

fn played(alerts: Vec<Alert>, happened: bool, received: u64) -> Played {
    Played {
        title: "reverse shell",
        effect: Effect::Marker("/tmp/marker"),
        kinds: &[FindingKind::ReverseShell],
        service: Some(Service::Shell),
        connections: 1,
        received,
        sent: 9,
        ended: Answer::Ended { how: "exit status: 137".into() },
        alerts,
        happened,
    }
}

#[test]
fn an_attack_counts_by_its_effect() {
    assert!(played(vec![sample()], false, 0).is_good(false));
    // The alert says that it was killed; what the listener and the container saw says otherwise.
    assert!(!played(vec![sample()], true, 0).is_good(false));
    assert!(!played(vec![sample()], false, 7).is_good(false));
    assert!(played(vec![sample()], true, 7).is_good(true));
}

#[test]
fn an_attack_that_was_not_found_is_no_success() {
    assert!(!played(Vec::new(), false, 0).is_good(false));
    assert!(!played(Vec::new(), true, 7).is_good(true));
    let mut other = played(vec![sample()], false, 0);
    other.kinds = &[FindingKind::DownloadExec];
    assert!(!other.is_good(false));
}

#[test]
fn the_table_tells_each_attack_in_a_line() {
    let table = report::table(&[played(vec![sample()], false, 0), played(Vec::new(), true, 7)], false);
    let lines: Vec<&str> = table.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "attack         found as       stopped           effect    latency");
    assert_eq!(lines[1], "reverse shell  reverse_shell  killed by signal  none      0.4 ms");
    assert_eq!(lines[2], "reverse shell  not found                        happened");
    assert!(lines[3].starts_with("1 of 2 attacks found, 1 of 2 prevented."), "{table}");
}

#[test]
fn orders_and_answers_survive_the_way() {
    for order in [Order::SetUp, Order::run("a 'b'\n\"c\"", ATTACK), Effect::Key.order()] {
        let line = serde_json::to_string(&order).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
    }
}
