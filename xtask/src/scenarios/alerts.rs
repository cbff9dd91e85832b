//! The monitor's alerts: reading them as they are written, and telling whose they are.

use super::super::lab::process::Interrupt;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What a verdict needs of one alert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alert {
    /// Finding kind.
    pub kind: String,
    /// 64 hex digits, or `host`.
    pub container: String,
    /// observed, denied, killed, refused.
    pub outcome: String,
    /// lsm, cgroup, signal, pidfd; empty when nothing was enforced.
    pub enforced_by: String,
    /// µs from the act to the finding.
    pub latency_us: u64,
    /// The culprit and its ancestors.
    pub pids: Vec<u32>,
    /// One sentence.
    pub message: String,
}

/// Reads one line; `None` for what is no alert, or amends one.
pub fn parse(line: &str) -> Option<Alert> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let amendment = value.pointer("/bulkhead/amendment").and_then(Value::as_bool).unwrap_or(false);
    if text("/event/kind") != "alert" || amendment {
        return None;
    }
    let pid = |value: &Value| value.as_u64().and_then(|pid| u32::try_from(pid).ok());
    let mut pids: Vec<u32> = ["/process/pid", "/process/parent/pid"]
        .iter()
        .filter_map(|pointer| value.pointer(pointer).and_then(pid))
        .collect();
    if let Some(list) = value.pointer("/process/Ext/ancestry").and_then(Value::as_array) {
        pids.extend(list.iter().filter_map(pid));
    }
    Some(Alert {
        kind: text("/bulkhead/finding/kind"),
        container: text("/container/id"),
        outcome: text("/bulkhead/outcome"),
        enforced_by: text("/bulkhead/enforced_by"),
        latency_us: value.pointer("/bulkhead/latency_us").and_then(Value::as_u64).unwrap_or(0),
        pids,
        message: text("/message"),
    })
}

/// Whose alerts are meant.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// Id of the scenario's container.
    pub container: String,
    /// Process at the root of what the scenario runs on the host.
    pub host_pid: Option<u32>,
}

impl Owner {
    /// Whether `alert` is about this scenario.
    pub fn owns(&self, alert: &Alert) -> bool {
        if alert.container == "host" {
            return self.host_pid.is_some_and(|pid| alert.pids.contains(&pid));
        }
        !self.container.is_empty() && alert.container == self.container
    }
}

#[derive(Default)]
struct Shared {
    alerts: Mutex<Vec<Alert>>,
    more: Condvar,
}

/// Follows the monitor's output file.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
    stop: Interrupt,
}

impl Feed {
    /// Follows `path`, which need not exist yet.
    pub fn follow(path: &Path) -> Self {
        let feed = Self { shared: Arc::default(), stop: Interrupt::default() };
        let (shared, stop, path) = (Arc::clone(&feed.shared), feed.stop.clone(), path.to_owned());
        thread::spawn(move || follow(&path, &shared, &stop));
        feed
    }

    /// Alerts so far; a position to look on from later.
    pub fn position(&self) -> usize {
        self.shared.alerts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Alerts from position `from` to `to` (the end if `None`) that `owner` owns.
    pub fn owned(&self, owner: &Owner, from: usize, to: Option<usize>) -> Vec<Alert> {
        let alerts = self.shared.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let to = to.unwrap_or(alerts.len()).min(alerts.len());
        let range = alerts.get(from.min(to)..to).unwrap_or_default();
        range.iter().filter(|alert| owner.owns(alert)).cloned().collect()
    }

    /// Waits until there are more than `position` alerts, at most `limit`.
    pub fn wait(&self, position: usize, limit: Duration) {
        let alerts = self.shared.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let _woken = self
            .shared
            .more
            .wait_timeout_while(alerts, limit, |alerts| alerts.len() <= position)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// Ends the following.
    pub fn stop(&self) {
        self.stop.set();
    }
}

fn follow(path: &PathBuf, shared: &Shared, stop: &Interrupt) {
    let mut open: Option<BufReader<File>> = None;
    let mut line = String::new();
    while !stop.is_set() {
        let Some(reader) = open.as_mut() else {
            open = File::open(path).ok().map(BufReader::new);
            if open.is_none() {
                thread::sleep(POLL);
            }
            continue;
        };
        match reader.read_line(&mut line) {
            Ok(n) if n > 0 && line.ends_with('\n') => {
                if let Some(alert) = parse(&line) {
                    let mut alerts = shared.alerts.lock().unwrap_or_else(PoisonError::into_inner);
                    alerts.push(alert);
                    shared.more.notify_all();
                }
                line.clear();
            }
            // Nothing more, or a line still being written.
            Ok(_) => {
                if replaced(reader, path) {
                    open = None;
                    line.clear();
                }
                thread::sleep(POLL);
            }
            Err(_) => {
                open = None;
                line.clear();
                thread::sleep(POLL);
            }
        }
    }
}

/// The monitor rotated its file, or cut it.
fn replaced(reader: &mut BufReader<File>, path: &Path) -> bool {
    let (Ok(ours), Ok(now)) = (reader.get_ref().metadata(), path.metadata()) else {
        return false;
    };
    let read = reader.stream_position().unwrap_or(0);
    ours.ino() != now.ino() || ours.dev() != now.dev() || now.len() < read
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write;

    fn line(container: &str, pid: u32, ancestry: &[u32]) -> String {
        serde_json::json!({
            "event": {"kind": "alert"},
            "container": {"id": container},
            "message": "m",
            "process": {"pid": pid, "parent": {"pid": 7}, "Ext": {"ancestry": ancestry}},
            "bulkhead": {
                "finding": {"id": "x", "kind": "reverse_shell", "severity": "critical"},
                "outcome": "killed", "enforced_by": "signal", "latency_us": 42, "amendment": false,
            },
        })
        .to_string()
    }

    #[test]
    fn an_alert_is_read() {
        let alert = parse(&line("c", 5, &[7, 8])).unwrap();
        assert_eq!(alert.kind, "reverse_shell");
        assert_eq!((alert.outcome.as_str(), alert.enforced_by.as_str()), ("killed", "signal"));
        assert_eq!((alert.latency_us, alert.pids), (42, vec![5, 7, 7, 8]));
    }

    #[test]
    fn amendments_other_events_and_noise_are_not() {
        assert_eq!(parse(&line("c", 5, &[]).replace("\"amendment\":false", "\"amendment\":true")), None);
        assert_eq!(parse(&line("c", 5, &[]).replace("\"alert\"", "\"event\"")), None);
        assert_eq!(parse("not json"), None);
    }

    #[test]
    fn a_null_rung_is_none() {
        let text = line("c", 5, &[]).replace("\"enforced_by\":\"signal\"", "\"enforced_by\":null");
        assert_eq!(parse(&text).unwrap().enforced_by, "");
    }

    #[test]
    fn owners() {
        let owner = Owner { container: "c".into(), host_pid: Some(8) };
        let owns = |container: &str, ancestry: &[u32]| owner.owns(&parse(&line(container, 5, ancestry)).unwrap());
        assert!(owns("c", &[]));
        assert!(!owns("d", &[8]));
        assert!(owns("host", &[1, 8]));
        assert!(!owns("host", &[1]));
        assert!(!Owner::default().owns(&parse(&line("", 5, &[])).unwrap()));
    }

    #[test]
    fn a_rotated_file_is_followed() {
        let folder = std::env::temp_dir().join(format!("bulkhead-feed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("alerts.jsonl");
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).unwrap();
            writeln!(file, "{text}").unwrap();
        };
        append(&line("a", 1, &[]));
        let feed = Feed::follow(&path);
        feed.wait(0, Duration::from_secs(5));
        std::fs::rename(&path, folder.join("old")).unwrap();
        append(&line("b", 1, &[]));
        feed.wait(1, Duration::from_secs(5));
        feed.stop();
        assert_eq!(feed.position(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
