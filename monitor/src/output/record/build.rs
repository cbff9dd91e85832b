//! The row of a finding.

use super::{
    Alert, AlertEvent, AlertKind, Bulkhead, Container, Destination, ECS_VERSION, Ecs, EvidenceField, ExceptionField,
    Ext, FileField, FindingField, FindingName, Host, Image, ImageHash, IncidentField, OutcomeName, Parent, Process,
    Rule, RungName, Technique, Threat, TieField, TreeNode, User,
};
use crate::finding::{ContainerView, EnforcedBy, Evidence, Finding, IncidentView, Outcome, ProcessView, Severity, Tie};
use crate::output::{Clock, category, escape};

impl Alert {
    /// The row of a finding.
    pub fn new(finding: &Finding, host: &str, clock: &Clock) -> Self {
        let kind = FindingName(finding.kind);
        Self {
            timestamp: clock.at(finding.time_ns).to_string(),
            ecs: Ecs { version: ECS_VERSION.into() },
            event: AlertEvent {
                kind: if finding.excepted.is_some() { AlertKind::Event } else { AlertKind::Alert },
                action: kind,
                id: finding.id.clone(),
                severity: category::severity(finding.severity),
                category: owned(category::categories(finding.kind)),
                types: owned(category::types(&finding.outcome)),
                module: "bulkhead".into(),
                dataset: "bulkhead.alert".into(),
                created: clock.wall().to_string(),
            },
            message: finding.message.clone(),
            rule: Rule { name: kind },
            threat: Threat {
                framework: "MITRE ATT&CK".into(),
                technique: Technique { id: vec![finding.technique.clone()] },
            },
            host: Host { name: host.into() },
            process: process(finding, clock),
            container: container(&finding.container),
            destination: finding.peer.map(|p| Destination { ip: p.ip().to_string(), port: p.port() }),
            file: finding
                .file
                .as_ref()
                .map(|path| FileField { path: path.clone(), name: path.rsplit('/').next().unwrap_or_default().into() }),
            bulkhead: bulkhead(finding),
        }
    }

    /// The severity as a word of the contract.
    pub fn severity(&self) -> Severity {
        let name = self.bulkhead.finding.severity.as_str();
        [Severity::Critical, Severity::High, Severity::Medium, Severity::Low]
            .into_iter()
            .find(|s| category::severity_name(*s) == name)
            .unwrap_or(Severity::Info)
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn entity_id(view: &ProcessView) -> String {
    format!("{}-{}", view.pid, view.start_ns)
}

fn process(finding: &Finding, clock: &Clock) -> Process {
    let view = &finding.process;
    Process {
        pid: view.pid,
        name: view.name.clone(),
        executable: view.executable.clone(),
        args: view.args.clone(),
        command_line: escape::command_line(&view.args),
        start: clock.at(view.start_ns).to_string(),
        entity_id: entity_id(view),
        user: User { id: view.uid.to_string() },
        parent: finding.ancestors.first().map(|p| {
            Box::new(Parent {
                pid: p.pid,
                name: p.name.clone(),
                executable: p.executable.clone(),
                args: p.args.clone(),
                command_line: escape::command_line(&p.args),
                start: clock.at(p.start_ns).to_string(),
                entity_id: entity_id(p),
                user: User { id: p.uid.to_string() },
            })
        }),
        ext: Ext { ancestry: finding.ancestors.iter().map(|a| a.pid).collect() },
    }
}

/// The fields of a container.
pub(in crate::output) fn container(view: &ContainerView) -> Container {
    Container {
        id: view.id.clone(),
        name: view.name.clone(),
        image: Image {
            name: view.image.clone(),
            hash: ImageHash { all: Some(view.digest.clone()).filter(|d| !d.is_empty()).into_iter().collect() },
        },
        runtime: view.runtime.clone(),
        labels: view.labels.clone(),
    }
}

fn node(view: &ProcessView) -> TreeNode {
    TreeNode {
        pid: view.pid,
        entity_id: entity_id(view),
        name: view.name.clone(),
        executable: view.executable.clone(),
        command_line: escape::command_line(&view.args),
        uid: view.uid,
        in_container: view.in_container,
    }
}

fn bulkhead(finding: &Finding) -> Bulkhead {
    let rung = |by: &EnforcedBy| match by {
        EnforcedBy::Lsm => RungName::Lsm,
        EnforcedBy::Cgroup => RungName::Cgroup,
        EnforcedBy::Signal => RungName::Signal,
        EnforcedBy::Pidfd => RungName::Pidfd,
    };
    let (outcome, enforced_by, refused_why, killed_pids) = match &finding.outcome {
        Outcome::Observed => (OutcomeName::Observed, None, None, Vec::new()),
        Outcome::Denied { by } => (OutcomeName::Denied, Some(rung(by)), None, Vec::new()),
        Outcome::Killed { by, processes } => (OutcomeName::Killed, Some(rung(by)), None, processes.clone()),
        Outcome::Frozen => (OutcomeName::Frozen, None, None, Vec::new()),
        Outcome::Quarantined => (OutcomeName::Quarantined, Some(RungName::Cgroup), None, Vec::new()),
        Outcome::Stopping => (OutcomeName::Stopping, None, None, Vec::new()),
        Outcome::Refused { why } => (OutcomeName::Refused, None, Some(why.clone()), Vec::new()),
    };
    let tree = finding.ancestors.iter().rev().chain([&finding.process]).map(node).collect();
    Bulkhead {
        finding: FindingField {
            id: finding.id.clone(),
            kind: FindingName(finding.kind),
            severity: category::severity_name(finding.severity).into(),
        },
        outcome,
        enforced_by,
        refused_why,
        killed_pids,
        evidence: finding.evidence.iter().map(evidence).collect(),
        process_tree: tree,
        accomplices: finding.accomplices.iter().map(node).collect(),
        latency_us: finding.latency_us,
        amendment: finding.amendment,
        complete: finding.container.complete,
        incident: Some(incident(&finding.incident)),
        exception: finding.excepted.clone().map(|reason| ExceptionField { reason }),
    }
}

fn incident(view: &IncidentView) -> IncidentField {
    let tie = |tie: &Tie| TieField {
        what: tie.what,
        key: tie.key.clone(),
        because: tie.because.clone(),
        path: tie.path.clone(),
    };
    IncidentField { id: view.id.clone(), ties: view.ties.iter().map(tie).collect() }
}

fn evidence(evidence: &Evidence) -> EvidenceField {
    EvidenceField {
        what: evidence.what.clone(),
        detail: evidence.detail.clone(),
        weight: evidence.weight,
        event: evidence.event,
    }
}
