//! `bulkhead incidents` and `bulkhead report`: findings of one attack as one story, from the daemon's own rows.

use super::{CliError, CliResult, Exit, SocketArg};
use crate::config::Config;
use crate::control::{ControlError, Request, ask, refusal};
use crate::incident::group::{Case, group};
use crate::incident::log::{Log, parts};
use crate::incident::story::{Story, tell};
use crate::incident::{damage, html, text};
use crate::output::Alert;
use clap::{Args, ValueEnum};
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;

/// Which rows to read.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// Alert file to read, oldest first if it is given more than once [default: output.file of the configuration with its
    /// rotated parts; without one, what the running monitor remembers]
    #[arg(long, value_name = "FILE")]
    pub from: Vec<PathBuf>,
    /// Which daemon, and the configuration.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `bulkhead incidents`.
#[derive(Clone, Debug, Args)]
pub struct IncidentsArgs {
    /// One JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
    /// Which rows.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// One page with everything in it
    Html,
    /// For a terminal
    Text,
    /// One object
    Json,
}

/// `bulkhead report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Id of an incident or of one of its findings, or the beginning of it
    #[arg(value_name = "ID")]
    pub incident: String,
    /// How to write it
    #[arg(long, value_enum, default_value = "html")]
    pub format: ReportFormat,
    /// File of all events, to count what was done before it was stopped [default: output.events of the configuration]
    #[arg(long, value_name = "FILE")]
    pub events: Vec<PathBuf>,
    /// File to write instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which rows.
    #[command(flatten)]
    pub log: LogArgs,
}

pub(super) fn list(args: &IncidentsArgs) -> CliResult {
    let stories: Vec<Story> = group(read(&args.log)?.rows).iter().map(|case| tell(case, None)).collect();
    let text = if args.json { stories.iter().map(json).collect::<Result<String, _>>()? } else { text::table(&stories) };
    super::print(&text)?;
    Ok(Exit::Ok)
}

pub(super) fn report(args: &ReportArgs) -> CliResult {
    let case = find(group(read(&args.log)?.rows), &args.incident)?;
    let events = events(args)?;
    let counted = (!events.is_empty()).then(|| damage::count(&case, &events)).transpose();
    let counted = counted.map_err(|error| CliError::failure(format!("the file of all events: {error}")))?;
    let story = tell(&case, counted);
    let page = match args.format {
        ReportFormat::Html => html::page(&story),
        ReportFormat::Text => text::render(&story),
        ReportFormat::Json => json(&story)?,
    };
    match &args.output {
        None => super::print(&page).map(drop)?,
        Some(path) => {
            std::fs::write(path, page).map_err(|e| CliError::failure(format!("{}: {e}", path.display())))?;
        }
    }
    Ok(Exit::Ok)
}

fn json(story: &Story) -> Result<String, CliError> {
    let line = serde_json::to_string(story).map_err(|error| CliError::failure(error.to_string()))?;
    Ok(format!("{line}\n"))
}

/// The incident that has this id, or a finding with it; the beginning is enough if only one has it.
fn find(cases: Vec<Case>, wanted: &str) -> Result<Case, CliError> {
    let is = |id: &String, whole: bool| if whole { id == wanted } else { id.starts_with(wanted) };
    // Findings that only rows tie together keep the ids of their own.
    let its = |alert: &Alert, whole| {
        is(&alert.event.id, whole) || alert.bulkhead.incident.as_ref().is_some_and(|incident| is(&incident.id, whole))
    };
    let has = |case: &Case, whole| is(&case.id, whole) || case.alerts.iter().any(|alert| its(alert, whole));
    let exact = cases.iter().any(|case| has(case, true));
    let mut found: Vec<Case> = cases.into_iter().filter(|case| !wanted.is_empty() && has(case, exact)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(CliError::new(Exit::Usage, format!("no incident or finding `{wanted}` in these rows"))),
        count => {
            Err(CliError::new(Exit::Usage, format!("{count} incidents have a finding or an id that begins `{wanted}`")))
        }
    }
}

/// The rows that are asked for: of the files named, else of the alert file of the configuration, else of the running
/// daemon, which remembers its last alerts.
pub(super) fn read(args: &LogArgs) -> Result<Log, CliError> {
    let mut log = Log::default();
    let files = files(args)?;
    for file in &files {
        log.file(file).map_err(|error| CliError::failure(format!("{}: {error}", file.display())))?;
    }
    if files.is_empty() {
        let socket = args.socket.path()?;
        for line in ask(&socket, Request::Findings)?.lines() {
            let line = line.map_err(|error| CliError::failure(format!("{}: {error}", socket.display())))?;
            if let Some(why) = refusal(&line) {
                return Err(ControlError::Refused(why).into());
            }
            log.line(&line);
        }
    }
    if log.skipped > 0 {
        let _ = writeln!(
            std::io::stderr(),
            "bulkhead: {} lines are no rows of the JSON stream and were left out",
            log.skipped
        );
    }
    Ok(log)
}

fn files(args: &LogArgs) -> Result<Vec<PathBuf>, CliError> {
    if !args.from.is_empty() {
        return Ok(args.from.clone());
    }
    // A socket that is named is a daemon that is asked.
    if args.socket.socket.is_some() {
        return Ok(Vec::new());
    }
    Ok(configured(args)?.and_then(|config| config.output.file).map(|file| parts(&file)).unwrap_or_default())
}

fn events(args: &ReportArgs) -> Result<Vec<PathBuf>, CliError> {
    if !args.events.is_empty() || !args.log.from.is_empty() || args.log.socket.socket.is_some() {
        return Ok(args.events.clone());
    }
    Ok(configured(&args.log)?.and_then(|config| config.output.events).map(|file| parts(&file)).unwrap_or_default())
}

fn configured(args: &LogArgs) -> Result<Option<Config>, CliError> {
    Ok(args.socket.config.path().map(|file| Config::load(&file)).transpose()?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::cli::{ConfigArg, SocketArg};
    use crate::finding::FindingKind;
    use crate::incident::samples::{cron, write};
    use crate::output::samples::row;

    fn log_args(from: Vec<PathBuf>) -> LogArgs {
        LogArgs { from, socket: SocketArg { socket: None, config: ConfigArg::default() } }
    }

    #[test]
    fn a_log_of_last_week_becomes_a_report() {
        let folder = tempfile::tempdir().unwrap();
        let (log, page) = (folder.path().join("alerts.jsonl"), folder.path().join("report.html"));
        let rows = [write("f-escape", FindingKind::Escape, "aaaaaaaaaaaa"), cron("aaaaaaaaaaaa")];
        let text: String = rows.iter().map(|f| serde_json::to_string(&row(f)).unwrap() + "\n").collect();
        std::fs::write(&log, text).unwrap();
        let args = |incident: &str| ReportArgs {
            incident: incident.into(),
            format: ReportFormat::Html,
            events: Vec::new(),
            output: Some(page.clone()),
            log: log_args(vec![log.clone()]),
        };
        for id in ["aaaaaaaaaaaa", "aaa", "f-host"] {
            report(&args(id)).unwrap();
            assert!(std::fs::read_to_string(&page).unwrap().contains("Incident aaaaaaaaaaaa"), "{id}");
        }
        for id in ["", "bbb"] {
            assert_eq!(report(&args(id)).unwrap_err().exit(), Exit::Usage, "{id}");
        }
        assert_eq!(read(&log_args(vec!["/nonexistent".into()])).unwrap_err().exit(), Exit::Failure);
    }

    #[test]
    fn the_alert_file_of_the_configuration_is_read_with_its_rotated_parts() {
        let folder = tempfile::tempdir().unwrap();
        let (config, file) = (folder.path().join("b.toml"), folder.path().join("alerts.jsonl"));
        std::fs::write(&config, format!("[output]\nfile = \"{}\"\n", file.display())).unwrap();
        let line = |f| serde_json::to_string(&row(&f)).unwrap();
        std::fs::write(folder.path().join("alerts.jsonl.1"), line(write("a", FindingKind::Escape, "x"))).unwrap();
        std::fs::write(&file, line(cron("x"))).unwrap();
        let mut args = log_args(Vec::new());
        args.socket.config.config = Some(config);
        assert_eq!(read(&args).unwrap().rows.len(), 2);
    }
}
