//! Rule 4 in a pipeline: a shell is served by a program that listens at its end and hands what comes back to its beginning
//! (`cat f | sh | nc -l 4444 > f`). Neither started the other.

use super::shape;
use crate::detect::context::Context;
use crate::event::{Connect, ConnectOp, Event, Exec, Form, HOST, Stdio, state};
use crate::finding::{Detection, FindingKind};
use crate::provenance::Process;

/// The shell comes last.
pub fn at_exec(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
    if event.container == HOST || exec.task_flags & state::TASK_SHELL == 0 || exec.form != Form::Stdin {
        return None;
    }
    let shell = cx.process(event)?;
    let listening = cx.processes.in_container(event.container).filter(|p| p.listening && is_closed(shell, p));
    let listener = listening.min_by_key(|p| (p.key.start_ns, p.key.tgid))?;
    Some(detection(event, shell, listener, cx))
}

/// The listener comes last.
pub fn at_listen(event: &Event, connect: &Connect, cx: &Context<'_>) -> Option<Detection> {
    if event.container == HOST || connect.op != ConnectOp::Listen {
        return None;
    }
    let listener = cx.process(event)?;
    let served = cx
        .processes
        .in_container(event.container)
        .filter(|p| p.has(state::TASK_SHELL) && p.program.form == Form::Stdin && p.alive() && is_closed(p, listener));
    let shell = served.min_by_key(|p| (p.key.start_ns, p.key.tgid))?;
    Some(detection(event, shell, listener, cx))
}

/// Does the listener send what the shell says, and does what it receives go to the shell: by a pipe that both have, or by a FIFO,
/// which a stage in front of the shell reads?
fn is_closed(shell: &Process, listener: &Process) -> bool {
    let [input, output, errors] = &shell.program.stdio;
    let [from, to, _] = &listener.program.stdio;
    let (Stdio::Pipe(_), Stdio::Pipe(said), Stdio::Pipe(received)) = (input, from, to) else {
        return false;
    };
    let says = from == output || from == errors;
    // A FIFO is on a file system, not where the kernel keeps its pipes.
    let by_fifo = received.dev != said.dev;
    listener.alive() && says && (to == input || by_fifo)
}

fn detection(event: &Event, shell: &Process, listener: &Process, cx: &Context<'_>) -> Detection {
    let (who, via) = (cx.describe(shell.key), cx.describe(listener.key));
    let message = format!("{who} answers whoever connects to {via}, and takes its commands from there");
    let detail = format!("descriptors 0, 1, 2: {}", shape(&shell.program.stdio));
    let mut detection =
        Detection::new(FindingKind::ReverseShell, shell.key, message).with(event.id, "bind_circle", 0, detail);
    detection.accomplices = vec![listener.key];
    // The kernel half has not followed the bytes.
    detection.alert_only = true;
    detection
}
