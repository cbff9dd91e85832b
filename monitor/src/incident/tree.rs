//! The processes of an incident as one tree, put together from the lines of ancestors in its findings.

use super::group::{Case, on_host};
use crate::output::record::{Alert, TreeNode};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// Nodes shown; a storm of processes is counted, not drawn.
pub const SHOWN: usize = 200;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Steps below its outermost ancestor that is known.
    pub depth: usize,
    /// `PID-START_NS`.
    pub entity_id: String,
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// comm.
    pub name: String,
    /// Arguments as one line, or the executable.
    pub command: String,
    /// `host`, or the container.
    pub place: String,
    /// Kinds of the findings that blame it.
    pub findings: Vec<&'static str>,
    /// It was part of one without being blamed (a downloader, a relay).
    pub accomplice: bool,
    /// It got the signal.
    pub killed: bool,
}

/// What a row says about a container, for people.
pub fn place(alert: &Alert) -> String {
    let container = &alert.container;
    if on_host(alert) {
        return "host".into();
    }
    let short = container.id.get(..12).unwrap_or(&container.id);
    let name = if container.name.is_empty() { short } else { container.name.as_str() };
    match container.image.name.as_str() {
        "" => format!("container {name}"),
        image => format!("container {name} ({image})"),
    }
}

#[derive(Default)]
struct Builder {
    nodes: BTreeMap<String, Node>,
    parents: BTreeMap<String, String>,
}

impl Builder {
    fn add(&mut self, node: &TreeNode, alert: &Alert) -> &mut Node {
        let key = node.entity_id.clone();
        let command = if node.command_line.is_empty() { &node.executable } else { &node.command_line };
        let place = if node.in_container { place(alert) } else { "host".into() };
        let entry = self.nodes.entry(key.clone()).or_insert_with(|| Node {
            depth: 0,
            entity_id: key,
            pid: node.pid,
            name: node.name.clone(),
            command: command.clone(),
            place: place.clone(),
            findings: Vec::new(),
            accomplice: false,
            killed: false,
        });
        // The latest program is shown; a name that came late is taken in.
        if !node.name.is_empty() {
            entry.name.clone_from(&node.name);
            entry.command.clone_from(command);
        }
        if node.in_container {
            entry.place = place;
        }
        entry.killed |= alert.bulkhead.killed_pids.contains(&node.pid);
        entry
    }

    fn alert(&mut self, alert: &Alert) {
        let line = &alert.bulkhead.process_tree;
        for pair in line.windows(2) {
            if let [parent, child] = pair {
                self.parents.insert(child.entity_id.clone(), parent.entity_id.clone());
            }
        }
        for (at, node) in line.iter().enumerate() {
            let culprit = at + 1 == line.len();
            let entry = self.add(node, alert);
            let kind = alert.event.action.0.name();
            if culprit && !entry.findings.contains(&kind) {
                entry.findings.push(kind);
            }
        }
        for node in &alert.bulkhead.accomplices {
            self.add(node, alert).accomplice = true;
        }
    }

    fn flatten(&self) -> Vec<Node> {
        let mut children: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
        for node in self.nodes.values() {
            let parent = self.parents.get(&node.entity_id).filter(|p| self.nodes.contains_key(*p));
            children.entry(parent.map_or("", String::as_str)).or_default().push(node);
        }
        for list in children.values_mut() {
            list.sort_by_key(|node| (started(&node.entity_id), node.pid));
        }
        let mut out = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut waiting: Vec<(&Node, usize)> = children.get("").into_iter().flatten().rev().map(|n| (*n, 0)).collect();
        while let Some((node, depth)) = waiting.pop() {
            if !seen.insert(&node.entity_id) {
                continue;
            }
            out.push(Node { depth, ..node.clone() });
            let below = children.get(node.entity_id.as_str()).into_iter().flatten().rev();
            waiting.extend(below.map(|child| (*child, depth + 1)));
        }
        out
    }
}

/// Start of a process, from its `PID-START_NS`.
pub fn started(entity_id: &str) -> u64 {
    entity_id.rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The tree, outermost and oldest first. What many levels of the host's own processes have above the first branch is
/// left out: it is the same for everything on the machine.
pub fn build(case: &Case) -> Vec<Node> {
    let mut builder = Builder::default();
    for alert in &case.alerts {
        builder.alert(alert);
    }
    trimmed(builder.flatten())
}

/// Takes off leading nodes of the host that have one child only and are no culprits. Beside the first tree there may only
/// be accomplices of which no parent is known.
fn trimmed(mut nodes: Vec<Node>) -> Vec<Node> {
    let plain = |node: &Node| node.findings.is_empty() && node.place == "host" && !node.accomplice;
    loop {
        let end = nodes.iter().skip(1).position(|node| node.depth == 0).map_or(nodes.len(), |at| at + 1);
        let (first, others) = nodes.split_at(end);
        let children = first.iter().filter(|node| node.depth == 1).count();
        let alone = others.iter().all(|node| node.depth > 0 || node.accomplice);
        if !alone || children != 1 || !first.iter().take(2).all(plain) {
            return nodes;
        }
        nodes.iter_mut().take(end).for_each(|node| node.depth = node.depth.saturating_sub(1));
        nodes.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::samples;

    #[test]
    fn one_tree_from_the_container_to_the_hosts_child() {
        let nodes = build(&samples::chain());
        let text: Vec<String> =
            nodes.iter().map(|n| format!("{}{} {}", "  ".repeat(n.depth), n.name, n.place)).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        systemd host
          containerd-shim host
            sh container web-1 (tomcat:8)
          cron host
            cron host
              sh host
                bash host
        curl host
        ");
        let mut alone = samples::chain();
        alone.alerts.retain(on_host);
        let names: Vec<(usize, String)> = build(&alone).into_iter().map(|n| (n.depth, n.name)).collect();
        let node = |depth: usize, name: &str| (depth, name.to_owned());
        assert_eq!(
            names,
            [node(0, "sh"), node(1, "bash"), node(0, "curl")],
            "what all processes have above is left out"
        );
        let culprits: Vec<&str> = nodes.iter().flat_map(|n| n.findings.iter().copied()).collect();
        assert_eq!(culprits, ["escape", "persistence_cron", "download_exec"]);
    }
}
