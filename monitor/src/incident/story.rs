//! The story of an incident: what came in from where, what it became, what it did, what was stopped and when, and what it
//! had done by then. Every sentence is made from a row; what no row tells is said to be unknown.

use super::damage::Damage;
use super::group::{Case, Link, time};
use super::tree::{self, Node, place};
use crate::finding::{FindingKind, Severity, TieKind};
use crate::output::record::{Alert, OutcomeName};
use crate::output::response::ResponseRow;
use jiff::Timestamp;
use serde::Serialize;

/// What became of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All that was to be stopped was.
    Stopped,
    /// Some findings were stopped, others only seen.
    Partly,
    /// Everything was only seen.
    Observed,
}

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// ISO 8601, UTC.
    pub at: String,
    /// ms since the incident began.
    pub offset_ms: i64,
    /// `finding` or `response`.
    pub what: &'static str,
    /// The finding's kind, or what was done.
    pub name: String,
    /// Where.
    pub place: String,
    /// One sentence.
    pub text: String,
    /// What came of it.
    pub outcome: String,
    /// Something was stopped.
    pub stopped: bool,
    /// The finding.
    pub finding: Option<String>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Story {
    /// The incident's id.
    pub id: String,
    /// In a line.
    pub title: String,
    /// The worst of its findings.
    pub severity: Severity,
    /// What became of it.
    pub verdict: Verdict,
    /// First finding, ISO 8601, UTC.
    pub began: String,
    /// Last finding.
    pub ended: String,
    /// The machine.
    pub host: String,
    /// Where it happened, in the order of the findings.
    pub places: Vec<String>,
    /// Kinds of its findings, in their order.
    pub kinds: Vec<&'static str>,
    /// ATT&CK techniques.
    pub techniques: Vec<String>,
    /// What came in from where.
    pub came_in: Vec<String>,
    /// What it became.
    pub became: Vec<String>,
    /// What it did.
    pub did: Vec<String>,
    /// What was stopped and when.
    pub stopped: Vec<String>,
    /// What it had done by then.
    pub damage: Vec<String>,
    /// Why these findings are one incident.
    pub linked_because: Vec<String>,
    /// The links themselves.
    pub links: Vec<Link>,
    /// Everything in its order.
    pub timeline: Vec<Moment>,
    /// The processes.
    pub tree: Vec<Node>,
    /// Counts from the event file, if there was one.
    pub counted: Option<Damage>,
}

/// Was the act stopped?
pub fn is_stopped(alert: &Alert) -> bool {
    matches!(alert.bulkhead.outcome, OutcomeName::Denied | OutcomeName::Killed)
}

/// Tells it.
pub fn tell(case: &Case, counted: Option<Damage>) -> Story {
    let alerts = &case.alerts;
    let first = alerts.first().map(time).unwrap_or_default();
    let kinds = unique(alerts.iter().map(|alert| alert.event.action.0.name()));
    let places = unique(alerts.iter().map(place));
    let severity = alerts.iter().map(Alert::severity).max().unwrap_or(Severity::Info);
    let stopped = alerts.iter().filter(|alert| is_stopped(alert)).count();
    let verdict = match stopped {
        0 => Verdict::Observed,
        n if n == alerts.len() => Verdict::Stopped,
        _ => Verdict::Partly,
    };
    Story {
        id: case.id.clone(),
        title: format!("{} in {}", kinds.join(", "), places.join(" and ")),
        severity,
        verdict,
        began: alerts.first().map(|alert| alert.timestamp.clone()).unwrap_or_default(),
        ended: alerts.last().map(|alert| alert.timestamp.clone()).unwrap_or_default(),
        host: alerts.first().map(|alert| alert.host.name.clone()).unwrap_or_default(),
        places,
        kinds,
        techniques: unique(alerts.iter().flat_map(|alert| alert.threat.technique.id.clone())),
        came_in: capped(came_in(alerts)),
        became: capped(became(alerts)),
        did: capped(alerts.iter().map(did).collect()),
        stopped: capped(what_was_stopped(case)),
        damage: damage(case, counted.as_ref()),
        linked_because: capped(unique(case.links.iter().map(|link| linked(link, alerts)))),
        links: case.links.clone(),
        timeline: timeline(case, first),
        tree: tree::build(case),
        counted,
    }
}

/// Sentences of a section; what is more is counted.
const SAID: usize = 100;

fn capped(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(SAID);
    if more > 0 {
        lines.truncate(SAID);
        lines.push(format!("… and {more} more, all of them in the timeline"));
    }
    lines
}

fn unique<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut out = Vec::new();
    for item in items {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

fn did(alert: &Alert) -> String {
    let kind = alert.event.action.0.name();
    format!("{} {kind} in {}: {}", clock(time(alert)), place(alert), alert.message)
}

/// Why a finding belongs to one before it.
fn linked(link: &Link, alerts: &[Alert]) -> String {
    let kind = |id: &String| alerts.iter().find(|a| a.event.id == *id).map_or("finding", |a| a.event.action.0.name());
    format!("{} with {}: {}", kind(&link.finding), kind(&link.with), link.because)
}

/// Time of day, UTC.
pub fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S.%3fZ").to_string()
}

/// The first process of each tree in a container, and where bytes came from.
fn came_in(alerts: &[Alert]) -> Vec<String> {
    let mut out = Vec::new();
    for alert in alerts {
        if alert.event.action.0 == FindingKind::ImageDenylist {
            out.push(format!("with the image of {}: {}", place(alert), alert.message));
        }
        let line = &alert.bulkhead.process_tree;
        if let Some(at) = line.iter().position(|node| node.in_container)
            && let Some(node) = line.get(at)
        {
            let from = at.checked_sub(1).and_then(|outer| line.get(outer));
            let from = from.map_or(String::new(), |outer| format!(", started from outside by {}", outer.name));
            out.push(format!("`{}` (pid {}) in {}{from}", node.command_line, node.pid, place(alert)));
        }
        let ties = alert.bulkhead.incident.iter().flat_map(|incident| &incident.ties);
        let origins = ties.filter(|tie| tie.what == TieKind::Origin).map(|tie| &tie.because);
        out.extend(origins.map(|because| format!("{}: {because}", alert.process.name)));
        if let Some(peer) = &alert.destination {
            out.push(format!("{} has to do with {}:{}", alert.process.name, peer.ip, peer.port));
        }
    }
    if out.is_empty() {
        out.push("unknown: no finding tells where it came from".into());
    }
    unique(out.into_iter())
}

fn became(alerts: &[Alert]) -> Vec<String> {
    let line = |alert: &Alert| {
        let body = &alert.bulkhead;
        let inner: Vec<_> = body.process_tree.iter().filter(|node| node.in_container).collect();
        // On the host: the last steps only.
        let nodes = if inner.is_empty() { body.process_tree.iter().rev().take(4).rev().collect() } else { inner };
        let names = nodes.iter().map(|node| if node.name.is_empty() { "?" } else { node.name.as_str() });
        format!("{}: {}", place(alert), names.collect::<Vec<_>>().join(" → "))
    };
    unique(alerts.iter().filter(|alert| !alert.bulkhead.process_tree.is_empty()).map(line))
}

/// What came of a finding, in words.
pub fn outcome(alert: &Alert) -> String {
    let body = &alert.bulkhead;
    let by = body.enforced_by.map_or("", |rung| rung.name());
    match body.outcome {
        OutcomeName::Observed => "observed".into(),
        OutcomeName::Denied => format!("denied by {by}"),
        OutcomeName::Killed => format!("killed by {by}"),
        OutcomeName::Frozen => "container frozen".into(),
        OutcomeName::Quarantined => "container quarantined".into(),
        OutcomeName::Stopping => "container is being stopped".into(),
        OutcomeName::Refused => format!("NOT STOPPED: {}", body.refused_why.as_deref().unwrap_or("no reason given")),
    }
}

fn what_was_stopped(case: &Case) -> Vec<String> {
    let began = case.alerts.first().map(time).unwrap_or_default();
    let acted = case.alerts.iter().filter(|alert| alert.bulkhead.outcome != OutcomeName::Observed).map(|alert| {
        let at = time(alert);
        let after = at.duration_since(began).as_millis();
        let kind = alert.event.action.0.name();
        format!("{} {kind}: {}, {after} ms after the first finding", clock(at), outcome(alert))
    });
    let done = case.responses.iter().map(|row| format!("{} {}", moment(&row.timestamp), row.message));
    let mut out: Vec<String> = acted.chain(done).collect();
    if out.is_empty() {
        out.push("nothing: everything was only observed".into());
    }
    out
}

fn moment(timestamp: &str) -> String {
    timestamp.parse().map_or_else(|_| timestamp.to_owned(), clock)
}

fn damage(case: &Case, counted: Option<&Damage>) -> Vec<String> {
    let let_through = case.alerts.iter().filter(|alert| !is_stopped(alert));
    let written = let_through.filter(|alert| is_write(alert.event.action.0));
    let mut out: Vec<String> = unique(written.filter_map(|alert| {
        let path = &alert.file.as_ref()?.path;
        Some(format!("{path} was opened for writing by {} and not refused", place(alert)))
    }));
    match counted {
        None => {
            out.push("processes, connections and files beyond the findings are unknown: no file of all events".into())
        }
        Some(damage) => {
            out.push(format!("at least {} programs were started by its processes", damage.programs_started));
            out.push(format!("at least {} connections{}", damage.connections, listed(&damage.addresses)));
            out.push(format!(
                "at least {} files opened for writing{}",
                damage.opened_for_writing,
                listed(&damage.files)
            ));
            out.push(format!("{} of these acts came after the first stop", damage.after_first_stop));
        }
    }
    out.push("bytes sent are not recorded".into());
    out
}

fn is_write(kind: FindingKind) -> bool {
    use FindingKind as K;
    matches!(kind, K::Escape | K::PersistenceCron | K::PersistenceSshKey | K::PersistenceOther)
}

fn listed(names: &std::collections::BTreeSet<String>) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!(": {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn timeline(case: &Case, first: Timestamp) -> Vec<Moment> {
    let offset = |at: Timestamp| i64::try_from(at.duration_since(first).as_millis()).unwrap_or(i64::MAX);
    let finding = |alert: &Alert| Moment {
        at: alert.timestamp.clone(),
        offset_ms: offset(time(alert)),
        what: "finding",
        name: alert.event.action.0.name().into(),
        place: place(alert),
        text: alert.message.clone(),
        outcome: outcome(alert),
        stopped: is_stopped(alert),
        finding: Some(alert.event.id.clone()),
    };
    let response = |row: &ResponseRow| Moment {
        at: row.timestamp.clone(),
        offset_ms: row.timestamp.parse().map_or(0, offset),
        what: "response",
        name: row.event.action.name().into(),
        place: case.alerts.iter().find(|a| a.container.id == row.container.id).map_or("host".into(), place),
        text: row.message.clone(),
        outcome: if row.bulkhead.response.done { "done".into() } else { "refused".into() },
        stopped: row.bulkhead.response.done,
        finding: row.bulkhead.response.finding_id.clone(),
    };
    let mut moments: Vec<Moment> = case.alerts.iter().map(finding).chain(case.responses.iter().map(response)).collect();
    moments.sort_by_key(|moment| moment.at.parse::<Timestamp>().unwrap_or_default());
    moments
}

#[cfg(test)]
#[path = "story_tests.rs"]
mod tests;
