//! Every event as a row of its own, in a file apart from alerts. A thread and a bounded queue stand
//! between the pipeline and the disk; rows that do not fit or cannot be written are counted.

use super::Clock;
use super::record::ECS_VERSION;
use super::shares::Shares;
use super::sink::{RotatedFile, Sink as _};
use super::writer::{OutputError, host_name};
use crate::container::registry::Container;
use crate::event::{Body, ConnectOp, ContainerKey, Event, HOST, ProcessKey, file};
use crate::startup::STARTUP_ID;
use serde_json::{Value, json};
use smol_str::SmolStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Rows that may wait for the disk; a row has some 600 bytes. A container may hold two thirds of them.
const QUEUE: usize = 8192;
/// Rows are written together up to this many bytes.
const BATCH: usize = 64 * 1024;

/// What became of the rows.
#[derive(Debug, Default)]
pub struct Counters {
    /// No longer waiting, written or not.
    pub settled: AtomicU64,
    /// Lost: the container had its share of the queue, or the file refused them.
    pub lost: AtomicU64,
}

struct Row {
    text: String,
    container: ContainerKey,
}

/// The way out for events.
pub struct Events {
    queue: Option<SyncSender<Row>>,
    shares: Arc<Shares<ContainerKey>>,
    submitted: u64,
    counters: Arc<Counters>,
    host: String,
    done: Receiver<()>,
}

impl Events {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened or the thread not started.
    pub fn open(path: &Path, max_bytes: u64, keep: u32) -> Result<Self, OutputError> {
        let sink = RotatedFile::new(path, max_bytes, keep)
            .map_err(|source| OutputError::File { path: path.to_owned(), source })?;
        let (queue, rows) = sync_channel(QUEUE);
        let (finished, done) = sync_channel(1);
        let counters = Arc::new(Counters::default());
        let shares = Arc::new(Shares::new(QUEUE));
        let (counted, shared) = (counters.clone(), shares.clone());
        let body = move || {
            write_all(sink, &rows, &shared, &counted);
            let _ = finished.send(());
        };
        std::thread::Builder::new().name("events".into()).spawn(body).map_err(OutputError::Thread)?;
        Ok(Self { queue: Some(queue), shares, submitted: 0, counters, host: host_name(), done })
    }

    /// Hands an event over; never waits. What the start-up scan makes up is no event, and neither are
    /// forks, packets and cgroups.
    pub fn event(&mut self, event: &Event, container: Option<&Container>) {
        if event.id & STARTUP_ID != 0 {
            return;
        }
        let Some(naming) = naming(event) else { return };
        let sent = self.shares.take(event.container) && {
            let row = row(event, naming, container, &self.host, &Clock::now());
            let row = Row { text: format!("{row}\n"), container: event.container };
            self.queue.as_ref().is_some_and(|queue| queue.try_send(row).is_ok())
        };
        if sent {
            self.submitted += 1;
        } else {
            self.counters.lost.fetch_add(1, Relaxed);
        }
    }

    /// Rows handed over so far.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// What became of them.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Writes what waits and ends the thread; `false` if that took longer than `patience`.
    pub fn close(mut self, patience: Duration) -> bool {
        self.queue = None;
        self.done.recv_timeout(patience).is_ok()
    }
}

fn write_all(mut sink: RotatedFile, rows: &Receiver<Row>, shares: &Shares<ContainerKey>, counters: &Counters) {
    let mut failing: Option<Instant> = None;
    while let Ok(first) = rows.recv() {
        shares.give_back(&first.container);
        let (mut batch, mut count) = (first.text, 1);
        while batch.len() < BATCH
            && let Ok(row) = rows.try_recv()
        {
            shares.give_back(&row.container);
            batch.push_str(&row.text);
            count += 1;
        }
        match sink.write(&batch) {
            Ok(()) if failing.take().is_some() => tracing::warn!("events can be written again"),
            Ok(()) => {}
            Err(error) => {
                counters.lost.fetch_add(count, Relaxed);
                // Once for a series of failures: the log must not fill the disk that is full.
                if failing.replace(Instant::now()).is_none() {
                    tracing::error!(%error, "events cannot be written; they are counted");
                }
            }
        }
        counters.settled.fetch_add(count, Relaxed);
    }
}

/// Action, category and type of an event's row, if it has one.
fn naming(event: &Event) -> Option<[&'static str; 3]> {
    Some(match &event.body {
        Body::Exec(_) => ["exec", "process", "start"],
        Body::Exit { .. } => ["exit", "process", "end"],
        Body::Connect(connect) if connect.op == ConnectOp::Listen => ["listen", "network", "start"],
        Body::Connect(_) => ["connect", "network", "connection"],
        Body::Open(open) if open.file.has(file::FILE_CREATED) => ["open", "file", "creation"],
        Body::Open(open) if open.file.has(file::FILE_WRITE) => ["open", "file", "change"],
        Body::Open(_) => ["open", "file", "access"],
        Body::Moved { .. } => ["descriptor_moved", "process", "change"],
        Body::UnixConnect { .. } | Body::UnixPeer { .. } => ["unix_connect", "network", "connection"],
        Body::Reach(_) => ["reach", "process", "access"],
        Body::Tamper { .. } => ["tamper", "intrusion_detection", "info"],
        Body::Fork { .. } | Body::Payload(_) | Body::Cgroup(_) => return None,
    })
}

fn row(event: &Event, naming: [&str; 3], container: Option<&Container>, host: &str, clock: &Clock) -> Value {
    let [action, category, kind] = naming;
    let mut row = json!({
        "@timestamp": clock.at(event.time_ns).to_string(),
        "ecs": { "version": ECS_VERSION },
        "event": {
            "kind": "event", "action": action, "category": [category], "type": [kind],
            "id": format!("{:x}", event.id), "module": "bulkhead", "dataset": "bulkhead.event",
        },
        "host": { "name": host },
        "process": { "pid": event.process.tgid, "entity_id": entity(event.process) },
        "user": { "id": event.uid.to_string() },
        "container": { "id": container.map_or(if event.container == HOST { "host" } else { "" }, |c| c.id.as_str()) },
        "bulkhead": {
            "time_ns": event.time_ns,
            "cpu": event.id >> 48,
            "sequence": event.id & 0xffff_ffff_ffff,
            "verdict": format!("{:?}", event.verdict).to_lowercase(),
        },
    });
    if let Some(metadata) = container.map(|container| &container.metadata).filter(|known| !known.name.is_empty()) {
        row["container"]["name"] = metadata.name.as_str().into();
        row["container"]["image"] = json!({ "name": metadata.image });
    }
    match &event.body {
        Body::Exec(exec) => {
            row["process"]["executable"] = exec.exe.path.as_str().into();
            row["process"]["name"] = exec.comm.as_str().into();
            row["process"]["args"] = exec.args.iter().map(SmolStr::as_str).collect();
            row["process"]["parent"] = json!({ "pid": exec.parent.tgid, "entity_id": entity(exec.parent) });
        }
        Body::Exit { code } => row["process"]["exit_code"] = (code >> 8 & 0xff).into(),
        Body::Connect(connect) => {
            row["process"]["name"] = connect.comm.as_str().into();
            let address = json!({ "ip": connect.peer.ip().to_string(), "port": connect.peer.port() });
            row[if action == "listen" { "server" } else { "destination" }] = address;
        }
        Body::Open(open) => row["file"] = json!({ "path": open.file.path }),
        Body::UnixConnect { name, .. } => row["file"] = json!({ "path": name }),
        Body::UnixPeer { listener } => row["bulkhead"]["listener"] = json!({ "pid": listener }),
        Body::Tamper { attempt, .. } => row["bulkhead"]["attempt"] = format!("{attempt:?}").to_lowercase().into(),
        Body::Moved { .. } | Body::Fork { .. } | Body::Payload(_) | Body::Cgroup(_) | Body::Reach(_) => {}
    }
    row
}

fn entity(process: ProcessKey) -> String {
    format!("{}-{}", process.tgid, process.start_ns)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::detect::exec_for_tests;
    use crate::event::{Reason, Rung, Verdict};

    fn exec(id: u64, args: &[&str]) -> Event {
        Event {
            id,
            time_ns: 1,
            process: ProcessKey { tgid: 7, start_ns: 9 },
            tid: 7,
            uid: 0,
            container: HOST,
            verdict: Verdict::Observed,
            reason: Reason::None,
            rung: Rung::None,
            peer_tgid: None,
            body: Body::Exec(Box::new(exec_for_tests(1, args))),
        }
    }

    #[test]
    fn every_event_is_a_line_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut events = Events::open(&path, 1 << 20, 1).unwrap();
        for number in 0..100 {
            events.event(&exec(3 << 48 | number, &["true", &number.to_string()]), None);
        }
        events.event(&exec(STARTUP_ID | 1, &["made", "up"]), None);
        assert_eq!(events.submitted(), 100);
        let counters = events.counters();
        assert!(events.close(Duration::from_secs(5)));
        assert_eq!((counters.settled.load(Relaxed), counters.lost.load(Relaxed)), (100, 0));
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 100);
        for (number, row) in rows.iter().enumerate() {
            assert_eq!(row["process"]["args"][1], number.to_string());
            assert_eq!((&row["bulkhead"]["cpu"], &row["bulkhead"]["sequence"]), (&json!(3), &json!(number)));
            assert_eq!(row["container"]["id"], "host");
        }
    }

    #[test]
    fn a_row_that_cannot_be_written_is_counted() {
        let mut events = Events::open(Path::new("/dev/full"), 1 << 20, 1).unwrap();
        events.event(&exec(1, &["true"]), None);
        let counters = events.counters();
        assert!(events.close(Duration::from_secs(5)));
        assert_eq!((counters.settled.load(Relaxed), counters.lost.load(Relaxed)), (1, 1));
    }
}
