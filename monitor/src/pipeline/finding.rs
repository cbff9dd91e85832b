//! From a detection to a finding: who else was there, in which container, what came of it.

use super::Pipeline;
use super::incident::Scene;
use crate::event::{Event, HOST, ProcessKey};
use crate::finding::{ContainerView, Detection, Finding, IncidentView, Outcome, ProcessView};
use crate::kernel::clock::boot_ns;
use crate::provenance::ProcessTable;

/// Ancestors shown.
const ANCESTORS: usize = 16;

impl Pipeline {
    /// The detection with its surroundings.
    pub(super) fn finding(
        &mut self,
        event: &Event,
        detection: Detection,
        outcome: Outcome,
        excepted: Option<String>,
    ) -> Finding {
        self.serial += 1;
        let incident = self.incident(event, &detection);
        let view = self.registry.view(event.container);
        let mut finding = complete(event, detection, outcome, view, &self.processes, self.serial);
        finding.latency_us = boot_ns().saturating_sub(event.time_ns) / 1000;
        finding.incident = incident;
        finding.excepted = excepted;
        finding
    }

    /// The incident of a detection, and what it has to do with is remembered: also of one that is not told again, the
    /// second crontab that a container writes to.
    pub(super) fn incident(&mut self, event: &Event, detection: &Detection) -> IncidentView {
        let view = self.registry.view(event.container);
        let (processes, facts) = (&self.processes, &self.facts);
        let scene = Scene { event, detection, processes, facts, container: &view.id };
        self.incidents.assign(&scene, jiff::Timestamp::now())
    }
}

/// Adds the surroundings, but for the incident and how long it took.
pub(super) fn complete(
    event: &Event,
    detection: Detection,
    outcome: Outcome,
    container: ContainerView,
    processes: &ProcessTable,
    serial: u64,
) -> Finding {
    let mut evidence = detection.evidence;
    evidence.sort_by_key(|piece| std::cmp::Reverse(piece.weight));
    Finding {
        id: format!("{:x}-{:x}-{serial:x}", std::process::id(), event.id),
        kind: detection.kind,
        severity: detection.severity,
        message: detection.message,
        technique: detection.kind.technique().to_owned(),
        time_ns: event.time_ns,
        container_key: event.container,
        process: view(processes, detection.culprit, event.container),
        ancestors: processes
            .ancestors(detection.culprit)
            .take(ANCESTORS)
            .map(|process| placed(ProcessView::from(process), process.container, event.container))
            .collect(),
        accomplices: detection.accomplices.iter().map(|key| view(processes, *key, event.container)).collect(),
        evidence,
        peer: detection.peer,
        file: detection.file,
        container,
        outcome,
        latency_us: 0,
        amendment: false,
        incident: IncidentView::default(),
        excepted: None,
    }
}

fn view(processes: &ProcessTable, key: ProcessKey, container: u64) -> ProcessView {
    match processes.get(key) {
        Some(process) => placed(ProcessView::from(process), process.container, container),
        None => ProcessView {
            pid: key.tgid,
            start_ns: key.start_ns,
            in_container: container != HOST,
            ..ProcessView::default()
        },
    }
}

fn placed(mut view: ProcessView, its: u64, container: u64) -> ProcessView {
    view.in_container = its == container && container != HOST;
    view
}
