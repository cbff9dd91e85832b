//! What Docker (or Podman's compatible API) knows about containers, brought into the [`Registry`].
//!
//! One thread of its own: lists once, then follows the event stream. It is never asked about a
//! kernel event, and nothing waits for it: an engine that is slow, absent or restarted costs
//! metadata, never events. What the event itself says (name, image, labels) is taken at once, so a
//! container that lived 50 ms is named even if it is gone before it can be inspected; the image's
//! digests follow from an inspection in the background.
//!
//! Metadata may come before the container's cgroup. It is then there when the cgroup is announced,
//! and no [`Notice::Completed`] is sent for it: whoever registers a cgroup looks at
//! `metadata.complete` itself.

mod api;
mod describe;
mod inspect;

use super::path;
use super::registry::{Metadata, Registry};
use crate::event::ContainerKey;
use api::Api;
pub use api::{EngineError, Listed, list_once, stop_once};
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// First wait before connecting again; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// How to reach the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its unix socket, with or without `unix://`.
    pub socket: PathBuf,
    /// Longest wait for one answer.
    pub request_timeout: Duration,
    /// Longest wait before connecting again.
    pub max_backoff: Duration,
}

impl Settings {
    /// The usual waits: 10 s for an answer (an engine that prunes takes seconds), 30 s between
    /// attempts.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), request_timeout: Duration::from_secs(10), max_backoff: Duration::from_secs(30) }
    }
}

/// What the pipeline is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This container's metadata is complete now: amend what was said about it.
    Completed(ContainerKey),
    /// The engine answers (again). Its sockets may have new inodes.
    Connected {
        /// Where it keeps images, containers and volumes.
        data_root: Option<String>,
    },
}

/// Counters.
#[derive(Debug, Default)]
pub struct Stats {
    /// The event stream is open.
    pub connected: AtomicBool,
    /// Containers whose metadata was completed.
    pub completed: AtomicU64,
    /// Notices that found the pipeline's queue full.
    pub notices_dropped: AtomicU64,
    /// Containers that were not inspected because too many were waiting; they have no digest.
    pub inspections_dropped: AtomicU64,
    /// Times the connection was made.
    pub connections: AtomicU64,
}

/// The running thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct Engine {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
    stats: Arc<Stats>,
}

impl Engine {
    /// Its counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The thread may have ended already.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine client's thread panicked");
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// The thread or its runtime cannot be made. An absent engine is no error.
pub fn start(settings: Settings, registry: Registry, notices: SyncSender<Notice>) -> Result<Engine, EngineError> {
    let runtime = runtime()?;
    let (stop, stopped) = watch::channel(false);
    let stats = Arc::new(Stats::default());
    let client = Client { settings, registry, notices, stats: Arc::clone(&stats) };
    let thread = std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || runtime.block_on(client.run(stopped)))
        .map_err(EngineError::Runtime)?;
    Ok(Engine { stop, thread: Some(thread), stats })
}

fn runtime() -> Result<tokio::runtime::Runtime, EngineError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EngineError::Runtime)
}

struct Client {
    settings: Settings,
    registry: Registry,
    notices: SyncSender<Notice>,
    stats: Arc<Stats>,
}

impl Client {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let client = Arc::new(self);
        let mut backoff = BACKOFF_MIN;
        // One line when the engine goes, one when it comes back; not one an attempt.
        let mut reported = false;
        loop {
            let before = client.stats.connections.load(Ordering::Relaxed);
            let ended = tokio::select! {
                _ = stopped.changed() => return,
                ended = Arc::clone(&client).session() => ended,
            };
            client.stats.connected.store(false, Ordering::Relaxed);
            if client.stats.connections.load(Ordering::Relaxed) != before {
                backoff = BACKOFF_MIN;
                reported = false;
            }
            if !reported {
                tracing::warn!(error = %ended, "container engine not reachable: names and images will be missing until it is");
                reported = true;
            }
            tokio::select! {
                _ = stopped.changed() => return,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(client.settings.max_backoff);
        }
    }

    /// From connecting to losing the engine.
    async fn session(self: Arc<Self>) -> EngineError {
        match self.follow().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow(self: &Arc<Self>) -> Result<std::convert::Infallible, EngineError> {
        let api = Api::connect(&self.settings).await?;
        // Events since just before the list, so that nothing falls between the two; what comes
        // twice changes nothing. The engine is on this host and has its clock.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let info = api.ask("info", api.docker.info()).await?;
        let inspector = inspect::Inspector::start(Arc::clone(self), api.clone());
        for summary in api.list(false).await? {
            if let Some((id, metadata)) = describe::summary(summary) {
                self.note(&id, metadata, &inspector);
            }
        }
        self.stats.connections.fetch_add(1, Ordering::Relaxed);
        self.stats.connected.store(true, Ordering::Relaxed);
        tracing::info!(socket = %api.socket.display(), version = info.server_version.as_deref().unwrap_or(""), "container engine connected");
        self.notify(Notice::Connected { data_root: info.docker_root_dir });

        let actions = ["create", "start", "destroy", "rename"].map(str::to_owned).to_vec();
        let filters = HashMap::from([("type".to_owned(), vec!["container".to_owned()]), ("event".to_owned(), actions)]);
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        let mut events = Box::pin(api.docker.events(Some(options)));
        while let Some(event) = events.next().await {
            let event =
                event.map_err(|source| EngineError::Api { operation: "events", socket: api.socket.clone(), source })?;
            self.on_event(event, &inspector);
        }
        Err(EngineError::Closed { socket: api.socket })
    }

    fn on_event(&self, event: EventMessage, inspector: &inspect::Inspector) {
        let action = event.action.unwrap_or_default();
        let Some((id, metadata)) = event.actor.and_then(describe::actor) else {
            return;
        };
        match action.as_str() {
            "create" | "start" if !self.registry.is_complete(&id) => self.note(&id, metadata, inspector),
            "rename" => {
                let complete = self.registry.is_complete(&id);
                self.completed(&id, Metadata { name: metadata.name, complete, ..Metadata::default() });
            }
            "destroy" => self.registry.abandon(&id),
            _ => {}
        }
    }

    /// Takes what is known now and queues the rest.
    fn note(&self, id: &str, metadata: Metadata, inspector: &inspect::Inspector) {
        let job = inspect::Job { id: id.to_owned(), metadata: metadata.clone() };
        self.registry.complete(id, metadata);
        if let Err(job) = inspector.queue(job) {
            self.stats.inspections_dropped.fetch_add(1, Ordering::Relaxed);
            self.completed(&job.id, Metadata { complete: true, ..job.metadata });
        }
    }

    /// Hands finished metadata over.
    fn completed(&self, id: &str, metadata: Metadata) {
        let complete = metadata.complete;
        let key = self.registry.complete(id, metadata);
        if complete {
            self.stats.completed.fetch_add(1, Ordering::Relaxed);
            if let Some(key) = key {
                self.notify(Notice::Completed(key));
            }
        }
    }

    fn notify(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.stats.notices_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "docker/fault_tests.rs"]
mod fault_tests;
