//! Getting hold of the pins at start: from nobody, from a daemon that has died, or from one that still
//! runs and is asked to hand over.

use super::{CliError, Exit};
use crate::config::Loaded;
use crate::control::{ControlError, Request, ask, refusal};
use crate::kernel::pins::{PinError, Pins, Unlocked};
use std::io::BufRead as _;
use std::path::Path;
use std::time::Duration;

/// How long a daemon may take to read its rings to the end, write its rows and end.
const PATIENCE: Duration = Duration::from_secs(15);

/// The pins as configured, locked for this daemon; `None` if nothing is to be pinned.
///
/// # Errors
/// There is no BPF file system, or another daemon has the pins and does not hand over.
pub(super) fn pins(loaded: &Loaded) -> Result<Option<Pins>, CliError> {
    let root = &loaded.config.pins.root;
    if root.as_os_str().is_empty() {
        return Ok(None);
    }
    let unlocked = Unlocked::make(root).map_err(failure)?;
    match unlocked.lock(Duration::ZERO) {
        Ok(pins) => return Ok(Some(pins)),
        Err(PinError::Busy(_)) => {}
        Err(error) => return Err(failure(error)),
    }
    let socket = &loaded.config.control.socket;
    let refused = |why: &str| {
        CliError::failure(format!(
            "another daemon has the pins in {} and does not hand over ({why}): stop it first, or set pins.root",
            root.display()
        ))
    };
    if socket.as_os_str().is_empty() {
        return Err(refused("the control socket is turned off"));
    }
    hand_over(socket).map_err(|error| refused(&error.to_string()))?;
    tracing::info!("the running daemon hands over");
    unlocked.lock(PATIENCE).map(Some).map_err(|_| refused(&format!("it has not ended within {PATIENCE:?}")))
}

/// Removes what this daemon has pinned and nobody is going to run.
pub(super) fn remove(root: &Path) {
    let Ok(Some(unlocked)) = Unlocked::existing(root) else { return };
    if let Err(error) = unlocked.lock(Duration::ZERO).and_then(Pins::remove_all) {
        tracing::error!(%error, "what is pinned could not be removed; `bulkhead unload` may");
    }
}

fn hand_over(socket: &Path) -> Result<(), ControlError> {
    let mut answer = String::new();
    ask(socket, Request::Handover)?
        .read_line(&mut answer)
        .map_err(|source| ControlError::Io { path: socket.into(), source })?;
    refusal(&answer).map_or(Ok(()), |why| Err(ControlError::Refused(why)))
}

/// What goes wrong with pins, with its exit status.
pub(super) fn failure(error: PinError) -> CliError {
    let exit = if matches!(error, PinError::NoFileSystem { .. }) { Exit::Kernel } else { Exit::Failure };
    CliError::new(exit, error.to_string())
}
