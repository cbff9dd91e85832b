//! Typed configuration. One declaration a key gives its type, default, rules and documentation
//! (`doc`); unknown keys, wrong types, bad globs and networks are errors that name file, line and
//! key. Reading has no side effects, so that `validate` and a reload are safe.

mod actions;
mod check;
pub mod data;
pub mod doc;
pub(crate) mod error;
pub mod exception;
pub mod sample;
mod sections;
pub mod value;

pub use actions::Actions;
pub use data::Lists;
pub use error::ConfigError;
pub use exception::{ExceptionRule, Subject, Who};
pub use sections::{
    Baseline, Control, DaemonExit, Data, DoorKind, Drift, DriftLock, Engine, Format, Host, ImageRule, Images, Kernel,
    Level, Log, Miner, Mode, Output, Pins, Promote, RuntimeExec, Scope, Sensitive,
};

use serde::{Deserialize, Serialize};
use std::path::Path;

doc::section! {
    /// Keys outside of any table.
    Config {
        /// What Bulkhead does in containers that nothing below names: `monitor` (alerts, touches nothing),
        /// `protect` (acts as `[actions]` says) or `off`. A container's label `bulkhead.mode` comes first,
        /// then `[[image]]`, then this.
        mode: Mode = Mode::Monitor;
        /// A program that is not part of its image: `evidence` for other findings, or an `alert` of its own.
        /// A container's label `bulkhead.drift` comes first.
        drift: Drift = Drift::Evidence;
        /// What becomes of enforcement when the daemon is not there, because it was stopped or killed: `keep`
        /// (it goes on, and the next daemon reads what happened meanwhile; `bulkhead unload` ends it) or
        /// `release` (a daemon that is stopped removes it, and one that was killed leaves it for no longer
        /// than `pins.heartbeat_limit_s`).
        on_daemon_exit: DaemonExit = DaemonExit::Keep;
        /// Modes by image.
        image: Vec<ImageRule> = Vec::new();
        /// What is expected although it looks like an attack.
        exception: Vec<ExceptionRule> = Vec::new();
        /// Actions by finding kind.
        actions: Actions = Actions::default();
        /// Where actions are allowed.
        scope: Scope = Scope::default();
        /// The host itself.
        host: Host = Host::default();
        /// Container engines.
        engine: Engine = Engine::default();
        /// The programs in the kernel.
        kernel: Kernel = Kernel::default();
        /// What containers are expected to do.
        baseline: Baseline = Baseline::default();
        /// Where alerts go.
        output: Output = Output::default();
        /// What outlives the daemon, and where.
        pins: Pins = Pins::default();
        /// The control socket.
        control: Control = Control::default();
        /// Miners.
        miner: Miner = Miner::default();
        /// Images nobody should run.
        images: Images = Images::default();
        /// Files whose writing is persistence.
        sensitive: Sensitive = Sensitive::default();
        /// Replacements of the built-in lists.
        data: Data = Data::default();
        /// The daemon's log.
        log: Log = Log::default();
    }
}

/// A configuration and the lists it names, read together: what the daemon works from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Built-in lists, files and the extras of the configuration, put together.
    pub lists: Lists,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has a key or value that is not accepted.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        Self::parse(path, &text)
    }

    /// Checks `text`; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = error::parse(path, text)?;
        check::across(&config, path, text)?;
        Ok(config)
    }
}

impl Loaded {
    /// Reads a configuration and every list it names.
    ///
    /// # Errors
    /// As [`Config::load`], for any of the files.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config = Config::load(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let lists = Lists::assemble(&config, folder)?;
        Ok(Self { config, lists })
    }

    /// Without a file: the defaults.
    ///
    /// # Errors
    /// None in a binary whose tests pass: the built-in lists are part of it.
    pub fn builtin() -> Result<Self, ConfigError> {
        let config = Config::default();
        let lists = Lists::assemble(&config, Path::new("."))?;
        Ok(Self { config, lists })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}

#[cfg(test)]
mod tests;
