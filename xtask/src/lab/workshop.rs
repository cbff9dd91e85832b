//! Where root file systems are made: the cache, scratch folders in it, and a flag that ends the work.
//! Needs no engine.

use super::process::Interrupt;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A place to build in.
#[derive(Clone)]
pub struct Workshop {
    cache: PathBuf,
    scratch: PathBuf,
    interrupt: Interrupt,
}

impl Workshop {
    /// In this cache folder; `scratch` is emptied by whoever owns the cache.
    pub fn new(cache: &Path, scratch: &Path, interrupt: &Interrupt) -> Self {
        Self { cache: cache.to_owned(), scratch: scratch.to_owned(), interrupt: interrupt.clone() }
    }

    /// The cache folder, kept between runs.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The interrupt flag of this run.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// A fresh folder, gone with the run.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("emptying {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }
}
