//! `bulkhead quarantine`, `release`, `freeze` and `thaw`: orders to the running daemon.

use super::{CliError, CliResult, Exit, OrderArgs};
use crate::control::{Answer, ControlError, Request, ask};
use crate::output::escape;
use crate::response::Deed;
use std::io::BufRead as _;

/// Exit 0: done. 64: the name names no container, or more than one. 1: refused, failed, or no daemon.
pub(super) fn main(deed: Deed, args: &OrderArgs) -> CliResult {
    if args.container.is_empty() {
        return Err(CliError::new(Exit::Usage, "the container's name is empty"));
    }
    let socket = args.socket.path()?;
    let mut line = String::new();
    ask(&socket, Request::Order { order: deed, container: args.container.clone() })?
        .read_line(&mut line)
        .map_err(|e| CliError::failure(format!("{}: {e}", socket.display())))?;
    match serde_json::from_str(&line) {
        Ok(Answer::Done { done }) => {
            super::print(&format!("{}\n", escape::shown(&done)))?;
            Ok(Exit::Ok)
        }
        Ok(Answer::Unknown { unknown }) => Err(CliError::new(Exit::Usage, escape::shown(&unknown))),
        Ok(Answer::Refused { error }) => Err(ControlError::Refused(escape::shown(&error)).into()),
        Err(_) if line.is_empty() => Err(CliError::failure("the daemon has closed the connection without an answer")),
        Err(error) => Err(CliError::failure(format!("the daemon's answer is not understood: {error}"))),
    }
}
