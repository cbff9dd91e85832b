//! Images as data: `tests/images/NAME.toml` says what is in one, its content hash is its tag, and
//! what is tagged already is not built again.

mod build;
mod definition;
pub mod rootfs;

pub use build::subject;
pub use definition::Definition;

use super::engine::Engine;
use crate::workspace;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Repository part of every image of the lab.
const PREFIX: &str = "bulkhead-lab";

/// In a folder of prebuilt things: image names, each with its reference or the reason why there is none.
pub const LIST: &str = "images.json";

/// Changes when the way images are built changes, so that all are built anew.
const BUILD_VERSION: &str = "1";

/// Finds, builds and remembers images.
pub struct Images {
    folders: Vec<PathBuf>,
    /// Reference, or why there is none; a failed build is not tried twice in a run.
    known: HashMap<String, Result<String, String>>,
}

impl Images {
    /// `extra` folders are looked into before the repository's own.
    pub fn new(extra: &[PathBuf]) -> Self {
        let mut folders = extra.to_vec();
        folders.push(workspace::root().join("tests/images"));
        Self { folders, known: HashMap::new() }
    }

    /// Reference of image `name`, built if it is missing; the error says why it cannot be.
    pub fn reference(&mut self, engine: &Engine, name: &str) -> Result<String, String> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let result = match engine.prebuilt() {
            Some(folder) => listed(folder, name),
            None => self.make(engine, name, 0).map_err(|error| format!("{error:#}")),
        };
        if !engine.interrupt().is_set() {
            self.known.insert(name.to_owned(), result.clone());
        }
        result
    }

    fn make(&self, engine: &Engine, name: &str, depth: u32) -> Result<String> {
        // A chain of images made from each other is short; a circle has no end.
        if depth > 8 {
            bail!("image {name}: its `base` leads back to itself");
        }
        let (definition, folder) = self.definition(name)?;
        let base_image = match definition.base_image() {
            Some(base) => Some(self.make(engine, base, depth + 1)?),
            None => None,
        };
        let files = build::gather(engine, &definition, &folder)?;
        let tag = tag(name, &definition, base_image.as_deref(), &files);
        if !engine.runtime().images().has(&tag) {
            eprintln!("lab: building image {name} {}", definition.description);
            build::build(engine, &definition, base_image.as_deref(), &files, &tag)
                .with_context(|| format!("building image {name}"))?;
            engine.runtime().images().forget_older(&tag);
        }
        Ok(tag)
    }

    fn definition(&self, name: &str) -> Result<(Definition, PathBuf)> {
        for folder in &self.folders {
            let path = folder.join(format!("{name}.toml"));
            if path.exists() {
                return Ok((Definition::read(&path)?, folder.clone()));
            }
        }
        let looked: Vec<_> = self.folders.iter().map(|f| f.display().to_string()).collect();
        bail!("no {name}.toml in {}", looked.join(" or "))
    }
}

/// Image `name` of the list of what was built elsewhere.
fn listed(folder: &Path, name: &str) -> Result<String, String> {
    let read = || -> Result<HashMap<String, Result<String, String>>> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(LIST))?)?)
    };
    let mut list = read().map_err(|error| format!("{LIST}: {error:#}"))?;
    list.remove(name).unwrap_or_else(|| Err(format!("image {name} was not brought along")))
}

fn tag(name: &str, definition: &Definition, base: Option<&str>, files: &[build::ReadyFile]) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        // With its length, so that no two lists of parts run together to the same bytes.
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(BUILD_VERSION.as_bytes());
    add(format!("{definition:?}").as_bytes());
    add(base.unwrap_or_default().as_bytes());
    for file in files {
        add(file.path.as_bytes());
        add(&file.content);
    }
    let digest = hash.finalize();
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}/{name}:{hex}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_tag_follows_the_content() {
        let definition: Definition = toml::from_str("base = 'busybox'").unwrap();
        let file = |content: &str| build::ReadyFile { path: "/x".into(), mode: 0o644, content: content.into() };
        let one = tag("n", &definition, None, &[file("a")]);
        assert_eq!(one, tag("n", &definition, None, &[file("a")]));
        assert_ne!(one, tag("n", &definition, None, &[file("b")]));
        assert_ne!(one, tag("n", &definition, Some("x"), &[file("a")]));
        assert!(one.starts_with("bulkhead-lab/n:"));
    }
}
