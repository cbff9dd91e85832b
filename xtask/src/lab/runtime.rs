//! What the lab asks of whatever makes its containers: [`super::docker`], or [`super::bare`] where there
//! is no engine.

use super::container::{Container, Recipe};
use super::process::Finished;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A Docker engine of the lab's own.
    #[default]
    Docker,
    /// No engine: cgroups, namespaces and overlays made by the runner itself.
    Bare,
}

/// Makes containers and runs programs in them.
pub trait Runtime: Send + Sync {
    /// Why a container for `recipe` cannot be made here, if it cannot.
    fn refuses(&self, recipe: &Recipe) -> Option<String>;
    /// Makes and starts a container.
    fn run(&self, recipe: &Recipe) -> Result<Container>;
    /// Runs shell text in it from outside.
    fn exec(&self, container: &Container, user: &str, script: &str, limit: Duration) -> Result<Finished>;
    /// Whether `path` exists in it, links resolved as the container would.
    fn exists(&self, container: &Container, path: &str) -> bool;
    /// Removes it with everything in it.
    fn remove(&self, container: &Container) -> Result<()>;
    /// The images.
    fn images(&self) -> &dyn Store;
    /// The API socket that tells a monitor of containers; `None` without an engine.
    fn api_socket(&self) -> Option<PathBuf>;
}

/// Settings of an image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// `KEY=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// What runs if nothing else is asked for.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
}

/// Images by reference, `PREFIX/NAME:HASH`.
pub trait Store {
    /// Is it there?
    fn has(&self, reference: &str) -> bool;
    /// Its settings.
    fn settings(&self, reference: &str) -> Result<Settings>;
    /// Its files, into the empty folder `root`.
    fn unpack(&self, reference: &str, root: &Path) -> Result<()>;
    /// Makes the folder `root` an image; the folder may be used up.
    fn keep(&self, root: &Path, reference: &str, settings: &Settings) -> Result<()>;
    /// Forgets what earlier definitions left under the name of `reference`.
    fn forget_older(&self, reference: &str);
    /// A copy of `image` under the name of `reference`, an image of its own.
    fn copy(&self, image: &str, reference: &str) -> Result<()>;
    /// Forgets one.
    fn forget(&self, reference: &str);
}
