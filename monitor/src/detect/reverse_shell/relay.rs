//! Rule 2: the shell has no connection itself; a pipe, FIFO, socket pair or pty leads to a process
//! that has. And rule 4, the same with an accepted connection.

use super::{is_relay, reads_commands, shape};
use crate::detect::context::{Context, describe};
use crate::event::{Connect, Event, Exec, Form, HOST, Origin, ProcessKey, Reason, Stdio, state};
use crate::finding::{Detection, FindingKind};
use crate::provenance::Process;
use std::net::SocketAddr;

const UDP: u16 = 17;
const DNS: u16 = 53;

/// A shell is started on a channel that leads to an outbound connection.
pub fn at_exec(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
    let wrapped = wrapped_by(event, exec, cx);
    let reported = event.reason == Reason::ReverseShell || is_relay(exec) && is_loop(exec, cx) || wrapped.is_some();
    let pty = exec.stdio[0] == Stdio::Tty && exec.task_flags & state::TASK_SHELL != 0;
    // The kernel half does not follow ptys; the parent's own descriptors tell.
    let parent = wrapped.unwrap_or(exec.parent);
    let python_pty = pty && is_on_the_wire(parent, cx);
    if !reported && !python_pty || !reads_commands(exec) {
        return None;
    }
    // With a script or `-c` the channel carries data: node's `exec("convert …")`, openvpn's up
    // script, consul's checks.
    if matches!(exec.form, Form::Argument | Form::Script) && !event.prevented() {
        return None;
    }
    if !event.prevented() && is_honest_feeder(event, exec, parent, cx, python_pty) {
        return None;
    }
    let feeder = feeder(event, parent, cx);
    let peer = peer_of(event, parent, cx);
    let via = feeder.map_or_else(|| "another process".to_owned(), |f| cx.describe(f));
    let to = peer.map_or_else(String::new, |p| format!(" to {p}"));
    let message = format!(
        "{} takes its commands from {via}, which holds an outbound connection{to}",
        describe(&exec.comm, &exec.args, event.process.tgid)
    );
    let what = if pty { "pty_relay" } else { "relay" };
    let mut detection = Detection::new(FindingKind::ReverseShell, event.process, message).with(
        event.id,
        what,
        0,
        format!("descriptors 0, 1, 2: {}", shape(&exec.stdio)),
    );
    detection.peer = peer;
    detection.accomplices = feeder.into_iter().collect();
    Some(detection)
}

/// `sh -c SHELL` of a relay (ncat --sh-exec, popen, script -c): the shell has the very channels that its parent, a shell with a text,
/// was given by a program with a connection. Answers that program.
fn wrapped_by(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<ProcessKey> {
    let channel = |s: &Stdio| matches!(s, Stdio::Pipe(_) | Stdio::Unix(_) | Stdio::Tty);
    if exec.form != Form::Stdin || exec.task_flags & state::TASK_SHELL == 0 || !exec.stdio[..2].iter().all(channel) {
        return None;
    }
    let wrapper = cx.processes.get(exec.parent).filter(|p| p.program.form == Form::Argument)?;
    let feeder = cx.processes.parent(wrapper.key).filter(|p| p.container == event.container)?;
    let same = wrapper.has(state::TASK_SHELL) && wrapper.program.stdio[..2] == exec.stdio[..2];
    let own = feeder.program.stdio[..2] == exec.stdio[..2];
    let speaks = !feeder.has(state::TASK_SHELL | state::TASK_SESSION_SERVER | state::TASK_PACKAGE_MANAGER)
        && (cx.processes.outbound(feeder.key).next().is_some() || is_on_the_wire(feeder.key, cx));
    // `curl … | sh -c bash`: the pipe is somebody else's.
    // (A socket of a pair is written by who holds the other one.)
    let fed = matches!(exec.stdio[0], Stdio::Pipe(_))
        && cx
            .processes
            .in_container(event.container)
            .any(|p| p.key != feeder.key && p.program.stdio[1] == exec.stdio[0]);
    (same && !own && speaks && !fed).then_some(feeder.key)
}

/// The relay bit alone also stands for `cat x.sh | sh | nc loghost`, where only the output leaves: it
/// counts when both ends of the shell are channels of a parent with a connection.
fn is_loop(exec: &Exec, cx: &Context<'_>) -> bool {
    let channel = |s: &Stdio| matches!(s, Stdio::Pipe(_) | Stdio::Unix(_) | Stdio::Tty);
    exec.task_flags & state::TASK_SHELL != 0
        && channel(&exec.stdio[0])
        && channel(&exec.stdio[1])
        && cx.processes.outbound(exec.parent).next().is_some()
}

/// What feeds shells without being an attack.
fn is_honest_feeder(event: &Event, exec: &Exec, parent: ProcessKey, cx: &Context<'_>, python_pty: bool) -> bool {
    // `docker exec -i … bash -s`, an attach, the runtime's FIFOs: the other end is outside.
    // Not so when the kernel half names the other end and it is inside (`coproc nc …; exec bash <&…`).
    let inside =
        event.peer_tgid.and_then(|tgid| cx.processes.lookup_tgid(tgid)).is_some_and(|p| p.container == event.container);
    if !inside && cx.is_entered(event, exec.task_flags, exec.parent) {
        return true;
    }
    let parent = cx.processes.get(parent);
    // sshd, inetd: sessions that came in. They do connect outward themselves (name lookups, LDAP).
    if parent.is_some_and(|p| p.has(state::TASK_SESSION_SERVER) && Context::is_from_image(p)) {
        return true;
    }
    if python_pty {
        return false;
    }
    let pty = exec.stdio[0] == Stdio::Tty;
    let Some(parent) = parent else { return pty };
    // A terminal under a server (JupyterLab, ttyd, code-server), sudo's or script's pty: these
    // have connections of their own. On the host every terminal emulator and editor does.
    let listens = cx.processes.same_program(parent.key).any(|p| p.listening);
    if pty && (listens || event.container == HOST) {
        return true;
    }
    // Nothing but name lookups was ever sent: the kernel's bit does not tell these apart. A
    // verdict about another process than the parent (a FIFO loop) rests on that process.
    let parents_own = event.peer_tgid.is_none_or(|t| t == parent.key.tgid);
    let known = !parent.program.exe.is_empty() && parent.program.exec_event != 0;
    pty && parents_own && known && cx.processes.outbound(parent.key).next().is_none()
}

/// The holder has a connection on its own stdio: `os.dup2(s, 0…2); pty.spawn("/bin/sh")`.
fn is_on_the_wire(holder: ProcessKey, cx: &Context<'_>) -> bool {
    cx.processes.same_program(holder).any(|p| p.has(state::TASK_STDIN_INET) && p.has(state::TASK_STDOUT_INET))
}

/// Who is at the other end.
fn feeder(event: &Event, parent: ProcessKey, cx: &Context<'_>) -> Option<ProcessKey> {
    event
        .peer_tgid
        .and_then(|tgid| cx.processes.lookup_tgid(tgid))
        .or_else(|| cx.processes.get(parent))
        .filter(|p| p.container == event.container && p.key != event.process)
        .map(|p| p.key)
}

/// The remote address of a relay.
pub fn peer_of(event: &Event, parent: ProcessKey, cx: &Context<'_>) -> Option<SocketAddr> {
    let feeder = feeder(event, parent, cx)?;
    cx.processes
        .same_program(feeder)
        .flat_map(|p| {
            let stdio = p.program.stdio.iter().filter_map(Stdio::outbound);
            p.outbound.iter().rev().map(|o| o.peer).chain(stdio).collect::<Vec<_>>()
        })
        .next()
}

/// The process at the network end connects after the shell was started.
pub fn at_connect(event: &Event, connect: &Connect, cx: &Context<'_>, reported: bool) -> Option<Detection> {
    let lookup = connect.protocol == UDP && connect.peer.port() == DNS;
    let server = connect.task_flags & state::TASK_SESSION_SERVER != 0;
    let fed = fed_shell(event, connect, cx);
    if !event.prevented() {
        // A name lookup comes before the connection itself; sshd's own is no session.
        if lookup || server {
            return None;
        }
        // `subprocess.run(["bash", "-s"], input=…)` and later a request: the shell is long gone.
        match (reported, fed) {
            (true, None) if sink_is_gone(connect, cx) => return None,
            (false, None) => return None,
            _ => {}
        }
    }
    let shell = fed.map_or_else(|| "a shell".to_owned(), |s| cx.describe(s.key));
    let message = format!("{} feeds {shell} and connects to {}", cx.describe(event.process), connect.peer);
    let culprit = fed.map_or(event.process, |s| s.key);
    let mut detection = Detection::new(FindingKind::ReverseShell, culprit, message).with(
        event.id,
        "relay_connects",
        0,
        format!("{} connects to {} with a shell at the end of its pipe", connect.comm, connect.peer),
    );
    detection.peer = Some(connect.peer);
    if culprit != event.process {
        detection.accomplices.push(event.process);
    }
    // Without the kernel's word this rests on the family alone: no killing.
    detection.alert_only = !reported;
    Some(detection)
}

/// A stage between the two (`cat FIFO | sh | nc … > FIFO`) comes last: the network end has connected, the shell waits,
/// and now bytes get from the one to the other. What the stage reads comes from `origin`.
pub fn at_stage(event: &Event, origin: Option<&Origin>, cx: &Context<'_>) -> Option<Detection> {
    let shell = event.peer_tgid.and_then(|tgid| cx.processes.lookup_tgid(tgid));
    if event.reason != Reason::ReverseShell || shell.is_some_and(|s| !s.alive()) && !event.prevented() {
        return None;
    }
    let shell = shell.filter(|s| s.container == event.container);
    let peer = origin.and_then(|origin| origin.peer);
    let to = peer.map_or_else(|| "a remote host".to_owned(), |p| p.to_string());
    let takes = shell.map_or_else(|| "a shell".to_owned(), |s| cx.describe(s.key));
    let stage = cx.describe(event.process);
    let message = format!("{stage} carries commands from a connection to {to} to {takes}, whose answers go back there");
    let culprit = shell.map_or(event.process, |s| s.key);
    let detail = "the last stage of a chain of pipes from the connection to the shell".to_owned();
    let mut detection =
        Detection::new(FindingKind::ReverseShell, culprit, message).with(event.id, "relay_stage", 0, detail);
    detection.peer = peer;
    let network = origin.and_then(|origin| cx.processes.get(origin.process)).map(|p| p.key);
    detection.accomplices = network.into_iter().chain([event.process]).filter(|key| *key != culprit).collect();
    Some(detection)
}

fn sink_is_gone(connect: &Connect, cx: &Context<'_>) -> bool {
    connect.sink_tgid.and_then(|tgid| cx.processes.lookup_tgid(tgid)).is_some_and(|sink| !sink.alive())
}

/// A living shell that takes commands from a channel of the connecting process.
fn fed_shell<'a>(event: &Event, connect: &Connect, cx: &Context<'a>) -> Option<&'a Process> {
    let named = connect.sink_tgid.and_then(|tgid| cx.processes.lookup_tgid(tgid));
    if let Some(shell) = named.filter(|s| s.alive() && s.container == event.container) {
        return Some(shell);
    }
    let fed = cx.processes.in_container(event.container).filter(|p| {
        p.has(state::TASK_SHELL | state::TASK_INTERPRETER)
            && p.program.form == Form::Stdin
            && matches!(p.program.stdio[0], Stdio::Pipe(_) | Stdio::Unix(_))
            && p.parent.is_some_and(|parent| cx.processes.same_program(event.process).any(|own| own.key == parent))
    });
    // The table has no order; the same events are to name the same shell.
    fed.min_by_key(|p| (p.key.start_ns, p.key.tgid))
}

/// Rule 4: an interactive shell is served to whoever connects. inetd and sshd scripts have an
/// operand or `-c`; a web terminal's shell sits on a pty; what is left reads its commands from an
/// accepted socket, or from the pipes or socket pair of a listening process.
pub fn bind_shell(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
    let host = event.container == HOST;
    if host || exec.task_flags & state::TASK_SHELL == 0 || exec.form != Form::Stdin {
        return None;
    }
    let accepted = |s: &Stdio| matches!(s, Stdio::InetOther(Some(peer)) if peer.port() != 0);
    let served = accepted(&exec.stdio[0]) && (accepted(&exec.stdio[1]) || accepted(&exec.stdio[2]));
    let channel = |s: &Stdio| matches!(s, Stdio::Pipe(_) | Stdio::Unix(_));
    let relayed = channel(&exec.stdio[0])
        && channel(&exec.stdio[1])
        && cx
            .processes
            .same_program(exec.parent)
            .any(|p| p.listening && p.container == event.container && !p.has(state::TASK_SESSION_SERVER));
    // A runtime's end of a channel is outside; a connection that was accepted is nobody's but the container's.
    if !served && (!relayed || cx.is_entered(event, exec.task_flags, exec.parent)) {
        return None;
    }
    let (what, how) = if served {
        ("stdio_is_accepted_socket", "has its standard input and output on an accepted connection")
    } else {
        ("bind_relay", "takes its commands from a process that listens for connections")
    };
    let message = format!("{} {how}", describe(&exec.comm, &exec.args, event.process.tgid));
    let mut detection = Detection::new(FindingKind::ReverseShell, event.process, message).with(
        event.id,
        what,
        0,
        format!("descriptors 0, 1, 2: {}", shape(&exec.stdio)),
    );
    if let Stdio::InetOther(peer) = exec.stdio[0] {
        detection.peer = peer;
    }
    // An accepted socket may be older than the monitor and lead elsewhere.
    detection.alert_only = true;
    Some(detection)
}
