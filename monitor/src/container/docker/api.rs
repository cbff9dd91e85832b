//! The engine's API with every wait bounded, and the questions asked of it.

use super::{Settings, describe};
use crate::container::registry::Metadata;
use crate::container::sockets;
use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, StopContainerOptionsBuilder};
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// Why a session with the engine ended.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine or the connection failed.
    #[error("{operation} at {socket}: {source}")]
    Api {
        /// What was asked.
        operation: &'static str,
        /// Of whom.
        socket: PathBuf,
        /// Why.
        source: bollard::errors::Error,
    },
    /// No answer in time.
    #[error("{operation} at {socket}: no answer in {waited:?}")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// Of whom.
        socket: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// The stream of events ended.
    #[error("{socket}: the engine closed the event stream")]
    Closed {
        /// Whose.
        socket: PathBuf,
    },
    /// No runtime for the client.
    #[error("start the client's runtime: {0}")]
    Runtime(std::io::Error),
}

/// A container as a one-time listing tells it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Runtime id.
    pub id: String,
    /// What is known.
    pub metadata: Metadata,
    /// Has processes (running, paused, restarting).
    pub running: bool,
}

/// Asks the engine once for all its containers, stopped ones included, with their images' digests.
///
/// # Errors
/// [`EngineError`] if it cannot be reached or does not answer.
pub fn list_once(settings: &Settings) -> Result<Vec<Listed>, EngineError> {
    super::runtime()?.block_on(async {
        let api = Api::connect(settings).await?;
        let mut images = super::inspect::Images::default();
        let mut all = Vec::new();
        for summary in api.list(true).await? {
            let running = describe::is_running(&summary);
            let Some((id, mut metadata)) = describe::summary(summary) else {
                continue;
            };
            images.complete(&api, &mut metadata).await;
            all.push(Listed { id, metadata, running });
        }
        Ok(all)
    })
}

/// Asks the engine to stop a container: SIGTERM, and SIGKILL after `grace`. Waits for its answer, `grace`
/// longer than for others.
///
/// # Errors
/// [`EngineError`] if it cannot be reached, does not answer, or knows no such container.
pub fn stop_once(settings: &Settings, id: &str, grace: Duration) -> Result<(), EngineError> {
    let settings = Settings { request_timeout: settings.request_timeout + grace, ..settings.clone() };
    super::runtime()?.block_on(async {
        let api = Api::connect(&settings).await?;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        api.ask("stop the container", api.docker.stop_container(id, Some(options))).await
    })
}

/// The engine's API with every wait bounded.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) docker: Docker,
    pub(super) socket: PathBuf,
    timeout: Duration,
}

impl Api {
    pub(super) async fn connect(settings: &Settings) -> Result<Self, EngineError> {
        let socket = sockets::strip_scheme(&settings.socket);
        let seconds = settings.request_timeout.as_secs().max(1);
        let failed = |source| EngineError::Api { operation: "connect", socket: socket.clone(), source };
        let docker = Docker::connect_with_unix(&socket.to_string_lossy(), seconds, bollard::API_DEFAULT_VERSION)
            .map_err(failed)?;
        let timeout = settings.request_timeout;
        let docker = bounded("negotiate", &socket, timeout, docker.negotiate_version()).await?;
        Ok(Self { docker, socket, timeout })
    }

    pub(super) async fn ask<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        bounded(operation, &self.socket, self.timeout, request).await
    }

    pub(super) async fn list(&self, all: bool) -> Result<Vec<bollard::models::ContainerSummary>, EngineError> {
        let options = ListContainersOptionsBuilder::new().all(true);
        let options = if all {
            options
        } else {
            // Stopped ones may be thousands; they announce themselves when they are started.
            let states = ["created", "running", "paused", "restarting"].map(str::to_owned).to_vec();
            options.filters(&HashMap::from([("status".to_owned(), states)]))
        };
        self.ask("list containers", self.docker.list_containers(Some(options.build()))).await
    }
}

async fn bounded<T>(
    operation: &'static str,
    socket: &std::path::Path,
    limit: Duration,
    request: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(EngineError::Api { operation, socket: socket.to_owned(), source }),
        Err(_) => Err(EngineError::Timeout { operation, socket: socket.to_owned(), waited: limit }),
    }
}
