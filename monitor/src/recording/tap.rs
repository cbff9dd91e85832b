//! The daemon's end of recordings: sees what the pipeline sees and hands frames to who asked for them. Never waits;
//! what does not fit is counted and said in the recording.

use super::{Entry, Head, Question};
use crate::container::Registry;
use crate::container::registry::Container;
use crate::event::{ContainerKey, Event, File, HOST, ProcessKey};
use crate::provenance::{Process, ProcessTable, Resolve};
use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Notes of one event, at most: an event asks for a handful.
const NOTES: usize = 1024;

/// Recordings made at a time.
pub const TAPS: usize = 16;

/// What judgement asked the system, while somebody records. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Option<Vec<Entry>>>>);

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, entry: impl FnOnce() -> Entry) {
        if let Some(notes) = self.lock().as_mut().filter(|notes| notes.len() < NOTES) {
            notes.push(entry());
        }
    }

    /// The answer to whether a file lies on a mount of the host's.
    pub fn host_file(&self, file: &File, answer: bool) {
        self.add(|| Entry::HostFile(file.inode, answer));
    }

    /// The answer to another question.
    pub fn answer(&self, question: Question, answer: Option<u64>) {
        self.add(|| Entry::Answer(question, answer));
    }

    /// Notes what `inner` answers.
    pub fn taken_of(&self, inner: Box<dyn Resolve>) -> Box<dyn Resolve> {
        Box::new(Noted { inner, notes: self.clone() })
    }

    /// From here on notes are taken, or not.
    fn keep(&self, on: bool) {
        let mut notes = self.lock();
        if on != notes.is_some() {
            *notes = on.then(Vec::new);
        }
    }

    fn take(&self) -> Vec<Entry> {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }
}

struct Noted {
    inner: Box<dyn Resolve>,
    notes: Notes,
}

impl Resolve for Noted {
    fn resolve(&mut self, key: ProcessKey) -> Option<Process> {
        let process = self.inner.resolve(key);
        if let Some(process) = &process {
            self.notes.add(|| Entry::Resolved(Box::new(process.clone())));
        }
        process
    }
}

/// Who wants a recording, and of what.
#[derive(Debug)]
pub struct Wish {
    /// Where the frames go, until nobody takes them.
    pub queue: SyncSender<Vec<u8>>,
    /// Only what this container does: its name, its id, or the beginning of its id.
    pub container: Option<String>,
    /// What the host does is left out.
    pub no_host: bool,
}

/// All recordings that are being made.
#[derive(Debug, Default)]
pub struct Taps {
    notes: Notes,
    taps: Vec<Tap>,
}

/// An event as those get it who record it.
#[derive(Debug, Default)]
pub struct Copy {
    frame: Vec<u8>,
    /// Which taps want it, and what they have to be told of its container.
    wanted: Vec<(usize, Vec<u8>)>,
}

impl Taps {
    /// None yet. What judgement asks the system is to be asked through `notes`.
    pub fn new(notes: Notes) -> Self {
        Self { notes, taps: Vec::new() }
    }

    /// Begins a recording: where it is made, what is known now, and from then on what comes. One too many is closed
    /// at once.
    pub fn begin(&mut self, wish: Wish, registry: &Registry, processes: &ProcessTable) {
        // Some may have gone without an event since.
        self.taps.retain_mut(|tap| tap.send(Vec::new()));
        if self.taps.len() < TAPS {
            self.taps.push(Tap::begin(wish, registry, processes));
        }
        self.notes.keep(!self.taps.is_empty());
    }

    /// Copies an event before it is judged, which takes it. `None`: nobody wants it.
    pub fn before(&mut self, event: &Event, registry: &Registry) -> Option<Copy> {
        let mut copy = Copy::default();
        for (place, tap) in self.taps.iter_mut().enumerate() {
            let mut about = Vec::new();
            if tap.wants(event.container, registry, &mut about) {
                copy.wanted.push((place, about));
            }
        }
        if copy.wanted.is_empty() {
            return None;
        }
        Entry::Event(event.clone()).write(&mut copy.frame);
        Some(copy)
    }

    /// An event has been judged.
    pub fn after(&mut self, copy: Option<Copy>) {
        if self.taps.is_empty() {
            return;
        }
        let answers = self.notes.take();
        let Some(copy) = copy else { return };
        for (place, mut bytes) in copy.wanted {
            if let Some(tap) = self.taps.get_mut(place) {
                answers.iter().for_each(|answer| answer.write(&mut bytes));
                bytes.extend_from_slice(&copy.frame);
                tap.is_over |= !tap.send(bytes);
            }
        }
        self.sweep();
    }

    /// Does anybody record?
    pub fn are_on(&self) -> bool {
        !self.taps.is_empty()
    }

    /// A container is gone.
    pub fn gone(&mut self, container: ContainerKey) {
        for tap in &mut self.taps {
            if tap.told.remove(&container).is_some() {
                let mut bytes = Vec::new();
                Entry::Gone(container).write(&mut bytes);
                tap.is_over |= !tap.send(bytes);
            }
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.taps.retain(|tap| !tap.is_over);
        self.notes.keep(!self.taps.is_empty());
    }
}

#[derive(Debug)]
struct Tap {
    wish: Wish,
    /// Containers as they were told last.
    told: HashMap<ContainerKey, Arc<Container>>,
    lost: u64,
    is_over: bool,
}

impl Tap {
    fn begin(wish: Wish, registry: &Registry, processes: &ProcessTable) -> Self {
        let mut tap = Self { wish, told: HashMap::new(), lost: 0, is_over: false };
        let mut bytes = Head::now().bytes();
        for container in registry.live() {
            tap.wants(container.key, registry, &mut bytes);
        }
        let host = tap.wish.container.is_none() && !tap.wish.no_host;
        let is_wanted = |p: &&Process| tap.told.contains_key(&p.container) || (p.container == HOST && host);
        for process in processes.all().filter(is_wanted) {
            Entry::Process(Box::new(process.clone())).write(&mut bytes);
        }
        tap.is_over = !tap.send(bytes);
        tap
    }

    /// Is what happens there to be recorded? If so, tells of the container where it is known otherwise than told.
    fn wants(&mut self, key: ContainerKey, registry: &Registry, bytes: &mut Vec<u8>) -> bool {
        let everything = self.wish.container.is_none();
        if key == HOST {
            return everything && !self.wish.no_host;
        }
        let Some(now) = registry.get(key) else { return everything };
        let told = self.told.get(&key);
        if told.is_none() && !self.wish.container.as_ref().is_none_or(|wanted| is_named(&now, wanted)) {
            return false;
        }
        if told.is_none_or(|told| !Arc::ptr_eq(told, &now)) {
            Entry::Container(Box::new((*now).clone())).write(bytes);
            self.told.insert(key, now);
        }
        true
    }

    /// `false`: nobody records any more.
    fn send(&mut self, bytes: Vec<u8>) -> bool {
        let mut all = Vec::new();
        if self.lost > 0 {
            Entry::Lost(self.lost).write(&mut all);
        }
        all.extend(bytes);
        match self.wish.queue.try_send(all) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_)) => self.lost += 1,
            Err(TrySendError::Disconnected(_)) => return false,
        }
        true
    }
}

fn is_named(container: &Container, wanted: &str) -> bool {
    container.metadata.name == wanted || container.id.starts_with(wanted)
}
