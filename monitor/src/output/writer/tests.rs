#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::finding::{EnforcedBy, FindingKind, Outcome};
use crate::output::samples;
use serde_json::Value;
use std::sync::{Condvar, Mutex};

const PATIENCE: Duration = Duration::from_secs(20);

/// A sink that refuses while `full`, waits while `held`, and remembers.
#[derive(Clone, Default)]
struct Fake(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    rows: Vec<String>,
    full: bool,
    held: bool,
    waiting: bool,
}

impl Fake {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn rows(&self) -> Vec<Value> {
        self.0.0.lock().unwrap().rows.iter().map(|r| serde_json::from_str(r).unwrap()).collect()
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let lock = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(lock, PATIENCE, |s| !until(s)).unwrap());
    }
}

impl Sink for Fake {
    fn write(&mut self, row: &str) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        state.waiting = state.held;
        self.0.1.notify_all();
        state = self.0.1.wait_while(state, |s| s.held).unwrap();
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.rows.push(row.to_owned());
        self.0.1.notify_all();
        Ok(())
    }
}

fn output(sink: &Fake) -> Output {
    Output::start(Box::new(sink.clone()), None, None).unwrap()
}

#[test]
fn what_is_handed_over_is_written_before_the_end() {
    let sink = Fake::default();
    let output = output(&sink);
    for _ in 0..50 {
        output.finding(samples::reverse_shell());
    }
    output.notice(Notice::stopped("SIGTERM"));
    assert!(output.close(PATIENCE));
    let rows = sink.rows();
    assert_eq!(rows.len(), 51);
    assert_eq!(rows[0]["event"]["action"], "reverse_shell");
    assert_eq!(rows[50]["event"]["action"], "stopped");
}

#[test]
fn a_full_disk_is_counted_and_reported_on_recovery() {
    let sink = Fake::default();
    let output = output(&sink);
    let counters = output.counters();
    sink.set(|s| s.full = true);
    for _ in 0..3 {
        output.finding(samples::reverse_shell());
    }
    let end = std::time::Instant::now() + PATIENCE;
    while counters.failed.load(Relaxed) < 3 && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    sink.set(|s| s.full = false);
    output.finding(samples::reverse_shell());
    assert!(output.close(PATIENCE));
    let rows = sink.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1]["event"]["action"], "output_recovered");
    assert_eq!(rows[1]["bulkhead"]["details"]["lost"], 3);
    assert_eq!((counters.written.load(Relaxed), counters.failed.load(Relaxed)), (2, 3));
}

#[test]
fn a_slow_sink_costs_rows_not_time() {
    let sink = Fake::default();
    let output = output(&sink);
    let counters = output.counters();
    sink.set(|s| s.held = true);
    output.finding(samples::reverse_shell());
    sink.wait(|s| s.waiting);
    let share = (QUEUE * 2).div_ceil(3);
    for _ in 0..share + 5 {
        output.finding(samples::reverse_shell());
    }
    assert_eq!(counters.dropped.load(Relaxed), 5);
    let mut other = samples::reverse_shell();
    other.container.id = "another container".into();
    output.finding(other);
    assert_eq!(counters.dropped.load(Relaxed), 5, "there is room for another container's row");
    sink.set(|s| s.held = false);
    assert!(output.close(PATIENCE));
    let rows = sink.rows();
    assert_eq!(rows.len(), share + 3);
    let told = rows.iter().find(|r| r["event"]["action"] == "output_dropped").unwrap();
    assert_eq!(told["bulkhead"]["details"]["dropped"], 5);
}

#[test]
fn closing_does_not_wait_forever() {
    let sink = Fake::default();
    let output = output(&sink);
    sink.set(|s| s.held = true);
    output.finding(samples::reverse_shell());
    assert!(!output.close(Duration::from_millis(50)));
    sink.set(|s| s.held = false);
}

#[test]
fn a_full_file_system_for_real() {
    // /dev/full answers ENOSPC to every write.
    let settings = config::Output { file: Some("/dev/full".into()), ..config::Output::default() };
    let output = Output::open(&settings, None).unwrap();
    let counters = output.counters();
    output.finding(samples::reverse_shell());
    assert!(output.close(PATIENCE));
    assert_eq!(counters.failed.load(Relaxed), 1);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let settings = config::Output { file: Some("/proc/no/x".into()), ..config::Output::default() };
    let message = Output::open(&settings, None).err().unwrap().to_string();
    assert!(message.starts_with("output file /proc/no/x: "), "{message}");
}

#[test]
fn the_row_of_a_reverse_shell() {
    let row = serde_json::to_value(samples::reverse_shell_row()).unwrap();
    insta::assert_json_snapshot!(row);
}

#[test]
fn rows_keep_to_the_schema() {
    let schema: Value = serde_json::from_str(&crate::output::schema::json().unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let check = |row: &Row| {
        let value = serde_json::to_value(row).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path)).collect();
        assert!(errors.is_empty(), "{errors:?}\n{value:#}");
        assert_eq!(&serde_json::from_value::<Row>(value).unwrap(), row, "reads back");
    };
    let outcomes = [
        Outcome::Observed,
        Outcome::Denied { by: EnforcedBy::Cgroup },
        Outcome::Denied { by: EnforcedBy::Lsm },
        Outcome::Killed { by: EnforcedBy::Pidfd, processes: vec![1] },
        Outcome::Frozen,
        Outcome::Quarantined,
        Outcome::Stopping,
        Outcome::Refused { why: "host".into() },
    ];
    for kind in FindingKind::ALL {
        for outcome in &outcomes {
            let mut finding = samples::reverse_shell();
            finding.kind = *kind;
            finding.severity = kind.severity();
            finding.outcome = outcome.clone();
            finding.file = Some("/etc/crontab".into());
            check(&samples::row(&finding));
            finding.file = None;
            finding.peer = None;
            finding.ancestors.clear();
            finding.container.digest.clear();
            check(&samples::row(&finding));
        }
    }
    check(&samples::notice_row());
    samples::responses().iter().for_each(check);
    for notice in [Notice::stopped("x"), Notice::event_loss("host", &[("open".into(), 3)])] {
        check(&Row::Notice(Box::new(NoticeRow::new(&notice, "n", &samples::clock()))));
    }
}

#[test]
fn the_schema_refuses_what_is_not_a_row() {
    let schema: Value = serde_json::from_str(&crate::output::schema::json().unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let good = serde_json::to_value(samples::reverse_shell_row()).unwrap();
    assert!(validator.is_valid(&good));
    let broken = |change: fn(&mut Value)| {
        let mut row = good.clone();
        change(&mut row);
        assert!(!validator.is_valid(&row), "{row:#}");
    };
    broken(|r| r["event"]["action"] = "made_up".into());
    broken(|r| r["bulkhead"]["outcome"] = "ignored".into());
    broken(|r| r["process"]["pid"] = "1".into());
    broken(|r| r["surprise"] = 1.into());
    let response = serde_json::to_value(&samples::responses()[0]).unwrap();
    assert_eq!(response["event"]["kind"], "event");
    for (key, value) in [("action", "pause"), ("outcome", "unknown"), ("kind", "state")] {
        let mut row = response.clone();
        row["event"][key] = value.into();
        assert!(!validator.is_valid(&row), "{row:#}");
    }
    broken(|r| {
        r.as_object_mut().map(|o| o.remove("container"));
    });
}
