//! Rule 5: neither the shell nor its parent has a connection, but another process of the container that one of them speaks to
//! over a socket file, from another process tree.

use super::shape;
use crate::detect::context::{Context, describe};
use crate::event::{Connect, Event, Exec, Form, HOST, ProcessKey, Stdio, state};
use crate::finding::{Detection, FindingKind};
use crate::provenance::{Neighbour, Process};

/// Between the connect to the socket file and the one to the network: a relay makes one for the other. A database or a
/// name cache has had its own for long.
const TOGETHER_NS: u64 = 10_000_000_000;

/// The shell comes last.
pub fn at_exec(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
    if event.container == HOST || exec.task_flags & state::TASK_SHELL == 0 || exec.form != Form::Stdin {
        return None;
    }
    let shell = cx.processes.get(event.process)?;
    let relay = relays(shell, cx).iter().find_map(|r| network(r, cx))?;
    Some(detection(event, shell.key, relay, describe(&exec.comm, &exec.args, event.process.tgid), cx))
}

/// The relay's connection comes last.
pub fn at_connect(event: &Event, connect: &Connect, cx: &Context<'_>) -> Option<Detection> {
    if event.container == HOST || cx.processes.outbound(event.process).next().is_none_or(|o| o.peer != connect.peer) {
        return None;
    }
    let own = |r: &Relay| cx.processes.same_program(event.process).any(|p| p.key == r.to.listener);
    let shell = cx
        .processes
        .in_container(event.container)
        .filter(|p| p.has(state::TASK_SHELL) && p.program.form == Form::Stdin)
        .filter(|p| relays(p, cx).iter().any(|r| own(r) && network(r, cx).is_some()))
        .min_by_key(|p| (p.key.start_ns, p.key.tgid))?;
    Some(detection(event, shell.key, event.process, cx.describe(shell.key), cx))
}

fn detection(event: &Event, shell: ProcessKey, relay: ProcessKey, who: String, cx: &Context<'_>) -> Detection {
    let peer = cx.processes.outbound(relay).next().map(|o| o.peer);
    let to = peer.map_or_else(|| "a remote host".to_owned(), |p| p.to_string());
    let via = cx.describe(relay);
    let message = format!("{who} takes its commands over a socket file from {via}, which has a connection to {to}");
    let stdio = cx.processes.get(shell).map(|p| shape(&p.program.stdio)).unwrap_or_default();
    let detail = format!("descriptors 0, 1, 2: {stdio}");
    let mut detection =
        Detection::new(FindingKind::ReverseShell, shell, message).with(event.id, "socket_file_relay", 0, detail);
    detection.peer = peer;
    detection.accomplices = vec![relay];
    // The kernel half has not followed the bytes.
    detection.alert_only = true;
    detection
}

/// A connection over a socket file that may carry the shell's commands.
struct Relay {
    to: Neighbour,
    /// It is the shell's own standard input.
    direct: bool,
}

/// Whom the shell takes commands from over a socket file: by its own standard input, or by what its parent passes on.
fn relays(shell: &Process, cx: &Context<'_>) -> Vec<Relay> {
    let stdio = &shell.program.stdio;
    let channel = |s: &Stdio| matches!(s, Stdio::Pipe(_) | Stdio::Unix(_) | Stdio::Tty);
    if !channel(&stdio[0]) || !channel(&stdio[1]) {
        return Vec::new();
    }
    let direct = matches!(stdio[0], Stdio::Unix(_));
    let own = shell.neighbours.iter().filter(|_| direct).map(|to| Relay { to: *to, direct });
    let parent = shell.parent.filter(|key| cx.processes.get(*key).is_some_and(|p| passes_on(p, shell)));
    let parents = parent.into_iter().flat_map(|key| cx.processes.same_program(key)).flat_map(|p| &p.neighbours);
    own.chain(parents.map(|to| Relay { to: *to, direct: false })).collect()
}

/// Did the parent make the shell's channels, rather than to hand on its own?
fn passes_on(parent: &Process, shell: &Process) -> bool {
    let own = &parent.program.stdio[0];
    let handed_on = *own == shell.program.stdio[0] || *own == Stdio::Tty;
    parent.container == shell.container && !handed_on && !parent.has(state::TASK_SHELL | state::TASK_SESSION_SERVER)
}

/// Who, of the listener's program, has made a connection for it.
fn network(relay: &Relay, cx: &Context<'_>) -> Option<ProcessKey> {
    let listener = cx.processes.get(relay.to.listener).filter(|p| p.alive())?;
    let near = |time: u64| relay.direct || time.abs_diff(relay.to.time_ns) < TOGETHER_NS;
    // A server forks for each client.
    let same = |p: &&Process| std::sync::Arc::ptr_eq(&p.program, &listener.program);
    cx.processes
        .in_container(listener.container)
        .filter(same)
        .filter(|p| p.outbound.iter().any(|o| near(o.time_ns)))
        .map(|p| p.key)
        .min_by_key(|key| (*key != relay.to.listener, key.start_ns, key.tgid))
}
