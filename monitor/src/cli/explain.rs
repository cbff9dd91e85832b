//! `bulkhead explain`: why a finding was made, which exception would silence it, and what else that would hide.

use super::incidents::{LogArgs, read};
use super::{CliError, CliResult, Exit};
use crate::config::value::{Cidr, Day, Glob};
use crate::config::{ExceptionRule, Subject};
use crate::incident::group::time;
use crate::incident::story::outcome;
use crate::incident::tree::place;
use crate::output::Row;
use crate::output::escape::shown;
use crate::output::record::{Alert, AlertKind, OutcomeName};
use crate::respond::exceptions::today;
use crate::respond::policy::ENFORCEABLE;
use clap::Args;
use jiff::ToSpan as _;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write as _;

/// `bulkhead explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Id of a finding, or the beginning of it
    #[arg(value_name = "FINDING")]
    pub finding: String,
    /// Which rows.
    #[command(flatten)]
    pub log: LogArgs,
}

/// An exception that is pasted as it is ends by itself, days.
const EXPIRES: i64 = 90;
/// Other findings listed.
const LISTED: usize = 20;

pub(super) fn main(args: &ExplainArgs) -> CliResult {
    let alerts = alerts(read(&args.log)?.rows);
    let alert = find(&alerts, &args.finding)?;
    let mut out = why(alert);
    match narrowest(alert) {
        Ok(rule) => out.push_str(&exception(alert, &rule, &alerts)?),
        Err(reason) => {
            let _ = writeln!(out, "\nNo exception for it: {reason}");
        }
    }
    super::print(&out)?;
    Ok(Exit::Ok)
}

/// Alerts with their amendments taken in; those that an exception covers already, too.
fn alerts(rows: Vec<Row>) -> Vec<Alert> {
    let mut out: Vec<Alert> = Vec::new();
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    for row in rows {
        let Row::Alert(alert) = row else { continue };
        let place = *places.entry((alert.host.name.clone(), alert.event.id.clone())).or_insert(out.len());
        match out.get_mut(place) {
            Some(known) => known.container = alert.container,
            None => out.push(*alert),
        }
    }
    out
}

fn find<'a>(alerts: &'a [Alert], wanted: &str) -> Result<&'a Alert, CliError> {
    let usage = |text: String| Err(CliError::new(Exit::Usage, text));
    if let Some(alert) = alerts.iter().find(|alert| alert.event.id == wanted) {
        return Ok(alert);
    }
    let begins: Vec<&Alert> = alerts.iter().filter(|a| !wanted.is_empty() && a.event.id.starts_with(wanted)).collect();
    match begins.as_slice() {
        [alert] => Ok(alert),
        [] => usage(format!("no finding `{wanted}` in these rows")),
        more => usage(format!("{} findings begin `{wanted}`", more.len())),
    }
}

/// The evidence, in words.
fn why(alert: &Alert) -> String {
    let kind = alert.event.action.0;
    let mut out =
        format!("{} {} in {}: {}\n", shown(&alert.event.id), kind.name(), shown(&place(alert)), shown(&alert.message));
    let _ = writeln!(out, "at {}, {}", shown(&alert.timestamp), shown(&outcome(alert)));
    if let Some(exception) = &alert.bulkhead.exception {
        let _ = writeln!(out, "covered by an exception already: {}", shown(&exception.reason));
    }
    let meaning: Vec<&str> = kind.doc().lines().map(str::trim).collect();
    let _ = writeln!(out, "\nWhy\n  {}", meaning.join(" ").trim());
    for piece in &alert.bulkhead.evidence {
        let weight = if piece.weight > 0 { format!(", weight {}", piece.weight) } else { String::new() };
        let _ = writeln!(out, "  - {} ({}{weight})", shown(&piece.detail), shown(&piece.what));
    }
    let line: Vec<String> =
        alert.bulkhead.process_tree.iter().map(|node| format!("{}[{}]", shown(&node.name), node.pid)).collect();
    if !line.is_empty() {
        let _ = writeln!(out, "  - its processes: {}", line.join(" → "));
    }
    for tie in alert.bulkhead.incident.iter().flat_map(|incident| &incident.ties) {
        let _ = writeln!(out, "  - {}", shown(&tie.because));
    }
    out
}

/// The narrowest rule that is still true of the next time: image rather than one container, the programs, the address.
/// Not the arguments, and not the parent's pid: no rule knows them. Not a parent outside of the container either: what
/// started it from there is often gone before it is looked at.
fn narrowest(alert: &Alert) -> Result<ExceptionRule, String> {
    let exact = |text: &str| -> Result<Option<Glob>, String> {
        if text.is_empty() { Ok(None) } else { globset::escape(text).parse().map(Some) }
    };
    let container = &alert.container;
    let (image, name) = match (container.image.name.as_str(), container.name.as_str()) {
        ("", "") => (None, exact(&container.id)?),
        ("", name) => (None, exact(name)?),
        (image, _) => (exact(image)?, None),
    };
    let subject = Subject::of(alert);
    let expires = today().checked_add(EXPIRES.days()).ok().map(Day);
    let rule = ExceptionRule {
        kinds: vec![subject.kind],
        image,
        container: name,
        labels: Vec::new(),
        exe: exact(subject.exe)?,
        parent: if parent_is_told(alert) { exact(subject.parent)? } else { None },
        destination: subject.peer.map(|peer| Cidr(peer.ip().into())),
        port: subject.peer.map(|peer| peer.port()),
        expires,
        reason: format!("finding {}: say here why this is expected", alert.event.id),
    };
    match rule.refused() {
        Some(why) => Err(why),
        None if !rule.covers(&subject) => Err("too little is known of it to tell it from others".into()),
        None => Ok(rule),
    }
}

/// Are the parent's starts told? Those of the container's own processes are.
fn parent_is_told(alert: &Alert) -> bool {
    let parent = alert.process.parent.as_ref().map(|parent| parent.pid);
    let mut tree = alert.bulkhead.process_tree.iter();
    alert.container.id == "host" || tree.any(|node| Some(node.pid) == parent && node.in_container)
}

#[derive(Serialize)]
struct Paste<'a> {
    exception: [&'a ExceptionRule; 1],
}

fn toml(rule: &ExceptionRule) -> Result<String, CliError> {
    toml::to_string(&Paste { exception: [rule] }).map_err(|error| CliError::failure(error.to_string()))
}

fn exception(alert: &Alert, rule: &ExceptionRule, alerts: &[Alert]) -> Result<String, CliError> {
    let mut out = format!("\nThis exception in the configuration would silence it:\n\n{}\n", toml(rule)?);
    out.push_str(&in_kernel(rule));
    let others: Vec<&Alert> =
        alerts.iter().filter(|a| a.event.id != alert.event.id && rule.covers(&Subject::of(a))).collect();
    let total = alerts.iter().filter(|a| a.event.kind == AlertKind::Alert).count();
    let _ =
        writeln!(out, "Of the {total} findings in these rows it would have hidden this one and {} more.", others.len());
    for other in others.iter().take(LISTED) {
        let stopped = if other.bulkhead.outcome == OutcomeName::Observed { "" } else { ", which was acted upon" };
        let _ = writeln!(
            out,
            "  - {} {} {}: {}{stopped}",
            time(other).strftime("%Y-%m-%d %H:%M:%SZ"),
            shown(&other.event.id),
            shown(&place(other)),
            shown(&other.message)
        );
    }
    if others.len() > LISTED {
        let _ = writeln!(out, "  … and {} more", others.len() - LISTED);
    }
    let beside: Vec<&str> = alerts
        .iter()
        .filter(|a| a.process.entity_id == alert.process.entity_id && a.host.name == alert.host.name)
        .map(|a| a.event.action.0.name())
        .filter(|kind| *kind != alert.event.action.0.name())
        .collect();
    if !beside.is_empty() {
        let _ = writeln!(out, "It would not silence what else was found of the same process: {}.", beside.join(", "));
    }
    Ok(out)
}

/// What becomes of the kernel half's own verdicts.
fn in_kernel(rule: &ExceptionRule) -> String {
    let is = |kind| ENFORCEABLE.iter().any(|(enforceable, _)| *enforceable == kind);
    let Some(kind) = rule.kinds.iter().copied().find(|kind| is(*kind)) else { return String::new() };
    let kind = kind.name();
    if rule.is_narrower_than_container() {
        return format!(
            "In the containers it names the kernel would leave {kind} to the daemon, which kills what the exception does not \
             cover: a moment later, after the act itself.\n"
        );
    }
    format!("In the containers it names nothing would stop or tell of {kind}.\n")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::finding::FindingKind;
    use crate::incident::samples::{alert, cron, write};
    use crate::output::samples::{reverse_shell, row};

    #[test]
    fn what_is_printed_is_accepted_and_silences_the_finding() {
        for finding in [reverse_shell(), write("a", FindingKind::PersistenceCron, "i"), cron("i")] {
            let alert = alert(row(&finding));
            let rule = narrowest(&alert).unwrap();
            let text = toml(&rule).unwrap();
            let config = crate::config::Config::parse(std::path::Path::new("b.toml"), &text).unwrap();
            assert!(config.exception[0].covers(&Subject::of(&alert)), "{text}");
            assert!(!config.exception[0].is_over(today()));
        }
    }

    #[test]
    fn it_is_no_wider_than_the_finding() {
        let told = alert(row(&reverse_shell()));
        let rule = narrowest(&told).unwrap();
        let change = |change: fn(&mut crate::finding::Finding)| {
            let mut other = reverse_shell();
            change(&mut other);
            rule.covers(&Subject::of(&alert(row(&other))))
        };
        assert!(change(|f| f.process.pid += 1));
        assert!(!change(|f| f.process.executable = "/tmp/bash".into()));
        assert!(!change(|f| f.ancestors[0].executable = "/tmp/sh".into()));
        assert!(!change(|f| f.container.image = "debian-toolsX".into()));
        assert!(!change(|f| f.peer = Some(([203, 0, 113, 67], 4444).into())));
        assert!(!change(|f| f.kind = FindingKind::ShellConnect));
    }

    #[test]
    fn what_else_it_would_hide_is_told() {
        let mut findings = [reverse_shell(), reverse_shell(), reverse_shell()];
        findings[1].id = "f-2".into();
        findings[2].id = "f-3".into();
        findings[2].container.image = "other".into();
        let rows = alerts(findings.iter().map(row).collect());
        let rule = narrowest(&rows[0]).unwrap();
        let text = exception(&rows[0], &rule, &rows).unwrap();
        assert!(text.contains("Of the 3 findings in these rows it would have hidden this one and 1 more."), "{text}");
        assert!(text.contains("f-2") && !text.contains("f-3") && text.contains(", which was acted upon"), "{text}");
        assert!(text.contains("leave reverse_shell to the daemon"), "{text}");
        assert!(find(&rows, "f-1").is_ok() && find(&rows, "f-").is_err() && find(&rows, "").is_err());
    }

    #[test]
    fn the_evidence_is_told_and_nothing_reaches_the_terminal_raw() {
        let text = why(&alert(row(&reverse_shell())));
        assert!(text.contains("descriptor 0 is connected to 203.0.113.66:4444"), "{text}");
        assert!(text.contains("containerd-shim[700] → sh[900] → bash[901]"), "{text}");
        let mut evil = reverse_shell();
        evil.message = "\u{1b}[2J".into();
        evil.evidence[0].detail = "\u{1b}[2J".into();
        assert!(!why(&alert(row(&evil))).contains('\u{1b}'));
    }
}
