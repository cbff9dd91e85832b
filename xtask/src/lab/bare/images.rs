//! Images as folders: `NAME-HASH/rootfs` and `NAME-HASH/image.json`.

use super::super::process::{self, Interrupt};
use super::super::runtime::{Settings, Store};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Copying an image's files.
const COPY_LIMIT: Duration = Duration::from_secs(600);

/// The folder of all images.
pub struct Images {
    folder: PathBuf,
}

impl Images {
    /// In this folder, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// An image's files.
    pub fn root(&self, reference: &str) -> PathBuf {
        self.of(reference).join("rootfs")
    }

    fn of(&self, reference: &str) -> PathBuf {
        self.folder.join(folder_name(reference))
    }
}

/// `PREFIX/NAME:HASH` as a folder's name, without what an overlay's options cannot carry.
pub fn folder_name(reference: &str) -> String {
    reference.rsplit('/').next().unwrap_or_default().replace(':', "-")
}

impl Store for Images {
    fn has(&self, reference: &str) -> bool {
        self.of(reference).join("image.json").exists()
    }

    fn settings(&self, reference: &str) -> Result<Settings> {
        let path = self.of(reference).join("image.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    fn unpack(&self, reference: &str, root: &Path) -> Result<()> {
        let mut command = Command::new("cp");
        command.args(["-a", "--reflink=auto"]).arg(self.root(reference).join(".")).arg(root);
        process::must(&mut command, COPY_LIMIT, &Interrupt::default()).map(|_output| ())
    }

    fn keep(&self, root: &Path, reference: &str, settings: &Settings) -> Result<()> {
        let image = self.of(reference);
        if image.exists() {
            // Half of one, of a run that was killed.
            fs::remove_dir_all(&image).with_context(|| format!("removing {}", image.display()))?;
        }
        fs::create_dir_all(&image).with_context(|| format!("making {}", image.display()))?;
        for folder in ["dev", "proc", "sys"] {
            let folder = root.join(folder);
            let _absent = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder)?;
        }
        fs::rename(root, image.join("rootfs")).with_context(|| format!("keeping {}", root.display()))?;
        fs::write(image.join("image.json"), serde_json::to_vec_pretty(settings)?).context("keeping the settings")
    }

    fn forget_older(&self, reference: &str) {
        let keep = folder_name(reference);
        let Some((name, _hash)) = keep.rsplit_once('-') else { return };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            if other != keep && other.rsplit_once('-').is_some_and(|(known, _)| known == name) {
                let _in_use = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn copy(&self, _image: &str, reference: &str) -> Result<()> {
        bail!("{reference}: without an engine an image has no name")
    }

    fn forget(&self, _reference: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_plain_names() {
        assert_eq!(folder_name("bulkhead-lab/debian-tools:0123abcd"), "debian-tools-0123abcd");
    }
}
