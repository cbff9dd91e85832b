//! Containers without an engine: what a runtime does of a container that matters to a monitor, done by
//! the test harness itself. A cgroup in each hierarchy by which containers are told, namespaces, an
//! overlay over an image's root file system, and programs that come into it from outside, as by a
//! runtime's exec.
//!
//! It needs root. Networks, image stores and `docker run` command lines are the caller's business.

mod cgroup;
mod container;
mod layout;
mod plan;
mod spec;
mod user;

pub use cgroup::{Cgroup, Group};
pub use container::Container;
pub use spec::{Mount, Network, Program, Source, Spec};
pub use user::User;

use std::path::PathBuf;

/// Why a container could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a path.
    #[error("{what} {path}: {source}")]
    Path {
        /// The operation.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A step between fork and exec.
    #[error("{step}: {source}")]
    Step {
        /// The step, as far as it is known.
        step: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The image has no such user.
    #[error("no user {0} in the image")]
    User(String),
    /// A text with a NUL byte, or nothing to run.
    #[error("{0}")]
    Invalid(String),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

fn at<'p>(what: &'static str, path: &'p std::path::Path) -> impl FnOnce(std::io::Error) -> Error + 'p {
    move |source| Error::Path { what, path: path.to_owned(), source }
}
