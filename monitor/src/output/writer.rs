//! The thread between the pipeline and the sink. The pipeline hands over with `try_send`: it never
//! waits for a disk or a reader. What does not fit is counted and reported.

use super::human::Human;
use super::notice::{NoticeKind, NoticeRow};
use super::record::{Alert, Row};
use super::response::ResponseRow;
use super::shares::Shares;
use super::sink::{RotatedFile, Sink, Stdout};
use super::{Clock, Notice};
use crate::config::{self, Format};
use crate::finding::Finding;
use crate::response::Response;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Rows about containers that may wait for the sink; a finding is a few kilobytes. A container may hold two
/// thirds of them.
const QUEUE: usize = 1024;
/// Rows about the daemon itself, and orders to the writer, that may wait besides.
const OWN: usize = 128;

/// Someone else who wants every row (the control socket).
pub trait Observer: Send {
    /// A row and its JSON, without line end. Must not block.
    fn row(&self, row: &Row, json: &Arc<str>);
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file cannot be opened.
    #[error("output file {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("output thread: {0}")]
    Thread(io::Error),
}

/// What became of the rows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Written to the sink.
    pub written: AtomicU64,
    /// Lost because the sink refused them.
    pub failed: AtomicU64,
    /// Lost because the container had its share of the queue, or the queue was full.
    pub dropped: AtomicU64,
    /// Findings and notices that were taken off the queue and dealt with, written or not.
    pub settled: AtomicU64,
}

/// Whose place in the queue a row takes: a container's id, none for what is the daemon's own.
type Payer = Option<String>;

enum Job {
    Finding(Box<Finding>),
    Notice(Box<Notice>),
    Response(Box<Response>),
    Reopen,
    Stop,
}

/// The way out for findings and notices.
pub struct Output {
    queue: SyncSender<(Payer, Job)>,
    shares: Arc<Shares<String>>,
    counters: Arc<Counters>,
    /// Findings and notices that went into the queue.
    submitted: AtomicU64,
    done: Receiver<()>,
}

impl Output {
    /// Opens the configured sink and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened or the thread not started.
    pub fn open(settings: &config::Output, observer: Option<Box<dyn Observer>>) -> Result<Self, OutputError> {
        let sink: Box<dyn Sink> = match &settings.file {
            Some(path) => Box::new(
                RotatedFile::new(path, settings.max_bytes, settings.keep)
                    .map_err(|source| OutputError::File { path: path.clone(), source })?,
            ),
            None => Box::new(Stdout),
        };
        let to_terminal = settings.file.is_none() && io::stdout().is_terminal();
        let human = match (settings.format, &settings.file) {
            (Format::Json, _) => None,
            (Format::Human, Some(_)) => Some(Human::new(false)),
            (Format::Human, None) => Some(Human::for_stdout()),
            (Format::Auto, _) => to_terminal.then(Human::for_stdout),
        };
        Self::start(sink, human, observer)
    }

    /// With a given sink; JSON rows unless `human`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        sink: Box<dyn Sink>,
        human: Option<Human>,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<Self, OutputError> {
        let (queue, jobs) = sync_channel(QUEUE + OWN);
        let shares = Arc::new(Shares::new(QUEUE));
        let (finished, done) = sync_channel(1);
        let counters = Arc::new(Counters::default());
        let writer = Writer {
            sink,
            human,
            observer,
            shares: shares.clone(),
            counters: counters.clone(),
            host: host_name(),
            failed: 0,
            reported_drops: 0,
        };
        std::thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                writer.run(&jobs);
                let _ = finished.send(());
            })
            .map_err(OutputError::Thread)?;
        Ok(Self { queue, shares, counters, submitted: AtomicU64::new(0), done })
    }

    /// Hands over a finding; never waits.
    pub fn finding(&self, finding: Finding) {
        self.submit(Some(finding.container.id.clone()), Job::Finding(Box::new(finding)));
    }

    /// Hands over a notice; never waits.
    pub fn notice(&self, notice: Notice) {
        self.submit(None, Job::Notice(Box::new(notice)));
    }

    /// Hands over what was done about a container; never waits.
    pub fn response(&self, response: Response) {
        self.hand_over(Some(response.container.id.clone()), Job::Response(Box::new(response)));
    }

    /// Opens the file anew before the next row.
    pub fn reopen(&self) {
        self.hand_over(None, Job::Reopen);
    }

    /// Findings and notices that went into the queue so far; compared with [`Counters::settled`].
    pub fn submitted(&self) -> u64 {
        self.submitted.load(Relaxed)
    }

    /// What became of the rows so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Writes what is waiting and ends the thread; `false` if that took longer than `patience`
    /// (a reader of standard output that does not read).
    pub fn close(self, patience: Duration) -> bool {
        let end = std::time::Instant::now() + patience;
        while self.queue.try_send((None, Job::Stop)).is_err() {
            if std::time::Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.done.recv_timeout(end.saturating_duration_since(std::time::Instant::now())).is_ok()
    }

    fn submit(&self, payer: Payer, job: Job) {
        if self.hand_over(payer, job) {
            self.submitted.fetch_add(1, Relaxed);
        }
    }

    fn hand_over(&self, payer: Payer, job: Job) -> bool {
        let may = payer.as_ref().is_none_or(|container| self.shares.take(container.clone()));
        let sent = may && self.queue.try_send((payer, job)).is_ok();
        if !sent {
            self.counters.dropped.fetch_add(1, Relaxed);
        }
        sent
    }
}

struct Writer {
    sink: Box<dyn Sink>,
    human: Option<Human>,
    observer: Option<Box<dyn Observer>>,
    shares: Arc<Shares<String>>,
    counters: Arc<Counters>,
    host: String,
    /// Rows the sink has refused since it last took one.
    failed: u64,
    reported_drops: u64,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<(Payer, Job)>) {
        while let Ok((payer, job)) = jobs.recv() {
            if let Some(container) = payer {
                self.shares.give_back(&container);
            }
            match job {
                Job::Finding(finding) => {
                    let alert = Alert::new(&finding, &self.host, &Clock::now());
                    self.row(&Row::Alert(Box::new(alert)));
                    self.counters.settled.fetch_add(1, Relaxed);
                }
                Job::Notice(notice) => {
                    self.notice(&notice);
                    self.counters.settled.fetch_add(1, Relaxed);
                }
                Job::Response(response) => {
                    let row = ResponseRow::new(&response, &self.host, &Clock::now());
                    self.row(&Row::Response(Box::new(row)));
                }
                Job::Reopen => self.sink.reopen(),
                Job::Stop => break,
            }
            self.report_drops();
        }
        self.report_drops();
    }

    fn notice(&mut self, notice: &Notice) {
        let row = NoticeRow::new(notice, &self.host, &Clock::now());
        self.row(&Row::Notice(Box::new(row)));
    }

    fn row(&mut self, row: &Row) {
        let json: Arc<str> = match serde_json::to_string(row) {
            Ok(json) => json.into(),
            Err(error) => {
                self.counters.failed.fetch_add(1, Relaxed);
                tracing::error!(%error, "a row could not be rendered");
                return;
            }
        };
        if let Some(observer) = &self.observer {
            observer.row(row, &json);
        }
        let text = match &self.human {
            Some(human) => human.render(row),
            None => format!("{json}\n"),
        };
        match self.sink.write(&text) {
            Ok(()) => {
                self.counters.written.fetch_add(1, Relaxed);
                self.report_recovery();
            }
            Err(error) => self.report_failure(&error),
        }
    }

    /// Once for a series of failures: the log must not fill the disk that is full.
    fn report_failure(&mut self, error: &io::Error) {
        self.counters.failed.fetch_add(1, Relaxed);
        if self.failed == 0 {
            tracing::error!(%error, "alerts cannot be written; detection goes on, rows are counted");
        }
        self.failed += 1;
    }

    fn report_recovery(&mut self) {
        let lost = std::mem::take(&mut self.failed);
        if lost > 0 {
            tracing::warn!(lost, "alerts can be written again");
            let message = format!("{lost} rows could not be written; the output works again");
            let notice = Notice::new(NoticeKind::PipelineError, "output_recovered", message)
                .with(serde_json::json!({ "lost": lost }));
            self.notice(&notice);
        }
    }

    fn report_drops(&mut self) {
        let dropped = self.counters.dropped.load(Relaxed);
        let new = dropped - self.reported_drops;
        if new > 0 {
            self.reported_drops = dropped;
            tracing::warn!(dropped = new, "the output was too slow; rows were dropped");
            let message = format!("{new} rows were dropped because the output was too slow");
            let notice = Notice::new(NoticeKind::PipelineError, "output_dropped", message)
                .with(serde_json::json!({ "dropped": new }));
            self.notice(&notice);
        }
    }
}

/// The machine's name, as uname(2) gives it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
