//! From the engine's answers to [`Metadata`]: no I/O.

use super::path;
use crate::container::registry::Metadata;
use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, EventActor, ImageInspect,
};
use std::collections::HashMap;

/// Attributes of an event that are not labels.
const ATTRIBUTES: &[&str] = &["image", "name", "oldName", "exitCode", "signal", "execDuration"];

/// One line of the list.
pub(super) fn summary(summary: ContainerSummary) -> Option<(String, Metadata)> {
    let id = summary.id.filter(|id| path::is_id(id))?;
    // A linked container has further names of the form `/other/alias`.
    let name = summary
        .names
        .unwrap_or_default()
        .into_iter()
        .map(|n| n.trim_start_matches('/').to_owned())
        .find(|n| !n.contains('/'))
        .unwrap_or_default();
    let metadata = Metadata {
        name,
        image: summary.image.unwrap_or_default(),
        image_id: summary.image_id.unwrap_or_default(),
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
        ..Metadata::default()
    };
    Some((id, metadata))
}

/// Has it processes?
pub(super) fn is_running(summary: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
    matches!(summary.state, Some(RUNNING | PAUSED | RESTARTING))
}

/// What an event says about its container.
pub(super) fn actor(actor: EventActor) -> Option<(String, Metadata)> {
    let id = actor.id.filter(|id| path::is_id(id))?;
    let mut attributes: HashMap<String, String> = actor.attributes.unwrap_or_default();
    let name = attributes.remove("name").unwrap_or_default();
    let image = attributes.remove("image").unwrap_or_default();
    attributes.retain(|key, _| !ATTRIBUTES.contains(&key.as_str()));
    let labels = attributes.into_iter().collect();
    Some((id, Metadata { name, image, labels, ..Metadata::default() }))
}

/// An inspected container.
pub(super) fn inspected(answer: ContainerInspectResponse) -> Metadata {
    let config = answer.config.unwrap_or_default();
    Metadata {
        name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        image_id: answer.image.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        ..Metadata::default()
    }
}

/// What an image is known as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageNames {
    id: String,
    repo_digests: Vec<String>,
    references: Vec<String>,
}

/// An inspected image.
pub(super) fn image(answer: ImageInspect) -> ImageNames {
    let repo_digests = answer.repo_digests.unwrap_or_default();
    let mut references = answer.repo_tags.unwrap_or_default();
    references.extend(repo_digests.iter().cloned());
    ImageNames { id: answer.id.unwrap_or_default(), repo_digests, references }
}

/// Puts digest and names of an image into a container's metadata.
pub(super) fn apply_image(metadata: &mut Metadata, image: &ImageNames) {
    if metadata.image_id.is_empty() {
        metadata.image_id.clone_from(&image.id);
    }
    metadata.references.clone_from(&image.references);
    let asked = crate::container::denylist::normalise(&metadata.image);
    let of = |reference: &String| crate::container::denylist::normalise(reference);
    // An image pulled from two registries has a digest of each: the one it was asked for counts.
    let digest = image
        .repo_digests
        .iter()
        .map(of)
        .find(|r| (&r.registry, &r.repository) == (&asked.registry, &asked.repository))
        .or_else(|| image.repo_digests.first().map(of))
        .map(|r| r.digest)
        .unwrap_or_default();
    metadata.digest = if digest.is_empty() { metadata.image_id.clone() } else { digest };
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const ID: &str = "3fa1c6d2b7e84f0a9c5d1e2f3a4b5c6d7e8f90123456789abcdef0123456789a";

    #[test]
    fn an_events_attributes_are_name_image_and_labels() {
        let attributes = [("image", "tomcat:9"), ("name", "web"), ("bulkhead.mode", "protect"), ("exitCode", "0")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let (id, m) = actor(EventActor { id: Some(ID.into()), attributes: Some(attributes.into()) }).unwrap();
        assert_eq!((id.as_str(), m.name.as_str(), m.image.as_str()), (ID, "web", "tomcat:9"));
        assert_eq!(m.labels.into_iter().collect::<Vec<_>>(), [("bulkhead.mode".into(), "protect".into())]);
        assert!(actor(EventActor { id: Some("bridge".into()), attributes: None }).is_none());
    }

    #[test]
    fn a_linked_containers_own_name_is_taken() {
        let s = ContainerSummary {
            id: Some(ID.into()),
            names: Some(vec!["/other/db".into(), "/mysql".into()]),
            ..ContainerSummary::default()
        };
        assert_eq!(summary(s).unwrap().1.name, "mysql");
    }

    #[test]
    fn the_digest_is_of_the_repository_that_was_asked_for() {
        let hex = |c: &str| format!("sha256:{}", c.repeat(64));
        let names = image(ImageInspect {
            id: Some(hex("a")),
            repo_tags: Some(vec!["tomcat:9".into()]),
            repo_digests: Some(vec![format!("mirror.local/tomcat@{}", hex("b")), format!("tomcat@{}", hex("c"))]),
            ..ImageInspect::default()
        });
        let mut m = Metadata { image: "docker.io/library/tomcat:9".into(), ..Metadata::default() };
        apply_image(&mut m, &names);
        assert_eq!((m.digest, m.image_id), (hex("c"), hex("a")));
        assert_eq!(m.references.len(), 3);
        let mut local = Metadata { image: "mine".into(), image_id: hex("d"), ..Metadata::default() };
        apply_image(&mut local, &ImageNames::default());
        assert_eq!(local.digest, hex("d"), "an image that was never pushed has only its id");
    }
}
