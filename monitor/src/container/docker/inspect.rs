//! The background task that asks the engine for what an event does not say: the image's digests
//! and other names. One question at a time, a bounded queue.

use super::api::Api;
use super::{Client, describe};
use crate::container::registry::Metadata;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Containers waiting at most. At 5 ms a question, that is a second's work.
const QUEUE: usize = 256;
/// Images remembered. A host runs tens.
const IMAGES: usize = 128;

/// A container to be asked about.
pub(super) struct Job {
    pub(super) id: String,
    /// What is known already.
    pub(super) metadata: Metadata,
}

/// Handle of the task; it ends with the handle.
pub(super) struct Inspector {
    jobs: mpsc::Sender<Job>,
    task: tokio::task::JoinHandle<()>,
}

impl Inspector {
    pub(super) fn start(client: Arc<Client>, api: Api) -> Self {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let task = tokio::spawn(async move {
            let mut images = Images::default();
            while let Some(job) = queue.recv().await {
                let metadata = inspect(&api, job.metadata, &job.id, &mut images).await;
                client.completed(&job.id, metadata);
            }
        });
        Self { jobs, task }
    }

    /// Gives the job back if the queue is full.
    pub(super) fn queue(&self, job: Job) -> Result<(), Box<Job>> {
        self.jobs.try_send(job).map_err(|full| Box::new(full.into_inner()))
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn inspect(api: &Api, mut metadata: Metadata, id: &str, images: &mut Images) -> Metadata {
    if metadata.image_id.is_empty() {
        let question = api.docker.inspect_container(id, None);
        // An error: it is gone already (50 ms lives). What the event said has to do.
        if let Ok(answer) = api.ask("inspect container", question).await {
            let image = std::mem::take(&mut metadata.image);
            metadata = describe::inspected(answer);
            if metadata.image.is_empty() {
                metadata.image = image;
            }
        }
    }
    images.complete(api, &mut metadata).await;
    metadata
}

/// Image names by image id.
#[derive(Default)]
pub(super) struct Images {
    known: HashMap<String, describe::ImageNames>,
}

impl Images {
    /// Adds digest and names of the image, and marks the metadata complete.
    pub(super) async fn complete(&mut self, api: &Api, metadata: &mut Metadata) {
        metadata.complete = true;
        // By id a name that was moved meanwhile does not mislead; only a container that is gone
        // already leaves nothing but the name, and a name is not remembered.
        let by_id = !metadata.image_id.is_empty();
        let question = if by_id { metadata.image_id.clone() } else { metadata.image.clone() };
        if let Some(names) = self.known.get(&question) {
            describe::apply_image(metadata, names);
            return;
        }
        let mut names = describe::ImageNames::default();
        let mut answered = false;
        if !question.is_empty() {
            match api.ask("inspect image", api.docker.inspect_image(&question)).await {
                Ok(answer) => {
                    names = describe::image(answer);
                    answered = true;
                }
                // Deleted under the container: the image id is its digest then.
                Err(error) => tracing::debug!(image = %question, %error, "image not inspected"),
            }
        }
        describe::apply_image(metadata, &names);
        if by_id && answered {
            if self.known.len() >= IMAGES {
                self.known.clear();
            }
            self.known.insert(question, names);
        }
    }
}
