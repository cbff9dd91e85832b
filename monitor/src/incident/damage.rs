//! What an incident had done before it was stopped, as far as the file of all events (`output.events`) knows: counted
//! among the processes of the incident and what they started.

use super::group::{Case, time};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

/// Names listed of each sort; the rest is counted.
const LISTED: usize = 20;

/// Counts of one incident. All of them are lower bounds: a child that never executed a program has no row, and neither
/// has what it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Programs started.
    pub programs_started: usize,
    /// Connections that were let through.
    pub connections: usize,
    /// Their addresses, some.
    pub addresses: BTreeSet<String>,
    /// Opens for writing that were let through.
    pub opened_for_writing: usize,
    /// The files, some.
    pub files: BTreeSet<String>,
    /// Of these acts, how many came after something was stopped for the first time.
    pub after_first_stop: usize,
    /// Rows of the event file that were looked at.
    pub events_read: usize,
}

/// Counts in event files, the oldest first.
///
/// # Errors
/// One cannot be read.
pub fn count(case: &Case, files: &[impl AsRef<Path>]) -> io::Result<Damage> {
    let mut counter = Counter::new(case);
    for file in files {
        for line in BufReader::new(File::open(file)?).split(b'\n') {
            if let Ok(row) = serde_json::from_slice::<Value>(&line?) {
                counter.row(&row);
            }
        }
    }
    Ok(counter.damage)
}

struct Counter {
    host: String,
    members: HashSet<String>,
    begin: String,
    stopped: Option<String>,
    damage: Damage,
}

impl Counter {
    fn new(case: &Case) -> Self {
        let bodies = || case.alerts.iter().map(|alert| &alert.bulkhead);
        let of_container = bodies().flat_map(|b| b.process_tree.iter().filter(|node| node.in_container));
        // On the host only who is blamed, who helped, and the parent: above that is the machine itself.
        let on_host = bodies().flat_map(|b| b.process_tree.iter().rev().take(2).chain(&b.accomplices));
        let members = of_container.chain(on_host).map(|node| node.entity_id.clone()).collect();
        let stopped = case.alerts.iter().find(|alert| super::story::is_stopped(alert));
        Self {
            host: case.alerts.first().map(|alert| alert.host.name.clone()).unwrap_or_default(),
            members,
            begin: case.alerts.first().map(|alert| margin(time(alert))).unwrap_or_default(),
            stopped: stopped.map(|alert| time(alert).to_string()),
            damage: Damage::default(),
        }
    }

    fn row(&mut self, row: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if row["event"]["dataset"] != "bulkhead.event" || row["host"]["name"] != self.host.as_str() {
            return;
        }
        self.damage.events_read += 1;
        let process = text(&row["process"]["entity_id"]);
        let parent = text(&row["process"]["parent"]["entity_id"]);
        let exec = row["event"]["action"] == "exec";
        if exec && self.members.contains(&parent) {
            self.members.insert(process.clone());
        }
        let at = text(&row["@timestamp"]);
        if !self.members.contains(&process) || is_before(&at, &self.begin) || row["bulkhead"]["verdict"] == "denied" {
            return;
        }
        if self.act(row) && self.stopped.as_ref().is_some_and(|stopped| is_before(stopped, &at)) {
            self.damage.after_first_stop += 1;
        }
    }

    /// Counts one act; false if it is none that counts.
    fn act(&mut self, row: &Value) -> bool {
        let damage = &mut self.damage;
        match row["event"]["action"].as_str() {
            Some("exec") => damage.programs_started += 1,
            Some("connect") => {
                damage.connections += 1;
                let peer = &row["destination"];
                list(&mut damage.addresses, format!("{}:{}", peer["ip"].as_str().unwrap_or("?"), peer["port"]));
            }
            Some("open") if row["event"]["type"][0] != "access" => {
                damage.opened_for_writing += 1;
                list(&mut damage.files, row["file"]["path"].as_str().unwrap_or("?").to_owned());
            }
            _ => return false,
        }
        true
    }
}

fn list(names: &mut BTreeSet<String>, name: String) {
    if names.len() < LISTED {
        names.insert(name);
    }
}

/// The story begins a little before what was found: with what led to it.
fn margin(at: jiff::Timestamp) -> String {
    at.checked_sub(jiff::SignedDuration::from_secs(60)).unwrap_or(at).to_string()
}

fn is_before(a: &str, b: &str) -> bool {
    match (a.parse::<jiff::Timestamp>(), b.parse::<jiff::Timestamp>()) {
        (Ok(a), Ok(b)) => a < b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::incident::samples;
    use serde_json::json;

    #[test]
    fn counts_what_the_processes_of_the_incident_did() {
        let case = samples::chain();
        let (host, begin) = (&case.alerts[0].host.name, &case.alerts[0].timestamp);
        let base = |action: &str, class: &str, process: &str, parent: &str| {
            json!({
                "@timestamp": begin, "host": { "name": host },
                "event": { "dataset": "bulkhead.event", "action": action, "type": [class] },
                "process": { "entity_id": process, "parent": { "entity_id": parent } },
                "bulkhead": { "verdict": "observed" },
                "file": { "path": "/mnt/etc/crontab" }, "destination": { "ip": "203.0.113.66", "port": 80 },
            })
        };
        let culprit = &case.alerts[0].process.entity_id;
        let mut denied = base("connect", "connection", culprit, "");
        denied["bulkhead"]["verdict"] = "denied".into();
        let rows = [
            base("exec", "start", "77-77", culprit),
            base("exec", "start", "78-78", "77-77"),
            base("exec", "start", "99-99", "98-98"),
            base("connect", "connection", "78-78", ""),
            denied,
            base("open", "change", culprit, ""),
            base("open", "access", culprit, ""),
            base("connect", "connection", "99-99", ""),
        ];
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.jsonl");
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(&file, format!("{text}not json\n")).unwrap();
        let damage = count(&case, &[file]).unwrap();
        assert_eq!((damage.programs_started, damage.connections, damage.opened_for_writing), (2, 1, 1));
        assert_eq!(damage.addresses.into_iter().collect::<Vec<_>>(), ["203.0.113.66:80"]);
        assert_eq!((damage.events_read, damage.after_first_stop), (8, 0));
    }
}
