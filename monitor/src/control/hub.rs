//! Between the output thread and the clients: remembers the last alerts, hands new rows to who
//! follows. Bounded in both directions.

use crate::output::{Observer, Row};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Alerts remembered.
pub const REMEMBERED: usize = 1000;
/// And at most so many bytes of them: the daemon's memory is budgeted.
const REMEMBERED_BYTES: usize = 4 << 20;
/// Rows that may wait for one client.
pub(super) const CLIENT_QUEUE: usize = 256;

/// Remembers and hands on.
#[derive(Debug, Default)]
pub struct Hub(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    recent: VecDeque<Arc<str>>,
    bytes: usize,
    followers: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    queue: SyncSender<Arc<str>>,
    lagged: Arc<AtomicBool>,
}

/// One client's end.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Rows; ends when the client was too slow.
    pub rows: Receiver<Arc<str>>,
    /// It was.
    pub lagged: Arc<AtomicBool>,
}

impl Hub {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way; a poisoned lock still guards whole data.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The remembered alerts, at most `limit`, oldest first.
    pub fn recent(&self, limit: usize) -> Vec<Arc<str>> {
        self.inner().last(limit)
    }

    /// Remembered alerts (at most `backlog`) and all rows after them, with nothing lost between.
    pub(super) fn follow(&self, backlog: usize) -> (Vec<Arc<str>>, Subscription) {
        let (queue, rows) = sync_channel(CLIENT_QUEUE);
        let lagged = Arc::new(AtomicBool::new(false));
        let mut inner = self.inner();
        inner.followers.push(Follower { queue, lagged: lagged.clone() });
        (inner.last(backlog), Subscription { rows, lagged })
    }

    #[cfg(test)]
    pub(super) fn followers(&self) -> usize {
        self.inner().followers.len()
    }
}

impl Inner {
    fn last(&self, limit: usize) -> Vec<Arc<str>> {
        let skip = self.recent.len().saturating_sub(limit);
        self.recent.iter().skip(skip).cloned().collect()
    }

    fn remember(&mut self, json: &Arc<str>) {
        self.recent.push_back(json.clone());
        self.bytes += json.len();
        while self.recent.len() > REMEMBERED || self.bytes > REMEMBERED_BYTES {
            let Some(old) = self.recent.pop_front() else {
                break;
            };
            self.bytes -= old.len();
        }
    }
}

impl Observer for Arc<Hub> {
    fn row(&self, row: &Row, json: &Arc<str>) {
        let mut inner = self.inner();
        if matches!(row, Row::Alert(_)) {
            inner.remember(json);
        }
        inner.followers.retain(|f| match f.queue.try_send(json.clone()) {
            Ok(()) => true,
            Err(std::sync::mpsc::TrySendError::Full(_)) => {
                f.lagged.store(true, Relaxed);
                false
            }
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => false,
        });
    }
}
