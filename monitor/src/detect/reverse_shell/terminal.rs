//! Rule 2 at a pseudo terminal whose holder connects after it has started the shell. The kernel half does not follow
//! terminals; that bytes come from the network which nobody asked for tells: at once, or for a prompt.

use super::shape;
use crate::detect::bounded::Bounded;
use crate::detect::context::Context;
use crate::detect::shell_connect::is_greeting;
use crate::event::{Event, Form, HOST, Payload, Stdio, state};
use crate::finding::{Detection, FindingKind};
use crate::provenance::Process;
use std::sync::Arc;

/// Connections remembered on which a question was asked.
const ASKED: usize = 512;
/// What a shell's prompt ends with.
const PROMPTS: &[&[u8]] = &[b"$ ", b"# ", b"> ", b"% "];

/// See the module.
#[derive(Debug)]
pub struct Terminals {
    asked: Bounded<u64, ()>,
}

impl Default for Terminals {
    fn default() -> Self {
        Self { asked: Bounded::new(ASKED) }
    }
}

impl Terminals {
    /// The first bytes of a connection, in either direction.
    pub fn payload(&mut self, event: &Event, payload: &Payload, cx: &Context<'_>) -> Option<Detection> {
        if payload.index != 0 || payload.peer.port() == 53 || event.container == HOST {
            return None;
        }
        if !payload.inbound {
            // A test that drives a shell, and asks a service or a database.
            if !PROMPTS.iter().any(|prompt| payload.data.ends_with(prompt)) {
                self.asked.insert(payload.cookie, ());
            }
            return None;
        }
        if self.asked.get(&payload.cookie).is_some() || is_greeting(&payload.data) {
            return None;
        }
        let holder = cx.process(event)?;
        // An older connection is judged when the shell starts.
        let connected = cx.processes.outbound(event.process).find(|o| o.cookie == payload.cookie)?.time_ns;
        let held = cx.processes.in_container(event.container).filter(|p| is_held(p, holder, cx));
        let shell = held.filter(|p| p.program.time_ns < connected).min_by_key(|p| (p.key.start_ns, p.key.tgid))?;
        let (who, via) = (cx.describe(shell.key), cx.describe(holder.key));
        let message = format!("{who} is at a terminal of {via}, which is told something from {}", payload.peer);
        let detail = format!("descriptors 0, 1, 2: {}", shape(&shell.program.stdio));
        let mut detection =
            Detection::new(FindingKind::ReverseShell, shell.key, message).with(event.id, "pty_relay", 0, detail);
        detection.peer = Some(payload.peer);
        detection.accomplices = vec![holder.key];
        // What it does with the bytes is not seen.
        detection.alert_only = true;
        Some(detection)
    }
}

/// Is it a shell at a terminal that the holder made? Who has a terminal of its own hands that on (`mc`, `su`); who listens
/// is a web terminal.
fn is_held(shell: &Process, holder: &Process, cx: &Context<'_>) -> bool {
    let Some(maker) = maker(shell, cx) else { return false };
    shell.has(state::TASK_SHELL)
        && shell.program.form == Form::Stdin
        && shell.program.stdio[0] == Stdio::Tty
        && shell.alive()
        && Arc::ptr_eq(&maker.program, &holder.program)
        && maker.container == holder.container
        && maker.program.stdio[0] != Stdio::Tty
        && !maker.has(state::TASK_SHELL | state::TASK_SESSION_SERVER | state::TASK_PACKAGE_MANAGER)
        && !cx.processes.same_program(maker.key).any(|p| p.listening)
}

/// Who started the shell, if need be by way of `sh -c`.
fn maker<'a>(shell: &Process, cx: &Context<'a>) -> Option<&'a Process> {
    let parent = cx.processes.parent(shell.key)?;
    let passes_on =
        parent.has(state::TASK_SHELL) && parent.program.form == Form::Argument && parent.program.stdio[0] == Stdio::Tty;
    if passes_on { cx.processes.parent(parent.key) } else { Some(parent) }
}
