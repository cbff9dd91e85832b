//! Is an image on the denylist? References come in many spellings; they are brought into one
//! before they are compared.

use super::registry::Metadata;
use crate::event::ProcessKey;
use crate::finding::{Detection, FindingKind};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// An image reference taken apart, all lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Registry host, empty for Docker Hub.
    pub registry: String,
    /// Repository (`docker123321/mysql`; Docker Hub's own images without `library/`).
    pub repository: String,
    /// Tag, empty if none was given.
    pub tag: String,
    /// Digest (`sha256:…`), empty if none was given.
    pub digest: String,
}

/// Spellings of Docker Hub.
const HUB: &[&str] =
    &["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"];

/// Takes an image reference apart.
pub fn normalise(reference: &str) -> Reference {
    let text = reference.trim().to_ascii_lowercase();
    let text =
        ["docker://", "https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(&text);
    if is_digest(text) {
        return Reference { digest: text.to_owned(), ..Reference::default() };
    }
    let (name, digest) = text.split_once('@').unwrap_or((text, ""));
    // A colon after the last slash is a tag; one before it is the registry's port.
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match name.get(slash..).and_then(|last| last.find(':')) {
        Some(colon) => name.split_at(slash + colon),
        None => (name, ""),
    };
    let (registry, path) = match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("", name),
    };
    let hub = registry.is_empty() || HUB.contains(&registry);
    let path = if hub { path.strip_prefix("library/").unwrap_or(path) } else { path };
    Reference {
        registry: if hub { String::new() } else { registry.to_owned() },
        repository: path.to_owned(),
        tag: tag.trim_start_matches(':').to_owned(),
        digest: digest.to_owned(),
    }
}

/// Names that a glob over image references is compared with: as given, and in normal form without and with the tag.
pub fn spellings(image: &str) -> [String; 3] {
    let parts = normalise(image);
    let repository = match parts.registry.as_str() {
        "" => parts.repository,
        registry => format!("{registry}/{}", parts.repository),
    };
    let tag = if parts.tag.is_empty() { "latest" } else { &parts.tag };
    let tagged = format!("{repository}:{tag}");
    [image.to_owned(), repository, tagged]
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Which entry matched what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The entry, as given.
    pub entry: String,
    /// The reference or digest it matched.
    pub subject: String,
}

/// Why an entry is refused.
#[derive(Debug, thiserror::Error)]
pub enum DenylistError {
    /// Not a glob.
    #[error("image denylist entry `{entry}`: {source}")]
    Glob {
        /// The entry.
        entry: String,
        /// Why.
        source: globset::Error,
    },
    /// Neither `sha256:` nor 64 hex digits.
    #[error("image denylist digest `{entry}`: not `sha256:` and 64 hex digits")]
    Digest {
        /// The entry.
        entry: String,
    },
}

/// The compiled list.
#[derive(Clone, Debug, Default)]
pub struct Denylist {
    /// As given, and what they match.
    entries: Vec<String>,
    globs: GlobSet,
    /// Places of those without a `/`.
    plain: Vec<usize>,
    digests: Vec<String>,
}

impl Denylist {
    /// Compiles image globs (`docker123321/*`, `tomcat:evil`, `ghcr.io/bad/**`) and digests.
    ///
    /// A glob with a `/` matches at any component boundary of a reference, so that a mirror's
    /// prefix does not hide the image. A glob without one means Docker Hub's own image of that
    /// name only, or every mirror of `tomcat` would be meant with it. A glob without a tag matches
    /// every tag.
    ///
    /// # Errors
    /// [`DenylistError`] names the entry that cannot be compiled.
    pub fn new<S: AsRef<str>>(images: &[S], digests: &[S]) -> Result<Self, DenylistError> {
        let entries: Vec<String> = images.iter().map(|entry| entry.as_ref().to_owned()).collect();
        let (mut globs, mut plain) = (GlobSetBuilder::new(), Vec::new());
        for (place, entry) in entries.iter().enumerate() {
            let lower = entry.trim().to_ascii_lowercase();
            let glob = HUB.iter().find_map(|hub| lower.strip_prefix(hub)?.strip_prefix('/')).unwrap_or(&lower);
            let glob = glob.strip_prefix("library/").unwrap_or(glob);
            let built = GlobBuilder::new(glob).literal_separator(false).build();
            globs.add(built.map_err(|source| DenylistError::Glob { entry: entry.clone(), source })?);
            plain.extend(Some(place).filter(|_| !glob.contains('/')));
        }
        let globs = globs.build().map_err(|source| DenylistError::Glob { entry: entries.join("`, `"), source })?;
        let digest = |entry: &S| {
            let lower = entry.as_ref().trim().to_ascii_lowercase();
            let full = if lower.starts_with("sha256:") { lower } else { format!("sha256:{lower}") };
            if is_digest(&full) { Ok(full) } else { Err(DenylistError::Digest { entry: entry.as_ref().to_owned() }) }
        };
        Ok(Self { entries, globs, plain, digests: digests.iter().map(digest).collect::<Result<_, _>>()? })
    }

    /// Is there nothing on it?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.digests.is_empty()
    }

    /// The entry that matches one reference.
    pub fn check(&self, reference: &str) -> Option<Match> {
        let parts = normalise(reference);
        let found = |entry: &String| Match { entry: entry.clone(), subject: reference.to_owned() };
        if let Some(digest) = self.digests.iter().find(|d| **d == parts.digest) {
            return Some(found(digest));
        }
        if parts.repository.is_empty() {
            return None;
        }
        self.first_match(&parts).map(|place| found(&self.entries[place]))
    }

    /// The entry that matches a container: by the reference it was made from, any other name of
    /// its image (a local `docker tag` does not hide it), or its digests.
    pub fn check_container(&self, metadata: &Metadata) -> Option<Match> {
        [&metadata.image, &metadata.digest, &metadata.image_id]
            .into_iter()
            .chain(metadata.references.iter().filter(|reference| **reference != metadata.image))
            .filter(|text| !text.is_empty())
            .find_map(|text| self.check(text))
    }

    /// The first entry whose glob matches the repository, or what stands behind one of its slashes, without or with
    /// the tag.
    fn first_match(&self, parts: &Reference) -> Option<usize> {
        let full = match parts.registry.as_str() {
            "" => parts.repository.clone(),
            registry => format!("{registry}/{}", parts.repository),
        };
        let tag = if parts.tag.is_empty() { "latest" } else { &parts.tag };
        let tagged = format!("{full}:{tag}");
        let of_hub = parts.registry.is_empty() && !full.contains('/');
        let starts = std::iter::once(0).chain(full.match_indices('/').map(|(at, _)| at + 1));
        let names = starts.flat_map(|at| [full.get(at..), tagged.get(at..)]).flatten();
        let places = names.flat_map(|name| self.globs.matches(name));
        places.filter(|place| of_hub || !self.plain.contains(place)).min()
    }
}

/// The detection for a container made from a listed image. There is no process to blame, and
/// stopping a container is for its owner: it alerts only.
pub fn detection(metadata: &Metadata, found: &Match) -> Detection {
    let message = format!("made from {}, which is on the image denylist", metadata.image);
    let detail = format!("{} matches `{}`", found.subject, found.entry);
    let kind = FindingKind::ImageDenylist;
    let mut detection = Detection::new(kind, ProcessKey::default(), message).with(0, "image_reference", 0, detail);
    detection.alert_only = true;
    detection
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:3fa1c6d2b7e84f0a9c5d1e2f3a4b5c6d7e8f90123456789abcdef0123456789a";

    fn list(images: &[&str]) -> Denylist {
        Denylist::new(images, &[]).unwrap()
    }

    /// Corpus SC-07: every spelling that exact-name lists miss.
    #[test]
    fn docker123321_under_any_spelling() {
        let d = list(&["docker123321/*"]);
        for image in [
            "docker123321/mysql5",
            "docker123321/tomcat11:latest",
            "docker123321/cron",
            "docker.io/docker123321/mysql",
            "index.docker.io/docker123321/mysql:5.7",
            "registry-1.docker.io/docker123321/mysql",
            "DOCKER123321/MySQL",
            "mirror.local/docker123321/mysql",
            "mirror.local:5000/docker123321/mysql:1",
            "mirror.local:5000/proxy/docker.io/docker123321/mysql",
            "localhost/docker123321/mysql",
            &format!("docker123321/mysql@{DIGEST}"),
            &format!("docker.io/docker123321/mysql:x@{DIGEST}"),
            " docker123321/tomcat11 ",
        ] {
            assert!(d.check(image).is_some(), "{image}");
        }
        for image in [
            "mysql",
            "tomcat:9",
            "library/mysql",
            "notdocker123321/mysql",
            "docker123321x/mysql",
            "docker123321",
            "example/docker123321",
            "docker123321.example.com/mysql",
            "",
            DIGEST,
        ] {
            assert_eq!(d.check(image), None, "{image}");
        }
    }

    #[test]
    fn globs_with_tags_registries_and_official_names() {
        assert!(list(&["tomcat:evil"]).check("docker.io/library/tomcat:evil").is_some());
        assert!(list(&["tomcat:evil"]).check("tomcat:9").is_none());
        assert!(list(&["tomcat"]).check("tomcat:9").is_some());
        assert!(list(&["tomcat"]).check("ghcr.io/me/tomcat:9").is_none());
        assert!(list(&["nginx:latest"]).check("nginx").is_some());
        assert!(list(&["ghcr.io/bad/*"]).check("ghcr.io/bad/a").is_some());
        assert!(list(&["ghcr.io/bad/*"]).check("bad/a").is_none());
        assert!(list(&["docker.io/docker123321/*"]).check("docker123321/a").is_some());
    }

    #[test]
    fn digests_and_other_names_of_the_image() {
        let d = Denylist::new(&["docker123321/*"], &[DIGEST]).unwrap();
        assert!(d.check(&format!("innocent/name@{DIGEST}")).is_some());
        let by_id = Metadata { image: "innocent".into(), image_id: DIGEST.into(), ..Metadata::default() };
        assert_eq!(d.check_container(&by_id).unwrap().entry, DIGEST);
        let retagged = Metadata {
            image: "innocent".into(),
            references: vec!["docker123321/mysql:latest".into()],
            ..Metadata::default()
        };
        assert_eq!(d.check_container(&retagged).unwrap().entry, "docker123321/*");
        assert_eq!(d.check_container(&Metadata::default()), None);
        let told = detection(&retagged, &d.check_container(&retagged).unwrap());
        assert!(told.alert_only && told.evidence[0].detail.contains("docker123321/mysql:latest"));
    }

    #[test]
    fn bad_entries_are_named() {
        assert!(Denylist::new(&["a/[b"], &[]).unwrap_err().to_string().contains("a/[b"));
        assert!(Denylist::new(&[], &["sha256:12"]).unwrap_err().to_string().contains("sha256:12"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,120}") {
            let _ = list(&["docker123321/*"]).check(&text);
        }

        #[test]
        fn any_mirror_prefix(host in "[a-z]{1,9}\\.[a-z]{2,4}(:[0-9]{2,4})?", path in "(/[a-z0-9]{1,6}){0,3}", tag in "(:[a-z0-9.]{1,8})?") {
            let image = format!("{host}{path}/docker123321/mysql{tag}");
            prop_assert!(list(&["docker123321/*"]).check(&image).is_some(), "{}", image);
        }
    }
}
