//! Rule 3: the loop inside one process. It keeps its connection on some other descriptor, receives
//! a line, runs it, sends the output back. No descriptor of any shell gives it away at exec; that a
//! line which came down the wire is run as a command does.

use crate::detect::bounded::Bounded;
use crate::detect::context::{Context, describe};
use crate::detect::lines::Lines;
use crate::event::{Event, Exec, Payload, ProcessKey, Stdio, state};
use crate::finding::{Detection, FindingKind};
use std::net::SocketAddr;

/// Processes whose received lines are remembered.
const PROCESSES: usize = 256;
/// Children with both outputs on the connection that make a loop once something was received.
const CHILDREN: u32 = 2;

#[derive(Debug)]
struct Line {
    peer: SocketAddr,
    received: Lines,
    last_event: u64,
    children: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Commands {
    open: Bounded<ProcessKey, Line>,
}

impl Default for Commands {
    fn default() -> Self {
        Self { open: Bounded::new(PROCESSES) }
    }
}

impl Commands {
    /// Remembers what a process received.
    pub fn payload(&mut self, event: &Event, payload: &Payload) {
        if !payload.inbound || payload.peer.port() == 53 {
            return;
        }
        let make = || Line { peer: payload.peer, received: Lines::default(), last_event: event.id, children: 0 };
        if let Some(line) = self.open.entry(event.process, make) {
            line.peer = payload.peer;
            line.last_event = event.id;
            line.received.feed(event, payload);
        }
    }

    /// Is this program start what the parent was told over its connection?
    pub fn exec(&mut self, event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
        let owner = std::iter::once(event.process)
            .chain(cx.processes.same_program(exec.parent).map(|p| p.key))
            .find(|key| self.open.get(key).is_some())
            .or_else(|| self.open.get(&exec.parent).map(|_| exec.parent))?;
        let line = self.open.get_mut(&owner)?;
        let on_wire = |s: &Stdio| s.outbound() == Some(line.peer);
        let (what, detail, source) = if let Some((text, source)) = line.received.ran(&exec.args) {
            ("received_line_is_run", format!("`{text}` came from {} and was run", line.peer), source)
        } else if on_wire(&exec.stdio[1]) && on_wire(&exec.stdio[2]) && is_shell(owner, cx) {
            line.children += 1;
            if line.children < CHILDREN {
                return None;
            }
            let detail = format!("{} programs wrote both outputs to {}", line.children, line.peer);
            ("children_answer_on_socket", detail, line.last_event)
        } else {
            return None;
        };
        let peer = line.peer;
        let message = format!("{} runs the commands it receives from {peer}", cx.describe(owner));
        let ran = describe(&exec.comm, &exec.args, event.process.tgid);
        let mut detection = Detection::new(FindingKind::ReverseShell, owner, message)
            .with(event.id, what, 0, detail)
            .with(source, "received", 0, format!("bytes from {peer} before it ran {ran}"));
        detection.peer = Some(peer);
        // The loop dies, not the short child; but this is judged from bytes, so it is only killed
        // where the shell itself holds the line.
        detection.alert_only = !is_shell(owner, cx);
        if owner != event.process {
            detection.accomplices.push(event.process);
        }
        Some(detection)
    }
}

fn is_shell(key: ProcessKey, cx: &Context<'_>) -> bool {
    cx.processes.get(key).is_some_and(|p| p.has(state::TASK_SHELL))
}
