//! `bulkhead audit`: is any container here made from a bad image, or already showing an attack?
//! Asks the engine once, reads /proc once and has the detectors judge it; loads nothing into the
//! kernel and touches nothing. Exit status 1 if anything was found.

use crate::container::denylist::{self, Denylist};
use crate::container::docker::{self, Listed, Settings};
use crate::container::hierarchy::{self, HierarchyError};
use crate::container::registry::Metadata;
use crate::container::{Registry, path::Runtime};
use crate::event::{Body, Event};
use crate::finding::{ContainerView, Detection, Evidence, FindingKind, Severity};
use crate::startup;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;

/// Nothing was found.
pub const EXIT_CLEAN: u8 = 0;
/// Something was.
pub const EXIT_FOUND: u8 = 1;
/// Not root.
pub const EXIT_NO_PRIVILEGE: u8 = 77;

/// What the command needs of the rest of the daemon.
pub struct Audit<'a> {
    /// The engine, if one is configured. An engine that does not answer is reported, no error.
    pub engine: Option<Settings>,
    /// Images that must not run.
    pub denylist: &'a Denylist,
    /// Classes of programs, as the kernel half gets them.
    pub classify: &'a startup::Classify<'a>,
    /// The detectors. Called once an event of the start-up scan, parents before children.
    pub judge: &'a mut dyn FnMut(&Event, &Registry) -> Vec<Detection>,
    /// Judge the host's own processes too.
    pub host: bool,
    /// One JSON object instead of a table.
    pub json: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Only root may read other users' processes.
    #[error("audit reads the descriptors of every process: run it as root")]
    NotRoot,
    /// No cgroup hierarchy.
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    /// /proc cannot be read.
    #[error("read /proc: {0}")]
    Proc(std::io::Error),
    /// The answer cannot be written.
    #[error("write the answer: {0}")]
    Write(#[from] std::io::Error),
}

impl AuditError {
    /// Exit status for it.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotRoot => EXIT_NO_PRIVILEGE,
            Self::Hierarchy(HierarchyError::NotMounted) => 69,
            Self::Hierarchy(_) | Self::Proc(_) | Self::Write(_) => EXIT_FOUND,
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Where.
    pub container: ContainerView,
    /// It has processes.
    pub running: bool,
    /// What.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// In a sentence.
    pub message: String,
    /// Who, if it is a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<RowProcess>,
    /// Why.
    pub evidence: Vec<Evidence>,
}

/// The process of a row.
#[derive(Clone, Debug, Serialize)]
pub struct RowProcess {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Executable.
    pub executable: String,
    /// Arguments.
    pub args: Vec<String>,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Containers looked at, stopped ones included.
    pub containers: usize,
    /// Processes looked at.
    pub processes: usize,
    /// Why the engine could not be asked; names and images are missing then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_error: Option<String>,
    /// What was found, worst first.
    pub findings: Vec<Row>,
}

/// Runs the command; the exit status.
///
/// # Errors
/// [`AuditError`], with its own exit status.
pub fn run(audit: &mut Audit<'_>, out: &mut dyn Write) -> Result<u8, AuditError> {
    if !rustix::process::geteuid().is_root() {
        return Err(AuditError::NotRoot);
    }
    let registry = Registry::new(hierarchy::detect()?);
    let report = collect(audit, &registry)?;
    if audit.json {
        serde_json::to_writer(&mut *out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        table(&report, out)?;
    }
    out.flush()?;
    Ok(if report.findings.is_empty() { EXIT_CLEAN } else { EXIT_FOUND })
}

/// Asks engine and /proc.
fn collect(audit: &mut Audit<'_>, registry: &Registry) -> Result<Report, AuditError> {
    registry.scan();
    let (stopped, engine_error) = ask_engine(audit.engine.as_ref(), registry);
    let live = registry.live();
    let mut findings = Vec::new();
    for container in &live {
        findings.extend(denied_image(audit.denylist, &container.metadata, registry.view(container.key), true));
    }
    for listed in &stopped {
        let view = stopped_view(&listed.id, &listed.metadata);
        findings.extend(denied_image(audit.denylist, &listed.metadata, view, listed.running));
    }
    let events = startup::scan(registry, audit.classify, audit.host).map_err(AuditError::Proc)?;
    findings.extend(judged(audit, registry, &events));
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.container.id.cmp(&b.container.id)));
    let processes = events.iter().filter(|e| matches!(e.body, Body::Exec(_))).count();
    Ok(Report { containers: live.len() + stopped.len(), processes, engine_error, findings })
}

/// Completes the registry; returns the containers without a cgroup, and why there was no answer.
fn ask_engine(engine: Option<&Settings>, registry: &Registry) -> (Vec<Listed>, Option<String>) {
    let mut stopped = Vec::new();
    match engine.map(docker::list_once) {
        Some(Ok(all)) => {
            for listed in all {
                if registry.key_of_id(&listed.id).is_some() {
                    registry.complete(&listed.id, listed.metadata);
                } else {
                    stopped.push(listed);
                }
            }
            (stopped, None)
        }
        Some(Err(error)) => (stopped, Some(error.to_string())),
        None => (stopped, None),
    }
}

fn denied_image(list: &Denylist, metadata: &Metadata, container: ContainerView, running: bool) -> Option<Row> {
    let found = list.check_container(metadata)?;
    let detection = denylist::detection(metadata, &found);
    Some(Row {
        container,
        running,
        kind: detection.kind,
        severity: detection.severity,
        message: detection.message,
        process: None,
        evidence: detection.evidence,
    })
}

fn stopped_view(id: &str, metadata: &Metadata) -> ContainerView {
    ContainerView {
        id: id.to_owned(),
        runtime: Runtime::Docker.name().into(),
        name: metadata.name.clone(),
        image: metadata.image.clone(),
        digest: metadata.digest.clone(),
        labels: metadata.labels.clone(),
        complete: metadata.complete,
    }
}

fn judged(audit: &mut Audit<'_>, registry: &Registry, events: &[Event]) -> Vec<Row> {
    let execs: BTreeMap<u32, &crate::event::Exec> = events
        .iter()
        .filter_map(|e| match &e.body {
            Body::Exec(exec) => Some((e.process.tgid, exec.as_ref())),
            _ => None,
        })
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    for event in events {
        for detection in (audit.judge)(event, registry) {
            let pid = detection.culprit.tgid;
            let seen = |r: &Row| r.kind == detection.kind && r.process.as_ref().is_some_and(|p| p.pid == pid);
            // An exec and a connection of one process may tell the same.
            if rows.iter().any(seen) {
                continue;
            }
            let exec = execs.get(&pid);
            rows.push(Row {
                container: registry.view(event.container),
                running: true,
                kind: detection.kind,
                severity: detection.severity,
                message: detection.message,
                process: Some(RowProcess {
                    pid,
                    executable: exec.map(|e| e.exe.path.to_string()).unwrap_or_default(),
                    args: exec.map(|e| e.args.iter().map(ToString::to_string).collect()).unwrap_or_default(),
                }),
                evidence: detection.evidence,
            });
        }
    }
    rows
}

fn table(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    if let Some(error) = &report.engine_error {
        writeln!(out, "engine not asked ({error}): names and images are missing")?;
    }
    if !report.findings.is_empty() {
        writeln!(out, "{:<12}  {:<20}  {:<28}  {:<8}  {:<18}  WHAT", "CONTAINER", "NAME", "IMAGE", "SEVERITY", "KIND")?;
    }
    for row in &report.findings {
        let c = &row.container;
        let severity = format!("{:?}", row.severity).to_lowercase();
        let id = c.id.get(..12).unwrap_or(&c.id);
        let stopped = if row.running { "" } else { " (not running)" };
        writeln!(
            out,
            "{id:<12}  {:<20}  {:<28}  {severity:<8}  {:<18}  {}{stopped}",
            printable(&c.name),
            printable(&c.image),
            row.kind.name(),
            printable(&row.message),
        )?;
        if let Some(p) = &row.process {
            writeln!(
                out,
                "              pid {}: {} [{}]",
                p.pid,
                printable(&p.args.join(" ")),
                printable(&p.executable)
            )?;
        }
        for e in &row.evidence {
            writeln!(out, "              - {}: {}", e.what, printable(&e.detail))?;
        }
    }
    let (n, p, f) = (report.containers, report.processes, report.findings.len());
    writeln!(out, "{n} containers and {p} processes looked at, {f} findings")
}

/// Names and arguments are an attacker's to choose: no control character reaches the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::container::hierarchy::Hierarchy;
    use crate::event::Cgroup;

    const ID: &str = "3fa1c6d2b7e84f0a9c5d1e2f3a4b5c6d7e8f90123456789abcdef0123456789a";

    fn registry(image: &str) -> Registry {
        let r = Registry::new(Hierarchy { id: 0, controller: String::new(), mount: "/nonexistent".into() });
        let path = format!("/docker/{ID}");
        r.on_cgroup(&Cgroup { id: 9, parent: 1, gone: false, hierarchy: 0, path }).unwrap();
        let metadata =
            Metadata { name: "db\u{1b}[2J".into(), image: image.into(), complete: true, ..Metadata::default() };
        r.complete(ID, metadata);
        r
    }

    fn report(image: &str, attack: bool) -> Report {
        let list = Denylist::new(&["docker123321/*"], &[]).unwrap();
        let own = std::process::id();
        let mut judge = |event: &Event, _: &Registry| match &event.body {
            Body::Exec(_) if attack && event.process.tgid == own => {
                vec![Detection::new(FindingKind::ReverseShell, event.process, "a shell").with(event.id, "w", 0, "d")]
            }
            _ => Vec::new(),
        };
        let mut audit =
            Audit { engine: None, denylist: &list, classify: &|_, _| 0, judge: &mut judge, host: true, json: false };
        collect(&mut audit, &registry(image)).unwrap()
    }

    #[test]
    fn clean() {
        let r = report("mysql:8", false);
        assert_eq!((r.containers, r.findings.len()), (1, 0));
        assert!(r.processes > 0);
        let mut out = Vec::new();
        table(&r, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("0 findings\n"));
    }

    #[test]
    fn a_bad_image_and_a_running_attack() {
        let r = report("mirror.local/docker123321/mysql", true);
        let kinds: Vec<_> = r.findings.iter().map(|f| f.kind).collect();
        assert!(kinds.contains(&FindingKind::ImageDenylist) && kinds.contains(&FindingKind::ReverseShell));
        let mut out = Vec::new();
        table(&r, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("matches `docker123321/*`") && text.contains("2 findings"), "{text}");
        assert!(!text.contains('\u{1b}'), "no escape sequence from a container's name");
        let json = serde_json::to_value(&r).unwrap();
        let image = json["findings"].as_array().unwrap().iter().find(|f| f["kind"] == "image_denylist").unwrap();
        assert_eq!((&image["container"]["id"], &image["severity"]), (&ID.into(), &"critical".into()));
    }
}
