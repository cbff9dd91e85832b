//! Which findings belong together, and why.
//!
//! The daemon has tied what it could see: a lineage, bytes that were fetched, a file, a crontab's line. Here the rest is
//! added that rows alone tell: an image on the denylist, the same destination from the same container, and the host
//! running what a container had on its command line. Weaker ties are looked at only where stronger ones are missing.

use super::{LINEAGE_QUIET, TIE_QUIET};
use crate::finding::{FindingKind, TieKind};
use crate::output::Row;
use crate::output::record::{Alert, AlertKind};
use crate::output::response::ResponseRow;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Shorter commands say nothing by standing in two places, bytes.
const COMMAND_MIN: usize = 8;

/// Why two findings are in one incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The later finding.
    pub finding: String,
    /// The earlier one.
    pub with: String,
    /// `lineage`, `origin`, `file`, `line`, `image`, `destination`, `command`, `url`.
    pub what: &'static str,
    /// In words.
    pub because: String,
}

/// The rows of one incident.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its id.
    pub id: String,
    /// Alerts with their amendments taken in, oldest first; at least one.
    pub alerts: Vec<Alert>,
    /// What was done for them.
    pub responses: Vec<ResponseRow>,
    /// What holds them together.
    pub links: Vec<Link>,
}

/// When the act of an alert happened.
pub fn time(alert: &Alert) -> Timestamp {
    alert.timestamp.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Is it about a process of the host?
pub fn on_host(alert: &Alert) -> bool {
    alert.container.id == "host"
}

/// All incidents of a log, the one that began first first.
pub fn group(rows: Vec<Row>) -> Vec<Case> {
    let (alerts, responses) = sorted(rows);
    let mut sets = Sets::new(alerts.len());
    let bad: HashSet<String> = alerts.iter().filter(|a| is_bad_image(a)).map(|a| a.container.id.clone()).collect();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for at in 0..alerts.len() {
        let keys = keys(&alerts[at], &bad);
        for key in &keys {
            let place = format!("{}|{}", alerts[at].host.name, key.key);
            let before = seen.insert(place, at);
            if let Some(before) = before.filter(|b| key.holds(&alerts[*b], &alerts[at])) {
                sets.join(&alerts, at, before, key.what, &key.because);
            }
        }
        if on_host(&alerts[at])
            && !keys.iter().any(|key| key.what == "line")
            && let Some((before, what, because)) = on_both_sides(&alerts, at)
        {
            sets.join(&alerts, at, before, what, &because);
        }
    }
    sets.cases(alerts, responses)
}

/// Alerts in the order of their acts, amended; and responses. What an exception covers is no part of an attack.
fn sorted(rows: Vec<Row>) -> (Vec<Alert>, Vec<ResponseRow>) {
    let (mut alerts, mut responses): (Vec<Alert>, Vec<ResponseRow>) = (Vec::new(), Vec::new());
    let mut by_id: HashMap<(String, String), usize> = HashMap::new();
    for row in rows {
        match row {
            Row::Alert(alert) if alert.event.kind == AlertKind::Alert => {
                let id = (alert.host.name.clone(), alert.event.id.clone());
                match by_id.get(&id) {
                    Some(at) => alerts[*at].container = alert.container,
                    None => {
                        by_id.insert(id, alerts.len());
                        alerts.push(*alert);
                    }
                }
            }
            Row::Response(response) => responses.push(*response),
            Row::Alert(_) | Row::Notice(_) => {}
        }
    }
    alerts.sort_by_key(time);
    (alerts, responses)
}

/// One thing in common.
struct Key {
    what: &'static str,
    key: String,
    because: String,
    /// Longest time between two findings that it ties; none for what the daemon has decided.
    within: Option<SignedDuration>,
}

impl Key {
    fn holds(&self, before: &Alert, after: &Alert) -> bool {
        self.within.is_none_or(|within| time(after).duration_since(time(before)) <= within)
    }
}

fn keys(alert: &Alert, bad: &HashSet<String>) -> Vec<Key> {
    let mut keys = Vec::new();
    for tie in alert.bulkhead.incident.iter().flat_map(|incident| &incident.ties) {
        let (what, within) = match tie.what {
            TieKind::Lineage => ("lineage", LINEAGE_QUIET),
            TieKind::Origin => ("origin", TIE_QUIET),
            TieKind::File => ("file", TIE_QUIET),
            TieKind::Line => ("line", TIE_QUIET),
            TieKind::Image => continue,
        };
        // A key that was a lineage when it was first seen stays the same key as an origin.
        keys.push(Key { what, key: tie.key.clone(), because: tie.because.clone(), within: Some(within) });
    }
    let container = &alert.container.id;
    if bad.contains(container) {
        let because = "its container was made from an image on the denylist".into();
        keys.push(Key { what: "image", key: format!("container:{container}"), because, within: None });
    }
    match &alert.bulkhead.incident {
        Some(incident) => {
            // The daemon knows of files whose writing is in no row: the second one that a process wrote.
            let line = keys.iter().find(|key| key.what == "line");
            let (what, because) = line.map_or_else(
                || ("incident", "the daemon found them to be of one incident".to_owned()),
                |line| (line.what, line.because.clone()),
            );
            keys.push(Key { what, key: format!("incident:{}", incident.id), because, within: None });
        }
        // A row of a version before incidents.
        None => keys.extend(tree_of_old_row(alert)),
    }
    // Says more than that two findings of the host are of one tree.
    keys.sort_by_key(|key| key.what != "line");
    if let Some(peer) = alert.destination.as_ref().filter(|_| !on_host(alert)) {
        let because = format!("the same container has to do with {}:{}", peer.ip, peer.port);
        let key = format!("destination:{container}:{}:{}", peer.ip, peer.port);
        keys.push(Key { what: "destination", key, because, within: Some(LINEAGE_QUIET) });
    }
    keys
}

fn tree_of_old_row(alert: &Alert) -> Option<Key> {
    let root = alert.bulkhead.process_tree.iter().find(|node| node.in_container)?;
    let because = format!("it descends from {} (pid {})", root.name, root.pid);
    let key = format!("tree:{}:{}", alert.container.id, root.entity_id);
    Some(Key { what: "lineage", key, because, within: Some(LINEAGE_QUIET) })
}

fn is_bad_image(alert: &Alert) -> bool {
    alert.event.action.0 == FindingKind::ImageDenylist
}

/// A finding on the host, and the container that wrote to one of the host's files before: the same command line, the same
/// URL, the same address. The latest such write counts.
fn on_both_sides(alerts: &[Alert], at: usize) -> Option<(usize, &'static str, String)> {
    let host = &alerts[at];
    let writes = |a: &Alert| a.bulkhead.incident.iter().flat_map(|i| &i.ties).find_map(|tie| tie.path.clone());
    let recent = alerts[..at].iter().enumerate().rev().filter(|(_, a)| {
        a.host.name == host.host.name && !on_host(a) && time(host).duration_since(time(a)) <= TIE_QUIET
    });
    recent.filter_map(|(before, a)| Some((before, a, writes(a)?))).find_map(|(before, a, path)| {
        let (what, same) = in_common(host, a, &alerts[..at])?;
        Some((before, what, format!("{same}, and that container opened {path} of the host for writing before")))
    })
}

fn in_common(host: &Alert, write: &Alert, before: &[Alert]) -> Option<(&'static str, String)> {
    let said: Vec<String> = lines(write).map(unquoted).collect();
    if let Some(command) =
        lines(host).filter_map(command_of).find(|c| said.iter().any(|line| line.contains(c.as_str())))
    {
        return Some(("command", format!("the host runs `{command}`, which stood on the container's command line")));
    }
    let of_container = || before.iter().filter(|a| a.container.id == write.container.id);
    let known: HashSet<String> = of_container().flat_map(|a| lines(a).flat_map(urls)).collect();
    if let Some(url) = lines(host).flat_map(urls).find(|url| known.contains(url)) {
        return Some(("url", format!("host and container name {url}")));
    }
    let peer = host.destination.as_ref()?;
    of_container()
        .any(|a| a.destination.as_ref() == Some(peer))
        .then(|| ("destination", format!("host and container have to do with {}:{}", peer.ip, peer.port)))
}

/// Command lines of everything in an alert.
fn lines(alert: &Alert) -> impl Iterator<Item = &str> {
    let body = &alert.bulkhead;
    body.process_tree.iter().chain(&body.accomplices).map(|node| node.command_line.as_str())
}

/// The command in `sh -c 'COMMAND'`.
fn command_of(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" -c ")?;
    Some(unquoted(rest).trim().to_owned()).filter(|command| command.len() >= COMMAND_MIN)
}

/// Takes back the quotes that a row puts around arguments.
fn unquoted(line: &str) -> String {
    line.replace("'\\''", "\u{0}").replace('\'', "").replace('\u{0}', "'")
}

fn urls(line: &str) -> Vec<String> {
    let ends = |c: char| c.is_whitespace() || "'\"|;<>`)(".contains(c);
    let words = line.split(ends).filter(|word| word.contains("://") && word.len() > 10);
    words.map(str::to_owned).collect()
}

/// Sets of alerts that are one incident (union-find).
struct Sets {
    parent: Vec<usize>,
    links: Vec<(usize, Link)>,
}

impl Sets {
    fn new(count: usize) -> Self {
        Self { parent: (0..count).collect(), links: Vec::new() }
    }

    fn root(&self, mut at: usize) -> usize {
        while self.parent[at] != at {
            at = self.parent[at];
        }
        at
    }

    fn join(&mut self, alerts: &[Alert], at: usize, before: usize, what: &'static str, because: &str) {
        let (a, b) = (self.root(at), self.root(before));
        if a == b {
            return;
        }
        // The older one is the root: findings come in the order of time.
        self.parent[a.max(b)] = a.min(b);
        let (finding, with) = (alerts[at].event.id.clone(), alerts[before].event.id.clone());
        self.links.push((at, Link { finding, with, what, because: because.to_owned() }));
    }

    fn cases(self, alerts: Vec<Alert>, responses: Vec<ResponseRow>) -> Vec<Case> {
        let mut order: Vec<usize> = Vec::new();
        let mut cases: HashMap<usize, Case> = HashMap::new();
        let mut of_finding: HashMap<(String, String), usize> = HashMap::new();
        for (at, alert) in alerts.iter().enumerate() {
            let root = self.root(at);
            of_finding.insert((alert.host.name.clone(), alert.event.id.clone()), root);
            let case = cases.entry(root).or_insert_with(|| {
                order.push(root);
                Case { id: id(alert), alerts: Vec::new(), responses: Vec::new(), links: Vec::new() }
            });
            case.alerts.push(alert.clone());
        }
        for (at, link) in &self.links {
            if let Some(case) = cases.get_mut(&self.root(*at)) {
                case.links.push(link.clone());
            }
        }
        for response in responses {
            let id = response.bulkhead.response.finding_id.clone().unwrap_or_default();
            let case = of_finding.get(&(response.host.name.clone(), id)).and_then(|root| cases.get_mut(root));
            if let Some(case) = case {
                case.responses.push(response);
            }
        }
        order.iter().filter_map(|root| cases.remove(root)).collect()
    }
}

/// As the daemon named it; a row of a version before incidents goes by its own id.
fn id(alert: &Alert) -> String {
    alert.bulkhead.incident.as_ref().map_or_else(|| alert.event.id.clone(), |incident| incident.id.clone())
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
