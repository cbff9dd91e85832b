//! A story, and the list of incidents, as plain text. Every untrusted string goes through `escape::shown`.

use super::story::{Story, Verdict};
use crate::output::category;
use crate::output::escape::shown;
use std::fmt::Write as _;

/// The word for a verdict.
pub const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Stopped => "stopped",
        Verdict::Partly => "partly stopped",
        Verdict::Observed => "not stopped",
    }
}

/// The sections of a story, under their headings.
pub fn sections(story: &Story) -> [(&'static str, &[String]); 6] {
    [
        ("What came in, from where", &story.came_in),
        ("What it became", &story.became),
        ("What it did", &story.did),
        ("What was stopped, and when", &story.stopped),
        ("What it had done, as far as is known", &story.damage),
        ("Why this is one incident", &story.linked_because),
    ]
}

/// A table, one incident a line.
pub fn table(stories: &[Story]) -> String {
    if stories.is_empty() {
        return "no incidents\n".into();
    }
    let mut out = format!(
        "{:<12}  {:<20}  {:<8}  {:<14}  {:>8}  {}\n",
        "incident", "began", "severity", "verdict", "findings", "what and where"
    );
    for story in stories {
        let findings = story.timeline.iter().filter(|moment| moment.what == "finding").count();
        let _ = writeln!(
            out,
            "{:<12}  {:<20}  {:<8}  {:<14}  {findings:>8}  {}",
            shown(&story.id),
            story.began.get(..19).unwrap_or(&story.began).replace('T', " "),
            category::severity_name(story.severity),
            verdict(story.verdict),
            shown(&story.title),
        );
    }
    out
}

/// The whole story.
pub fn render(story: &Story) -> String {
    let mut out = format!(
        "Incident {} on {}\n{}\n{}, {}; from {} to {}\n",
        shown(&story.id),
        shown(&story.host),
        shown(&story.title),
        category::severity_name(story.severity),
        verdict(story.verdict),
        shown(&story.began),
        shown(&story.ended),
    );
    for (heading, lines) in sections(story) {
        if lines.is_empty() {
            continue;
        }
        let _ = write!(out, "\n{heading}\n");
        for line in lines {
            let _ = writeln!(out, "  - {}", shown(line));
        }
    }
    out.push_str("\nProcesses\n");
    for node in &story.tree {
        let mut marks = node.findings.join(", ");
        if node.killed {
            marks = format!("{marks} KILLED").trim_start().to_owned();
        }
        let marks = if marks.is_empty() { marks } else { format!("  ◀ {marks}") };
        let command = shown(&node.command);
        let indent = "  ".repeat(node.depth.min(16) + 1);
        let _ = writeln!(out, "{indent}{}[{}] {command}  ({}){marks}", shown(&node.name), node.pid, shown(&node.place));
    }
    out.push_str("\nTimeline\n");
    for moment in &story.timeline {
        let _ = writeln!(
            out,
            "  {:>10} ms  {}  {}: {}  [{}]",
            moment.offset_ms,
            shown(&moment.name),
            shown(&moment.place),
            shown(&moment.text),
            shown(&moment.outcome)
        );
    }
    out
}
