//! The daemon's end of a recording: sees what the pipeline sees and hands frames to who asked for them. Never waits;
//! what does not fit is counted and said in the recording.

use super::{Entry, Head};
use crate::container::Registry;
use crate::container::registry::Container;
use crate::event::{ContainerKey, Event, File, HOST, ProcessKey};
use crate::provenance::{Process, ProcessTable, Resolve};
use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Notes of one event, at most: an event asks for a handful.
const NOTES: usize = 1024;

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

    /// Notes what `inner` answers.
    pub fn taken_of(&self, inner: Box<dyn Resolve>) -> Box<dyn Resolve> {
        Box::new(Noted { inner, notes: self.clone() })
    }

    /// From here on notes are taken, or not.
    fn keep(&self, on: bool) {
        *self.lock() = on.then(Vec::new);
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

/// See the module.
#[derive(Debug)]
pub struct Tap {
    queue: SyncSender<Vec<u8>>,
    notes: Notes,
    /// Containers as they were told last.
    told: HashMap<ContainerKey, Arc<Container>>,
    lost: u64,
}

impl Tap {
    /// Begins a recording: where it is made, what is known now, and from then on what comes.
    pub fn begin(queue: SyncSender<Vec<u8>>, notes: &Notes, registry: &Registry, processes: &ProcessTable) -> Self {
        notes.keep(true);
        let mut tap = Self { queue, notes: notes.clone(), told: HashMap::new(), lost: 0 };
        let mut bytes = Head::now().bytes();
        for container in registry.live() {
            tap.container(container.key, registry, &mut bytes);
        }
        for process in processes.all() {
            Entry::Process(Box::new(process.clone())).write(&mut bytes);
        }
        // Nobody is there any more: found out with the first event.
        let _ = tap.queue.try_send(bytes);
        tap
    }

    /// The frames of an event, before it is judged (that takes it).
    pub fn before(&mut self, event: &Event, registry: &Registry) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        self.container(event.container, registry, &mut bytes);
        Entry::Event(Box::new(event.clone())).write(&mut bytes);
        bytes
    }

    /// The event has been judged. `false`: nobody records any more.
    pub fn after(&mut self, event: &[u8]) -> bool {
        let mut bytes = Vec::with_capacity(event.len() + 64);
        if self.lost > 0 {
            Entry::Lost(self.lost).write(&mut bytes);
        }
        for note in self.notes.take() {
            note.write(&mut bytes);
        }
        bytes.extend_from_slice(event);
        self.send(bytes)
    }

    /// Does anybody still take the frames?
    pub fn is_taken(&mut self) -> bool {
        self.send(Vec::new())
    }

    /// A container is gone.
    pub fn gone(&mut self, container: ContainerKey) -> bool {
        self.told.remove(&container);
        let mut bytes = Vec::new();
        Entry::Gone(container).write(&mut bytes);
        self.send(bytes)
    }

    fn send(&mut self, bytes: Vec<u8>) -> bool {
        match self.queue.try_send(bytes) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_)) => self.lost += 1,
            Err(TrySendError::Disconnected(_)) => return false,
        }
        true
    }

    /// Tells of a container if it is known otherwise than it was told.
    fn container(&mut self, key: ContainerKey, registry: &Registry, bytes: &mut Vec<u8>) {
        if key == HOST {
            return;
        }
        let Some(now) = registry.get(key) else { return };
        if self.told.get(&key).is_none_or(|told| !Arc::ptr_eq(told, &now)) {
            Entry::Container(Box::new((*now).clone())).write(bytes);
            self.told.insert(key, now);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.notes.keep(false);
    }
}
