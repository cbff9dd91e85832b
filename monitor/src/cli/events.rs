//! `bulkhead events`: the alerts of the running daemon, past and, with `--follow`, to come.

use super::{CliError, CliResult, EventsArgs, Exit, Printed};
use crate::control::{Request, ask, refusal};
use crate::output::human::Human;
use crate::output::{Row, escape};
use std::io::BufRead as _;

pub(super) fn main(args: &EventsArgs) -> CliResult {
    let socket = args.socket.path()?;
    let request = if args.follow { Request::Events { backlog: args.last.unwrap_or(0) } } else { Request::Findings };
    let human = (!args.json).then(Human::for_stdout);
    let mut lines = Vec::new();
    for line in ask(&socket, request)?.lines() {
        let line = line.map_err(|e| CliError::failure(format!("{}: {e}", socket.display())))?;
        if let Some(why) = refusal(&line) {
            return Err(crate::control::ControlError::Refused(why).into());
        }
        let text = render(&line, human.as_ref());
        if !args.follow {
            lines.push(text);
        } else if super::print(&text)? == Printed::ReaderGone {
            return Ok(Exit::Ok);
        }
    }
    if args.follow {
        return Err(CliError::failure("the daemon has closed the connection"));
    }
    let skip = args.last.map_or(0, |n| lines.len().saturating_sub(n));
    super::print(&lines.into_iter().skip(skip).collect::<String>())?;
    Ok(Exit::Ok)
}

fn render(line: &str, human: Option<&Human>) -> String {
    match (human, serde_json::from_str::<Row>(line)) {
        (Some(human), Ok(row)) => human.render(&row),
        // A daemon of another version: its rows are shown as they are.
        (Some(_), Err(_)) => format!("{}\n", escape::shown(line)),
        (None, _) => format!("{line}\n"),
    }
}
