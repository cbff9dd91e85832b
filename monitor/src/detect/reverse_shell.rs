//! A shell or interpreter that takes its commands from an outbound connection. The kernel half
//! reports the shapes it sees at exec, dup and connect time; here honest ones are told apart, and
//! shapes are added that need the bytes, the listener or a third process: the command loop inside one process, the bind
//! shell, the shell behind a socket file, and the one at a terminal whose holder connects later.

mod circle;
mod commands;
mod neighbour;
mod relay;
mod terminal;

use super::Detector;
use super::context::Context;
use crate::event::{Body, Connect, Event, Exec, Form, Kind, Open, ProcessKey, Reason, Stdio, file, state};
use crate::finding::{Detection, FindingKind};
use commands::Commands;
use monitor_common::exec::EXEC_RELAY;
use std::net::SocketAddr;
use terminal::Terminals;

/// See the module.
#[derive(Default)]
pub struct ReverseShell {
    commands: Commands,
    terminals: Terminals,
}

impl Detector for ReverseShell {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Exec, Kind::Open, Kind::Moved, Kind::Connect, Kind::Payload]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        match &event.body {
            Body::Exec(exec) => self.exec(event, exec, cx),
            Body::Open(open) if is_stage(open) => relay::at_stage(event, open.origin.as_ref(), cx),
            Body::Open(open) => refused(event, open, cx),
            Body::Moved { stdio, task_flags } => moved(event, stdio, *task_flags, cx),
            Body::Connect(connect) => relay_connect(event, connect, cx)
                .or_else(|| neighbour::at_connect(event, connect, cx))
                .or_else(|| circle::at_listen(event, connect, cx)),
            Body::Payload(payload) => {
                self.commands.payload(event, payload);
                self.terminals.payload(event, payload, cx)
            }
            _ => None,
        }
    }
}

impl ReverseShell {
    fn exec(&mut self, event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
        direct(event, exec, cx)
            .or_else(|| relay::at_exec(event, exec, cx))
            .or_else(|| neighbour::at_exec(event, exec, cx))
            .or_else(|| self.commands.exec(event, exec, cx))
            .or_else(|| relay::bind_shell(event, exec, cx))
            .or_else(|| circle::at_exec(event, exec, cx))
            .or_else(|| if reads_commands(exec) { None } else { relay::at_stage(event, exec.origin.as_ref(), cx) })
            .or_else(|| prevented(event, exec, cx))
    }
}

/// A FIFO is opened by who passes on what is in it.
fn is_stage(open: &Open) -> bool {
    open.file.has(file::FILE_FIFO) && !open.file.has(file::FILE_SCRIPT)
}

/// Where commands come from and answers go to, when both are outbound connections.
fn both_ways(stdio: &[Stdio; 3]) -> Option<SocketAddr> {
    let peer = stdio[0].outbound()?;
    (stdio[1].outbound().is_some() || stdio[2].outbound().is_some()).then_some(peer)
}

fn reads_commands(exec: &Exec) -> bool {
    exec.task_flags & (state::TASK_SHELL | state::TASK_INTERPRETER) != 0
}

/// Rule 1: descriptor 0 and 1 or 2 are connections the container made.
fn direct(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
    let interpreter = reads_commands(exec);
    let peer = match both_ways(&exec.stdio) {
        // A program that reads no commands may well talk over 0 and 1 (a protocol helper under
        // socat); one that was not in the image, with its errors on the wire too, is an implant.
        Some(peer) if interpreter || all_three(&exec.stdio) && is_foreign(exec) => peer,
        Some(_) => return None,
        // `bash < /dev/tcp/…`: the commands come from the wire wherever the answers go. With a
        // script or `-c` the wire is only its data.
        None if exec.task_flags & state::TASK_SHELL != 0 && exec.form == Form::Stdin => exec.stdio[0].outbound()?,
        None => return None,
    };
    let message = format!(
        "{} has its standard input and output on a connection to {peer}",
        super::context::describe(&exec.comm, &exec.args, event.process.tgid)
    );
    let mut detection = Detection::new(FindingKind::ReverseShell, event.process, message).with(
        event.id,
        "stdio_is_outbound_socket",
        0,
        format!("descriptors 0, 1, 2: {}", shape(&exec.stdio)),
    );
    if !interpreter {
        detection.alert_only = true;
        detection = detection.with(event.id, "drift", 0, format!("{} is not from the image", exec.exe.path));
    }
    detection.peer = Some(peer);
    detection.accomplices = relay_parents(event, exec.parent, cx);
    Some(detection)
}

fn all_three(stdio: &[Stdio; 3]) -> bool {
    stdio.iter().all(|s| s.outbound().is_some())
}

fn is_foreign(exec: &Exec) -> bool {
    exec.task_flags & (state::TASK_DRIFT | state::TASK_EXE_TAINTED) != 0
}

/// The parent goes with the shell when it has the connection on its own stdio (a pty relay).
fn relay_parents(event: &Event, parent: ProcessKey, cx: &Context<'_>) -> Vec<ProcessKey> {
    cx.processes
        .get(parent)
        .filter(|p| p.container == event.container && p.has(state::TASK_STDIN_INET))
        .map(|p| p.key)
        .into_iter()
        .collect()
}

/// A running shell or interpreter has put a connection on its stdio. Only all three make a remote
/// shell: `printf … >&3` moves it onto 1, `while read … done <&3` onto 0, a health check or an IRC
/// notifier in bash onto both for a moment.
fn moved(event: &Event, stdio: &[Stdio; 3], task_flags: u32, cx: &Context<'_>) -> Option<Detection> {
    if !event.prevented() && (!all_three(stdio) || task_flags & (state::TASK_SHELL | state::TASK_INTERPRETER) == 0) {
        return None;
    }
    let peer = stdio.iter().find_map(Stdio::outbound);
    let to = peer.map_or_else(|| "a remote host".to_owned(), |p| p.to_string());
    let message =
        format!("{} moved its standard input and output onto a connection to {to}", cx.describe(event.process));
    let mut detection = Detection::new(FindingKind::ReverseShell, event.process, message).with(
        event.id,
        "stdio_moved_to_outbound_socket",
        0,
        format!("descriptors 0, 1, 2: {}", shape(stdio)),
    );
    detection.peer = peer;
    Some(detection)
}

/// A process connects while a shell takes its commands from it.
fn relay_connect(event: &Event, connect: &Connect, cx: &Context<'_>) -> Option<Detection> {
    let reported = event.reason == Reason::ReverseShell;
    if !reported && connect.task_flags & state::TASK_FEEDS_SHELL == 0 {
        return None;
    }
    relay::at_connect(event, connect, cx, reported)
}

/// What the kernel half stopped is always told, whatever judgement thinks of the shape.
fn prevented(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
    if !event.prevented() || event.reason != Reason::ReverseShell {
        return None;
    }
    let message = format!(
        "{} was stopped: its standard input leads to an outbound connection",
        super::context::describe(&exec.comm, &exec.args, event.process.tgid)
    );
    let detail = format!("descriptors 0, 1, 2: {}", shape(&exec.stdio));
    let mut detection = Detection::new(FindingKind::ReverseShell, event.process, message).with(
        event.id,
        "stdio_leads_to_outbound_socket",
        0,
        detail,
    );
    detection.peer = exec.stdio.iter().find_map(Stdio::outbound).or_else(|| relay::peer_of(event, exec.parent, cx));
    Some(detection)
}

/// The shell was refused before it became one.
fn refused(event: &Event, open: &Open, cx: &Context<'_>) -> Option<Detection> {
    if !event.prevented() || event.reason != Reason::ReverseShell {
        return None;
    }
    let peer = open.origin.as_ref().and_then(|origin| origin.peer);
    let to = peer.map_or_else(|| "a remote host".to_owned(), |p| p.to_string());
    let who = cx.describe(event.process);
    let message =
        format!("{who} tried to start {} with its standard input and output on a connection to {to}", open.file.path);
    let detail = format!("descriptors 0 and 1 or 2: connection to {to}");
    let mut detection = Detection::new(FindingKind::ReverseShell, event.process, message).with(
        event.id,
        "stdio_is_outbound_socket",
        0,
        detail,
    );
    detection.peer = peer;
    detection.file = Some(open.file.path.to_string());
    Some(detection)
}

/// The three descriptors in words.
fn shape(stdio: &[Stdio; 3]) -> String {
    let words: Vec<String> = stdio
        .iter()
        .map(|s| match s {
            Stdio::None => "closed".to_owned(),
            Stdio::Tty => "terminal".to_owned(),
            Stdio::File(_) => "file".to_owned(),
            Stdio::Device => "device".to_owned(),
            Stdio::Pipe(inode) => format!("pipe:[{}]", inode.ino),
            Stdio::InetOut(peer) => format!("connection to {peer}"),
            Stdio::InetOther(Some(peer)) => format!("connection from {peer}"),
            Stdio::InetOther(None) => "inet socket".to_owned(),
            Stdio::Unix(inode) => format!("unix socket:[{}]", inode.ino),
            Stdio::Other => "other".to_owned(),
        })
        .collect();
    words.join(", ")
}

/// Is the exec's relay bit set?
fn is_relay(exec: &Exec) -> bool {
    exec.flags & EXEC_RELAY != 0
}

#[cfg(test)]
mod tests;
