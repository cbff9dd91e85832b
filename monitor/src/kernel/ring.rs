//! The drain thread: decodes, counts, hands over. What the pipeline has no room for it leaves in the rings.

use super::again::Shapes;
use super::clock::boot_ns;
use super::maps::Rings;
use crate::event::Event;
use aya::maps::{MapData, RingBuf};
use monitor_common::header::Header;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A record that another CPU is still writing hides those behind it for a moment. What was only observed
/// waits for as long, so that it is judged with what happened before it.
const GRACE: Duration = Duration::from_millis(1);
/// While records come it is looked so often, and nobody wakes the reader: an interrupt for each record costs those who
/// make them more than all the rest. Also when it is looked again for what waits.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Looks in a row that found nothing after which the next record is to wake the reader.
const LOOKS: u32 = 2;
/// How long records that wake nobody (fork, exit) may lie.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Events read that may wait for the pipeline. What finds no place stays in its ring, where the kernel half
/// sees to it that a container that floods loses its own records (docs/adr/0008-who-loses-in-a-flood.md). An
/// event has ~1 KiB.
const AHEAD: u64 = 6144;
/// Length of the pipeline's queue: beside these, verdicts that are handed over together, and orders and other
/// inputs, for which a flood of events must leave room.
pub const QUEUE: usize = AHEAD as usize + 2 * WAITING;
/// Verdicts that may wait for the events before them.
const WAITING: usize = 1024;
/// Events read between two looks at the ring of verdicts, and their most in one round.
const BATCH: usize = 64;
const BATCHES: usize = 256;
/// How long the rings are still read at the end, if they do not get empty: the next daemon reads on.
const LAST: Duration = Duration::from_millis(500);

/// What the drain has counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records read.
    pub received: AtomicU64,
    /// Records that did not decode.
    pub malformed: AtomicU64,
    /// Events that the pipeline has dealt with.
    pub taken: AtomicU64,
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
    /// Starts the thread. Events go to `sender`, of length [`QUEUE`], in the order they happened, as far as the
    /// two rings tell. Its receiver counts in [`Counts::taken`].
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
        let worker = Worker {
            sender,
            counts: counts.clone(),
            backlog,
            waiting: VecDeque::new(),
            handed: 0,
            shapes: Shapes::default(),
        };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("drain".into()).spawn(move || worker.run(rings, &stopped))?;
        Ok(Self { counts, stop, thread: Some(thread) })
    }

    /// Asks it to read the rings a last time and end. Needs a pipeline that takes what it hands over.
    pub fn stop(&self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
    }

    /// Has it ended?
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for whoever wakes the reader. Edge-triggered: that a ring is not empty is no reason.
struct Waker(OwnedFd);

impl Waker {
    /// What is no ring.
    const STOP: u64 = 1;
    const RING: u64 = 0;

    fn new(rings: &Rings, stop: &OwnedFd) -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &rings.verdicts, epoll::EventData::new_u64(Self::RING), edges)?;
        epoll::add(&epoll, &rings.events, epoll::EventData::new_u64(Self::RING), edges)?;
        epoll::add(&epoll, stop, epoll::EventData::new_u64(Self::STOP), epoll::EventFlags::IN)?;
        Ok(Self(epoll))
    }

    /// Until somebody does, or so long; true if that is to end.
    fn wait(&self, limit: &Timespec) -> rustix::io::Result<bool> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 3];
        match epoll::wait(&self.0, &mut events, Some(limit)) {
            Ok(count) => Ok(events.iter().take(count).any(|event| event.data.u64() == Self::STOP)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Until the pipeline has had some time, or that is to end; true if it is.
fn waits_for(stop: &OwnedFd, limit: &Timespec) -> rustix::io::Result<bool> {
    let mut only = [PollFd::new(stop, PollFlags::IN)];
    match poll(&mut only, Some(limit)) {
        Ok(_) => Ok(!only[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a round ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Both rings were seen empty.
    Empty,
    /// There is more.
    More,
    /// There may be more, and the pipeline has enough to do.
    Pressed,
}

struct Worker<T> {
    sender: SyncSender<T>,
    counts: Arc<Counts>,
    backlog: Arc<Backlog>,
    /// Verdicts read and not handed over yet.
    waiting: VecDeque<Event>,
    /// Events handed over.
    handed: u64,
    /// Program starts that stand for others.
    shapes: Shapes,
}

impl<T: From<Event>> Worker<T> {
    fn run(mut self, mut rings: Rings, stop: &OwnedFd) {
        if let Err(error) = self.read(&mut rings, stop) {
            tracing::error!(%error, "poll of the rings failed; no more events are read");
            return;
        }
        let end = Instant::now() + LAST;
        while self.round(&mut rings) != Round::Empty && Instant::now() < end {
            std::thread::sleep(GRACE);
        }
        while let Some(verdict) = self.waiting.pop_front() {
            self.hand_over(verdict);
        }
    }

    /// Until that is to end.
    fn read(&mut self, rings: &mut Rings, stop: &OwnedFd) -> rustix::io::Result<()> {
        let waker = Waker::new(rings, stop)?;
        // Looks in a row that found nothing.
        let mut idle: u32 = 0;
        loop {
            let before = self.counts.received.load(Ordering::Relaxed);
            let end = self.round(rings);
            idle = if self.counts.received.load(Ordering::Relaxed) > before { 0 } else { idle.saturating_add(1) };
            let sleeps = end == Round::Empty && idle >= LOOKS;
            rings.looks.store(u32::from(!sleeps), Ordering::SeqCst);
            // The first time it sleeps it looks soon again: somebody may have asked just before.
            let long = sleeps && idle > LOOKS && self.waiting.is_empty();
            let stopped = match end {
                Round::More => false,
                Round::Pressed => waits_for(stop, &SOON)?,
                Round::Empty => waker.wait(if long { &LOOK } else { &SOON })?,
            };
            if stopped {
                return Ok(());
            }
        }
    }

    /// Everything there is and the pipeline has room for, the two rings merged by time: a verdict comes after
    /// the fork and exec that led to it.
    fn round(&mut self, rings: &mut Rings) -> Round {
        for _ in 0..BATCHES {
            let all = self.read_verdicts(&mut rings.verdicts);
            for _ in 0..BATCH {
                if self.is_pressed() {
                    return Round::Pressed;
                }
                let event = match rings.events.next() {
                    Some(record) => self.decoded(&record),
                    None => {
                        self.settle();
                        if all {
                            self.backlog.emptied.fetch_add(1, Ordering::Relaxed);
                            return Round::Empty;
                        }
                        return Round::More;
                    }
                };
                let Some(event) = event else { continue };
                self.hand_over_until(|verdict| verdict.time_ns <= event.time_ns);
                self.hand_over(event);
            }
        }
        Round::More
    }

    /// Has the pipeline as much to do as it may have?
    fn is_pressed(&self) -> bool {
        self.handed.saturating_sub(self.counts.taken.load(Ordering::Relaxed)) >= AHEAD
    }

    /// Reads verdicts, and tells whether these were all.
    fn read_verdicts(&mut self, ring: &mut RingBuf<MapData>) -> bool {
        let before = self.waiting.len();
        let mut all = false;
        while self.waiting.len() < WAITING && !all {
            match ring.next() {
                Some(record) => {
                    let verdict = self.decoded(&record);
                    self.waiting.extend(verdict);
                }
                None => all = true,
            }
        }
        if self.waiting.len() > before {
            self.waiting.make_contiguous().sort_by_key(|event| event.time_ns);
        }
        all
    }

    /// No event is left that could have led to the verdicts, but those that are being written just now.
    fn settle(&mut self) {
        let settled_ns = boot_ns().saturating_sub(GRACE.as_nanos() as u64);
        self.hand_over_until(|verdict| verdict.prevented() || verdict.time_ns <= settled_ns);
    }

    fn decoded(&mut self, record: &[u8]) -> Option<Event> {
        self.backlog.note(record);
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        match self.shapes.decode(record) {
            Ok(event) => Some(event),
            Err(_) => {
                self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Verdicts from the oldest on, as long as they are to go.
    fn hand_over_until(&mut self, is_due: impl Fn(&Event) -> bool) {
        while self.waiting.front().is_some_and(&is_due) {
            if let Some(verdict) = self.waiting.pop_front() {
                self.hand_over(verdict);
            }
        }
    }

    fn hand_over(&mut self, event: Event) {
        self.handed += 1;
        // There is room, as `AHEAD` is less than the queue's length; only when others have filled the rest
        // is this a wait. A pipeline that has ended is shutting down.
        let _ = self.sender.send(event.into());
    }
}

/// The rings can be polled.
const _: fn(&RingBuf<MapData>) = |ring| {
    let _ = ring.as_fd();
};
