//! Why the demo could not be shown.

use super::super::{CliError, Exit};
use crate::container::hierarchy::HierarchyError;
use std::io;

/// Why there was no demo, or only half of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// Something the operating system was asked for.
    #[error("{what}: {source}")]
    Step {
        /// What was tried, with its object.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A signal asked for the end.
    #[error("stopped by {0}; what the demo had made is removed")]
    Interrupted(&'static str),
    /// The attacks are played with bash.
    #[error("the demo plays its attacks with bash, and there is none on this host")]
    NoBash,
    /// No cgroup hierarchy tells containers apart here.
    #[error(transparent)]
    Hierarchy(HierarchyError),
    /// The monitor did not start or did not stay.
    #[error("the monitor {how}:\n{said}")]
    Monitor {
        /// Its exit status, which becomes the demo's.
        exit: Exit,
        /// What became of it.
        how: String,
        /// What it said last.
        said: String,
    },
    /// The container's own half failed.
    #[error("the demo's container: {0}")]
    Container(String),
}

impl From<DemoError> for CliError {
    fn from(error: DemoError) -> Self {
        let exit = match &error {
            DemoError::Monitor { exit, .. } => *exit,
            DemoError::Hierarchy(_) => Exit::Kernel,
            _ => Exit::Failure,
        };
        Self::new(exit, error.to_string())
    }
}

/// Names the operation that failed.
pub(super) trait Doing<T> {
    /// `what` was tried.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, DemoError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, DemoError> {
        self.map_err(|source| DemoError::Step { what: what(), source: source.into() })
    }
}
