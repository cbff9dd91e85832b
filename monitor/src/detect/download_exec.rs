//! Program text or an executable that came from the network is run. The kernel half follows the
//! bytes (pipes, files, copies); here package managers, runtimes and connections over which nothing
//! ever came are left out, and the shapes are added in which the bytes become program text by an
//! argument: `sh /dev/stdin`, `. ./file`, `sh -c "$(curl …)"`, `xargs sh -c`.

mod text;

use super::Detector;
use super::bounded::Bounded;
use super::context::{Context, describe};
use crate::event::{
    Body, Connect, Event, Exec, Form, HOST, Kind, Open, Origin, ProcessKey, Reason, Stdio, file, state,
};
use crate::finding::{Detection, FindingKind, Severity};
use crate::provenance::Process;
use monitor_common::exec::EXEC_STDIN_TAINTED;
use text::Arrivals;

/// Processes that received something, remembered.
const RECEIVERS: usize = 2048;
/// Shells that wait for an answer, remembered.
const EXPECTANT: usize = 256;

/// See the module.
pub struct DownloadExec {
    /// Who received payload bytes: an origin without any cannot be one.
    received: Bounded<ProcessKey, ()>,
    /// Who was seen sending: shows that payloads of this process do reach us.
    sent: Bounded<ProcessKey, ()>,
    /// Shells that wait on a pipe for a program that has asked and got no answer yet, by that program.
    expectant: Bounded<ProcessKey, Event>,
    arrivals: Arrivals,
}

impl Default for DownloadExec {
    fn default() -> Self {
        Self {
            received: Bounded::new(RECEIVERS),
            sent: Bounded::new(RECEIVERS),
            expectant: Bounded::new(EXPECTANT),
            arrivals: Arrivals::default(),
        }
    }
}

impl Detector for DownloadExec {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Exec, Kind::Open, Kind::Connect, Kind::Payload]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        match &event.body {
            Body::Exec(exec) => self.exec(event, exec, cx),
            Body::Open(open) => self.open(event, open, cx),
            Body::Connect(connect) => pipe_connect(event, connect, cx),
            Body::Payload(payload) => {
                if payload.peer.port() != 53 {
                    let seen = if payload.inbound { &mut self.received } else { &mut self.sent };
                    seen.insert(event.process, ());
                    self.arrivals.payload(event, payload, cx);
                    if payload.inbound {
                        return self.answered(event.process, cx);
                    }
                }
                None
            }
            _ => None,
        }
    }
}

impl DownloadExec {
    fn exec(&mut self, event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
        if !event.prevented() && is_trusted(exec.task_flags, exec.origin.as_ref(), cx) {
            return None;
        }
        if !event.prevented()
            && let Some(origin) = exec.origin.as_ref()
            && self.is_unanswered(event, origin, cx)
        {
            // A file holds what was written; through a pipe the answer is still to come.
            if matches!(exec.stdio[0], Stdio::Pipe(_)) {
                self.expectant.insert(origin.process, event.clone());
            }
            return None;
        }
        let (what, how) = exec_shape(event, exec)
            .or_else(|| text::from_stdin(exec))
            .or_else(|| text::from_xargs(exec, cx))
            .or_else(|| self.arrivals.as_argument(event, exec, cx))?;
        // The runtime's end of a pipe is no download: `docker exec -i … bash -s < script`.
        let fed = what == "stdin_from_network" && matches!(exec.stdio[0], Stdio::Pipe(_) | Stdio::Unix(_));
        let inside = exec
            .origin
            .as_ref()
            .and_then(|o| cx.processes.get(o.process))
            .is_some_and(|p| p.container == event.container);
        if fed && !inside && !event.prevented() && cx.is_entered(event, exec.task_flags, exec.parent) {
            return None;
        }
        let who = describe(&exec.comm, &exec.args, event.process.tgid);
        let from = origin_words(exec.origin.as_ref(), cx);
        let mut detection = Detection::new(FindingKind::DownloadExec, event.process, format!("{who} {how}{from}"))
            .with(event.id, what, 0, format!("{} {how}", exec.comm));
        detection.alert_only = what == "text_as_argument";
        if what == "executable_from_network" {
            detection.file = Some(exec.exe.path.to_string());
        }
        Some(finish(event, detection, exec.origin.as_ref(), cx))
    }

    fn open(&mut self, event: &Event, open: &Open, cx: &Context<'_>) -> Option<Detection> {
        let reported = event.reason == Reason::DownloadExec;
        if !reported && (!open.file.has(file::FILE_TAINTED) || open.file.has(file::FILE_WRITE)) {
            return None;
        }
        if open.task_flags & (state::TASK_SHELL | state::TASK_INTERPRETER) == 0 && !reported {
            return None;
        }
        let origin = open.origin.as_ref();
        if !event.prevented()
            && (is_trusted(open.task_flags, origin, cx)
                || origin.is_some_and(|origin| self.is_unanswered(event, origin, cx)))
        {
            return None;
        }
        let process = cx.process(event);
        let script =
            open.file.has(file::FILE_SCRIPT) || process.is_some_and(|p| text::is_its_script(&p.program, &open.file));
        let sourced =
            process.is_some_and(|p| p.has(state::TASK_SHELL) && text::is_sourced(&p.program.args, &open.file));
        if !reported && !script && !sourced {
            return None;
        }
        let name = &open.file.path;
        let from = origin_words(open.origin.as_ref(), cx);
        let (does, what) = if open.file.has(file::FILE_EXEC) {
            ("starts", "executable_from_network")
        } else if open.file.has(file::FILE_MAPPED) {
            ("loads as code", "code_from_network")
        } else if sourced && !script {
            ("runs", "sourced_from_network")
        } else {
            ("runs", "script_from_network")
        };
        let message = format!("{} {does} {name}, which came from the network{from}", cx.describe(event.process));
        let mut detection = Detection::new(FindingKind::DownloadExec, event.process, message).with(
            event.id,
            what,
            0,
            format!("{name} was written with bytes from the network"),
        );
        detection.file = Some(name.to_string());
        Some(finish(event, detection, open.origin.as_ref(), cx))
    }

    /// An answer has come: it goes to the shell that waits for it.
    fn answered(&mut self, process: ProcessKey, cx: &Context<'_>) -> Option<Detection> {
        let event = self.expectant.remove(&process)?;
        let Body::Exec(exec) = &event.body else { return None };
        self.exec(&event, exec, cx)
    }

    /// It connected, sent, and got no answer before this happened (a runner that only holds a connection):
    /// the bytes so far are its own. Only where its payloads demonstrably reach us.
    fn is_unanswered(&self, event: &Event, origin: &Origin, cx: &Context<'_>) -> bool {
        let Some(source) = cx.processes.get(origin.process) else {
            return false;
        };
        event.container == source.container
            && self.received.get(&source.key).is_none()
            && self.sent.get(&source.key).is_some()
            && !source.outbound.iter().any(|o| o.answered)
    }
}

/// What comes from the network honestly.
fn is_trusted(task_flags: u32, origin: Option<&Origin>, cx: &Context<'_>) -> bool {
    if state::is_package_manager(task_flags) {
        return true;
    }
    let Some(source) = origin.and_then(|origin| cx.processes.get(origin.process)) else {
        return false;
    };
    if cx.is_package_manager(source.key, 0) || has_trusted_ancestor(source, cx) {
        return true;
    }
    // sshd's and inetd's sessions came in; what they carry is somebody's own session.
    if source.has(state::TASK_SESSION_SERVER) && Context::is_from_image(source) {
        return true;
    }
    // The engine pulls images and feeds containers from outside.
    source.container == HOST && cx.settings.runtimes.iter().any(|r| *r == source.comm || *r == source.program.name())
}

/// npm's and pip's helpers, git's transports: the trusted program is a few forks up. A build script in an
/// interpreter may fetch files as part of its installation; a shell, and a downloader that a shell below the
/// trusted program started, is a program like any other.
fn has_trusted_ancestor(source: &Process, cx: &Context<'_>) -> bool {
    if source.has(state::TASK_SHELL) {
        return false;
    }
    let script = source.has(state::TASK_INTERPRETER);
    let above = cx.processes.ancestors(source.key).take(3);
    above
        .take_while(|a| script || !a.has(state::TASK_SHELL) || cx.settings.is_trusted_writer(a))
        .any(|a| cx.settings.is_trusted_writer(a))
}

/// What the kernel half saw at exec.
fn exec_shape(event: &Event, exec: &Exec) -> Option<(&'static str, String)> {
    let reader = exec.task_flags & (state::TASK_SHELL | state::TASK_INTERPRETER) != 0;
    let tainted = exec.exe.has(file::FILE_TAINTED) || exec.task_flags & state::TASK_EXE_TAINTED != 0;
    if tainted {
        let how = format!("was started from {}, whose bytes came from the network", exec.exe.path);
        return Some(("executable_from_network", how));
    }
    let stdin = exec.flags & EXEC_STDIN_TAINTED != 0;
    if stdin && reader && exec.form == Form::Stdin {
        let how = "takes its program text from a pipe or file that carries bytes from the network";
        return Some(("stdin_from_network", how.to_owned()));
    }
    if event.reason != Reason::DownloadExec {
        return None;
    }
    // `curl … | python3 -m json.tool`, `curl … | sh -c 'cat'`: only data, unless it was stopped.
    if stdin && matches!(exec.form, Form::Argument | Form::Script) && !event.prevented() {
        return None;
    }
    Some(("program_from_network", "runs a program that came from the network".to_owned()))
}

/// A process connects whose output ends, through pipes, in a shell.
fn pipe_connect(event: &Event, connect: &Connect, cx: &Context<'_>) -> Option<Detection> {
    if event.reason != Reason::DownloadExec {
        return None;
    }
    if !event.prevented() {
        // The name lookup comes first; `ps | sh` on a host with LDAP or sssd looks up names too.
        let lookup = connect.protocol == 17 && connect.peer.port() == 53;
        if lookup || cx.is_package_manager(event.process, connect.task_flags) {
            return None;
        }
    }
    let sink = connect.sink_tgid.and_then(|tgid| cx.processes.lookup_tgid(tgid));
    if !event.prevented() && sink.is_some_and(|s| !s.alive()) {
        return None;
    }
    let reader = sink.map_or_else(|| "a shell".to_owned(), |s| cx.describe(s.key));
    let message =
        format!("{} downloads from {} into a pipe that {reader} runs", cx.describe(event.process), connect.peer);
    let culprit = sink.map_or(event.process, |s| s.key);
    let mut detection = Detection::new(FindingKind::DownloadExec, culprit, message).with(
        event.id,
        "pipe_into_shell",
        0,
        format!("{} connects to {} with a shell at the end of its pipe", connect.comm, connect.peer),
    );
    detection.peer = Some(connect.peer);
    if culprit != event.process {
        detection.accomplices.push(event.process);
    }
    Some(detection)
}

fn origin_words(origin: Option<&Origin>, cx: &Context<'_>) -> String {
    let Some(origin) = origin else {
        return String::new();
    };
    let peer = origin.peer.map_or_else(String::new, |p| format!(" from {p}"));
    let by = cx.processes.get(origin.process).map_or_else(String::new, |p| format!(" by {}", p.comm));
    if peer.is_empty() && by.is_empty() { String::new() } else { format!(" (fetched{peer}{by})") }
}

/// Adds what the origin tells.
fn finish(event: &Event, mut detection: Detection, origin: Option<&Origin>, cx: &Context<'_>) -> Detection {
    let Some(origin) = origin else {
        return detection;
    };
    detection.peer = origin.peer;
    let hops = match origin.hops {
        0 => "as received".to_owned(),
        n => format!("after {n} rewrites"),
    };
    let age_ms = event.time_ns.saturating_sub(origin.time_ns) / 1_000_000;
    let who = cx.describe(origin.process);
    detection = detection.with(event.id, "origin", 0, format!("fetched by {who} {age_ms} ms earlier, {hops}"));
    let alive = cx
        .processes
        .get(origin.process)
        .is_some_and(|p| p.alive() && p.key != detection.culprit && p.container == event.container);
    if alive && origin.hops == 0 && !is_ancestor(origin.process, detection.culprit, cx) {
        detection.accomplices.push(origin.process);
    }
    // Three rewrites away it may be a compiler's output from a fetched source.
    if origin.hops > cx.settings.certain_hops {
        detection.alert_only = true;
        detection.severity = Severity::Medium;
    }
    detection
}

/// A service that fetched something and starts a shell is not to be killed with it.
fn is_ancestor(of: ProcessKey, key: ProcessKey, cx: &Context<'_>) -> bool {
    cx.processes.ancestors(key).any(|a| a.key == of)
}

#[cfg(test)]
mod tests;
