//! The drawings of a report: the process tree, and the timeline with a lane a place.

use super::html::text;
use super::story::Moment;
use super::tree::{Node, SHOWN};
use std::fmt::Write as _;

/// Height of a row, and a step to the right, px.
const ROW: usize = 26;
const STEP: usize = 20;
/// Characters of a command line in the drawing; all of it is in the tooltip.
const COMMAND: usize = 90;
/// Width of one character of the font, px, rounded up.
const GLYPH: usize = 8;
/// Deepest step drawn.
const DEEP: usize = 24;
/// Between two moments on the timeline, px.
const GAP: usize = 56;
/// Moments drawn; all are in the table.
const MOMENTS: usize = 60;
/// Room for the names of lanes, px.
const NAMES: usize = 260;

fn cut(long: &str, limit: usize) -> String {
    match long.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &long[..at]),
        None => long.to_owned(),
    }
}

/// The process tree, a row a process.
pub fn tree(nodes: &[Node]) -> String {
    let nodes = &nodes[..nodes.len().min(SHOWN)];
    let name = |node: &Node| format!("{}[{}]", node.name, node.pid);
    let label = |node: &Node| format!("{} {}", name(node), cut(&node.command, COMMAND));
    let marks = |node: &Node| {
        let mut marks: Vec<&str> = node.findings.clone();
        if node.accomplice {
            marks.push("accomplice");
        }
        if node.killed {
            marks.push("killed");
        }
        marks.join(", ")
    };
    let wide = |node: &Node| {
        let letters = label(node).chars().count() + marks(node).chars().count() + node.place.chars().count() + 8;
        node.depth.min(DEEP) * STEP + letters * GLYPH
    };
    let width = nodes.iter().map(wide).max().unwrap_or(0) + 40;
    let height = nodes.len() * ROW + 10;
    let mut out = format!(
        "<svg role=\"img\" aria-label=\"process tree\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
    );
    let mut above: Vec<usize> = Vec::new();
    for (row, node) in nodes.iter().enumerate() {
        let depth = node.depth.min(DEEP);
        above.truncate(depth);
        let (x, y) = (depth * STEP + 10, row * ROW + ROW / 2 + 5);
        if let Some(parent) = above.last() {
            let (px, py) = (x - STEP, parent * ROW + ROW / 2 + 5);
            let _ = write!(out, "<path class=\"edge\" d=\"M{px} {py}V{y}H{x}\"/>");
        }
        above.push(row);
        let class = if node.findings.is_empty() { "node" } else { "bad" };
        let _ = write!(
            out,
            "<g><title>{}</title><circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"4\"/><text x=\"{}\" y=\"{}\">{} \
             <tspan class=\"bad\">{}</tspan> {} <tspan class=\"dim\">({})</tspan></text></g>",
            text(&node.command),
            x + 10,
            y + 4,
            text(&name(node)),
            text(&marks(node)),
            text(&cut(&node.command, COMMAND)),
            text(&node.place),
        );
    }
    out.push_str("</svg>");
    out
}

/// The timeline: moments in their order, evenly spaced, in the lane of their place, with ms since the beginning.
pub fn timeline(moments: &[Moment]) -> String {
    let moments = &moments[..moments.len().min(MOMENTS)];
    let mut lanes: Vec<&str> = Vec::new();
    for moment in moments {
        if !lanes.contains(&moment.place.as_str()) {
            lanes.push(&moment.place);
        }
    }
    let width = NAMES + moments.len() * GAP + 40;
    let height = lanes.len() * 40 + 40;
    let mut out = format!(
        "<svg role=\"img\" aria-label=\"timeline\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
    );
    for (lane, name) in lanes.iter().enumerate() {
        let y = lane * 40 + 30;
        let _ = write!(
            out,
            "<text class=\"dim\" x=\"0\" y=\"{}\">{}</text><path class=\"edge\" d=\"M{NAMES} {y}H{width}\"/>",
            y + 4,
            text(&cut(name, NAMES / GLYPH - 2))
        );
    }
    for (number, moment) in moments.iter().enumerate() {
        let lane = lanes.iter().position(|name| *name == moment.place).unwrap_or(0);
        let (x, y) = (NAMES + number * GAP + GAP / 2, lane * 40 + 30);
        let class = if moment.stopped { "good" } else { "bad" };
        let _ = write!(
            out,
            "<g><title>{} {}: {}</title><circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"7\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"dim\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\">{}</text></g>",
            text(&moment.at),
            text(&moment.name),
            text(&moment.text),
            y - 11,
            number + 1,
            lanes.len() * 40 + 30,
            after(moment.offset_ms),
        );
    }
    out.push_str("</svg>");
    out
}

/// Time since the beginning, short.
fn after(ms: i64) -> String {
    match ms {
        ..10_000 => format!("+{ms} ms"),
        10_000..600_000 => format!("+{} s", ms / 1000),
        _ => format!("+{} min", ms / 60_000),
    }
}
