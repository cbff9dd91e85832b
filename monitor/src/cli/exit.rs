//! Exit statuses, and the error that carries one.

use crate::config::ConfigError;
use crate::control::ControlError;
use std::fmt;

/// How the program ends. The numbers are a contract (sysexits.h where it has a name for it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Fine.
    Ok = 0,
    /// A failure while running; for `audit`, something was found.
    Failure = 1,
    /// Bad arguments or configuration (`EX_USAGE`).
    Usage = 64,
    /// The kernel lacks something (`EX_UNAVAILABLE`).
    Kernel = 69,
    /// Missing privilege (`EX_NOPERM`).
    Privilege = 77,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a subcommand did not do what it should, and the status to end with.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    message: String,
}

/// What a subcommand returns.
pub type CliResult = Result<Exit, CliError>;

impl CliError {
    /// With a status and a sentence.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A failure while running.
    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// The status.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<ControlError> for CliError {
    fn from(error: ControlError) -> Self {
        let denied = std::io::ErrorKind::PermissionDenied;
        match &error {
            ControlError::Absent { path, source } if source.kind() == denied => {
                let path = path.display();
                Self::new(Exit::Privilege, format!("{path} is for root only: run it with sudo"))
            }
            _ => Self::failure(error.to_string()),
        }
    }
}
