//! The drain thread: decodes, counts, hands over. It never waits for anybody but the kernel.

use super::clock::boot_ns;
use super::decode::decode;
use super::maps::Rings;
use crate::event::Event;
use aya::maps::{MapData, RingBuf};
use monitor_common::header::Header;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A record that another CPU is still writing hides those behind it for a moment. What was only observed
/// waits for as long, so that it is judged with what happened before it.
const GRACE: Duration = Duration::from_millis(1);
/// When it is looked again for what waits.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// How long records that wake nobody (fork, exit) may lie.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What the drain has counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records read.
    pub received: AtomicU64,
    /// Records that did not decode.
    pub malformed: AtomicU64,
    /// Events that found the pipeline's queue full.
    pub dropped: AtomicU64,
}

/// Records from before this daemon read the rings, as they come.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Records that each CPU had begun when this daemon took the rings.
    begun: Vec<u64>,
    /// Of these, records read by this daemon.
    pub read: AtomicU64,
    /// How often both rings were seen empty since.
    pub emptied: AtomicU64,
}

impl Backlog {
    /// What was begun until now, by CPU.
    pub fn new(begun: Vec<u64>) -> Self {
        Self { begun, ..Self::default() }
    }

    /// Records begun before, all CPUs.
    pub fn total(&self) -> u64 {
        self.begun.iter().sum()
    }

    fn note(&self, record: &[u8]) {
        let Some(header) = record.get(..size_of::<Header>()) else { return };
        let header: Header = bytemuck::pod_read_unaligned(header);
        if self.begun.get(header.cpu as usize).is_some_and(|begun| header.seq < *begun) {
            self.read.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A running drain.
pub struct Drain {
    /// Running counts.
    pub counts: Arc<Counts>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Starts the thread. Events go to `sender` in the order they happened, as far as the two rings
    /// tell; what finds it full is dropped and counted.
    ///
    /// # Errors
    /// When no eventfd or thread can be made.
    pub fn start<T: From<Event> + Send + 'static>(
        rings: Rings,
        sender: SyncSender<T>,
        backlog: Arc<Backlog>,
    ) -> std::io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let worker = Worker { sender, counts: counts.clone(), backlog, waiting: VecDeque::new() };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("drain".into()).spawn(move || worker.run(rings, &stopped))?;
        Ok(Self { counts, stop, thread: Some(thread) })
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker<T> {
    sender: SyncSender<T>,
    counts: Arc<Counts>,
    backlog: Arc<Backlog>,
    /// Verdicts read and not handed over yet.
    waiting: VecDeque<Event>,
}

impl<T: From<Event>> Worker<T> {
    fn run(mut self, mut rings: Rings, stop: &OwnedFd) {
        loop {
            let ready = {
                let mut fds = [
                    PollFd::new(&rings.verdicts, PollFlags::IN),
                    PollFd::new(&rings.events, PollFlags::IN),
                    PollFd::new(stop, PollFlags::IN),
                ];
                match poll(&mut fds, Some(if self.waiting.is_empty() { &LOOK } else { &SOON })) {
                    Ok(_) => !fds[2].revents().is_empty(),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => {
                        tracing::error!(%error, "poll of the rings failed; no more events are read");
                        return;
                    }
                }
            };
            self.round(&mut rings);
            if ready {
                while let Some(verdict) = self.waiting.pop_front() {
                    self.hand_over(verdict);
                }
                return;
            }
        }
    }

    /// Everything there is, the two rings merged by time: a verdict comes after the fork and exec
    /// that led to it.
    fn round(&mut self, rings: &mut Rings) {
        self.read_verdicts(&mut rings.verdicts);
        loop {
            let event = match rings.events.next() {
                Some(record) => self.decoded(&record),
                None => break,
            };
            let Some(event) = event else { continue };
            while self.waiting.front().is_some_and(|verdict| verdict.time_ns <= event.time_ns) {
                if let Some(verdict) = self.waiting.pop_front() {
                    self.hand_over(verdict);
                }
            }
            self.hand_over(event);
        }
        let settled_ns = boot_ns().saturating_sub(GRACE.as_nanos() as u64);
        while self.waiting.front().is_some_and(|verdict| verdict.prevented() || verdict.time_ns <= settled_ns) {
            if let Some(verdict) = self.waiting.pop_front() {
                self.hand_over(verdict);
            }
        }
        self.backlog.emptied.fetch_add(1, Ordering::Relaxed);
    }

    fn read_verdicts(&mut self, ring: &mut RingBuf<MapData>) {
        while let Some(record) = ring.next() {
            if let Some(event) = self.decoded(&record) {
                self.waiting.push_back(event);
            }
        }
        self.waiting.make_contiguous().sort_by_key(|event| event.time_ns);
    }

    fn decoded(&self, record: &[u8]) -> Option<Event> {
        let counts = &self.counts;
        self.backlog.note(record);
        counts.received.fetch_add(1, Ordering::Relaxed);
        match decode(record) {
            Ok(event) => Some(event),
            Err(_) => {
                counts.malformed.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn hand_over(&self, event: Event) {
        // A pipeline that has ended is shutting down: nothing to count.
        if let Err(TrySendError::Full(_)) = self.sender.try_send(event.into()) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The rings can be polled.
const _: fn(&RingBuf<MapData>) = |ring| {
    let _ = ring.as_fd();
};
