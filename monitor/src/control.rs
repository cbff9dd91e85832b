//! The control socket: root asks the running daemon for its state and its alerts, and gives orders. One request a
//! connection, one line of JSON; answers are lines of JSON. The daemon never waits for a client.

mod hub;
mod server;

pub use hub::Hub;
pub use server::{Answers, Server};

use crate::response::Deed;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

/// Where the socket is unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bulkhead/control.sock";

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Rows from now on, until either side hangs up.
    Events {
        /// Alerts of the past to begin with, at most.
        #[serde(default)]
        backlog: usize,
    },
    /// One object about the daemon.
    Status,
    /// Stop reading, write what is there, end, and leave everything attached: a new daemon is here.
    Handover,
    /// A recording from now on ([`crate::recording`]), until the client hangs up.
    Record {
        /// Only what this container does: its name, its id, or the beginning of its id.
        container: Option<String>,
        /// What the host does is left out.
        #[serde(default)]
        no_host: bool,
    },
    /// The alerts of this run that are still remembered.
    Findings,
    /// Do something to a container.
    Order {
        /// What.
        order: Deed,
        /// Its name, its id, or the beginning of its id.
        container: String,
    },
}

/// An order on its way to who carries it out.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub deed: Deed,
    /// To which container, as the client put it.
    pub container: String,
    /// Who gives it.
    pub uid: u32,
    /// In which process.
    pub pid: u32,
    /// Where the answer goes.
    pub answer: SyncSender<Answer>,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It is done.
    Done {
        /// In a sentence.
        done: String,
    },
    /// No container, or more than one, is meant.
    Unknown {
        /// In a sentence.
        unknown: String,
    },
    /// It was refused or failed.
    Refused {
        /// Why.
        error: String,
    },
}

/// Why the control socket did not do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no daemon answers at {}: {source} (start it with `bulkhead run`)", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The conversation broke.
    #[error("control socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The daemon said no.
    #[error("the daemon answered: {0}")]
    Refused(String),
    /// Another daemon has the socket.
    #[error("another daemon answers at {}; stop it first or set control.socket", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
}

/// Sends a request; the answer is read line by line from what is returned.
///
/// # Errors
/// Nobody listens, or the request cannot be sent.
pub fn ask(path: &Path, request: Request) -> Result<impl BufRead + use<>, ControlError> {
    connect(path, request).map(BufReader::new)
}

/// Sends a request; the answer is read from what is returned.
///
/// # Errors
/// Nobody listens, or the request cannot be sent.
pub fn connect(path: &Path, request: Request) -> Result<UnixStream, ControlError> {
    let mut stream = UnixStream::connect(path).map_err(|source| ControlError::Absent { path: path.into(), source })?;
    let io = |source: std::io::Error| ControlError::Io { path: path.into(), source };
    let mut line = serde_json::to_string(&request).map_err(|e| io(e.into()))?;
    line.push('\n');
    match stream.write_all(line.as_bytes()) {
        // A daemon that turns us away says why and hangs up without waiting for the question.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.map_err(io)?,
    }
    Ok(stream)
}

/// The text of an error answer, if `line` is one.
pub fn refusal(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Refusal {
        error: String,
    }
    serde_json::from_str::<Refusal>(line).ok().map(|r| r.error)
}

#[cfg(test)]
mod tests;
