//! What the demo tells: plain lines for someone who sees Bulkhead for the first time.

use super::attack::{Attack, Effect, KEYS};
use super::init::{Answer, Root};
use super::stand_in::Service;
use crate::finding::FindingKind;
use crate::output::human::Human;
use crate::output::record::OutcomeName;
use crate::output::{Alert, Row};
use std::fmt::Write as _;
use std::path::Path;

/// An attack that was played, and what came of it.
#[derive(Debug)]
pub(super) struct Played {
    /// What it is called.
    pub(super) title: &'static str,
    /// What would tell that it worked.
    pub(super) effect: Effect,
    /// What it had to be found as.
    pub(super) kinds: &'static [FindingKind],
    /// The stand-in it talked to.
    pub(super) service: Option<Service>,
    /// Connections the stand-in accepted.
    pub(super) connections: u64,
    /// Bytes the stand-in received.
    pub(super) received: u64,
    /// Bytes it sent.
    pub(super) sent: u64,
    /// How its script ended.
    pub(super) ended: Answer,
    /// The container's alerts since its start.
    pub(super) alerts: Vec<Alert>,
    /// The effect is there.
    pub(super) happened: bool,
}

impl Played {
    /// The alert that names it.
    fn finding(&self) -> Option<&Alert> {
        self.alerts.iter().find(|alert| self.kinds.contains(&alert.event.action.0))
    }

    /// Judged by the effect, not by what the monitor says of itself.
    fn prevented(&self) -> bool {
        let shell_spoke = self.service == Some(Service::Shell) && self.received > 0;
        !self.happened && !shell_spoke
    }

    /// Found, and prevented unless it is only watched.
    pub(super) fn is_good(&self, watch_only: bool) -> bool {
        self.finding().is_some() && (watch_only || self.prevented())
    }
}

/// What is about to happen.
pub(super) fn opening(watch_only: bool, id: &str, path: &Path) -> String {
    let mode = if watch_only { "monitor (it alerts and touches nothing)" } else { "protect (it alerts and stops)" };
    format!(
        "Bulkhead plays three harmless attacks in a throw-away container of its own.\n\n\
         \x20 mode       {mode}; it acts on this container only\n\
         \x20 container  {} (cgroup {})\n\
         Starting the monitor and the container ...\n",
        id.get(..12).unwrap_or(id),
        path.display(),
    )
}

/// The container stands.
pub(super) fn ready(root: Root) -> String {
    let root = match root {
        Root::Overlay => "an overlay over this host's root; what it writes stays in memory",
        Root::ReadOnly => {
            "this host's root, read-only, with memory on /tmp, /run and /root (an overlay over / was refused here)"
        }
    };
    format!("  root       {root}\n  network    its own, with nothing but loopback\n")
}

/// An attack begins.
pub(super) fn announce(number: usize, of: usize, attack: &Attack) -> String {
    format!("\n[{number}/{of}] {}: {}\n  played    {}\n", attack.title, attack.why, attack.script)
}

/// An attack has ended.
pub(super) fn outcome(played: &Played, human: &Human) -> String {
    let mut out = String::new();
    if let Answer::Ended { how } = &played.ended {
        let _ = writeln!(out, "  ended     {how}");
    }
    if played.alerts.is_empty() {
        out.push_str("  seen      nothing: Bulkhead missed it\n");
    } else {
        out.push_str("  seen\n");
    }
    for alert in &played.alerts {
        for line in human.render(&Row::Alert(Box::new(alert.clone()))).lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    if let Some(alert) = played.finding() {
        let _ = writeln!(out, "  latency   {} from the act to the alert", latency(alert));
    }
    let _ = writeln!(out, "  effect    {}", effect(played));
    out
}

fn effect(played: &Played) -> String {
    let mut text = match (&played.effect, played.happened) {
        (Effect::Marker(path), true) => format!("the attacker's commands ran: {path} exists in the container"),
        (Effect::Marker(path), false) => format!("none of the attacker's commands ran: {path} does not exist"),
        (Effect::Key, true) => format!("the key is in the container's {KEYS}"),
        (Effect::Key, false) => format!("the key is not in the container's {KEYS}"),
    };
    let (received, sent) = (played.received, played.sent);
    let connections = match played.connections {
        1 => "1 connection".to_owned(),
        number => format!("{number} connections"),
    };
    let _ = match played.service {
        Some(Service::Shell) => write!(text, "; the listener received {received} bytes ({connections})"),
        Some(Service::Web) => write!(text, "; the web server gave out {sent} bytes ({connections})"),
        None => Ok(()),
    };
    text
}

fn latency(alert: &Alert) -> String {
    let micros = alert.bulkhead.latency_us;
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

/// The end: one line an attack, and a sentence.
pub(super) fn table(played: &[Played], watch_only: bool) -> String {
    let mut rows = vec![["attack", "found as", "stopped", "effect", "latency"].map(str::to_owned)];
    rows.extend(played.iter().map(row));
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let mut out = String::from("\n");
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(line, "{cell:<width$}  ", width = width(column));
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let _ = write!(out, "\n{}\n", verdict(played, watch_only));
    out
}

fn row(played: &Played) -> [String; 5] {
    let finding = played.finding();
    let stopped = finding.map_or_else(String::new, |alert| {
        let by = alert.bulkhead.enforced_by.map_or("", |rung| rung.name());
        match alert.bulkhead.outcome {
            OutcomeName::Observed => "no".to_owned(),
            OutcomeName::Denied => format!("denied by {by}"),
            OutcomeName::Killed => format!("killed by {by}"),
            OutcomeName::Refused => "refused".to_owned(),
            other @ (OutcomeName::Frozen | OutcomeName::Quarantined | OutcomeName::Stopping) => other.name().to_owned(),
        }
    });
    [
        played.title.to_owned(),
        finding.map_or("not found", |alert| alert.event.action.0.name()).to_owned(),
        stopped,
        if played.prevented() { "none" } else { "happened" }.to_owned(),
        finding.map_or_else(String::new, latency),
    ]
}

fn verdict(played: &[Played], watch_only: bool) -> String {
    let all = played.len();
    let found = played.iter().filter(|one| one.finding().is_some()).count();
    let prevented = played.iter().filter(|one| one.prevented()).count();
    let mut text = if watch_only {
        format!(
            "{found} of {all} attacks found. Mode monitor touches nothing: {} of {all} had their effect.",
            all - prevented
        )
    } else {
        format!("{found} of {all} attacks found, {prevented} of {all} prevented.")
    };
    if watch_only && found == all {
        text.push_str("\nWithout --monitor they are stopped: `bulkhead demo`.");
    }
    if found < all || (!watch_only && prevented < all) {
        text.push_str("\nThis is not as it should be; `bulkhead check` tells what this kernel lacks.");
    }
    text
}
