//! What was running before the daemon: every process, its descriptors and its sockets are read
//! once from /proc and told as events, so that the detectors which judge a new process judge an
//! old one by the same rules. `bulkhead audit` asks the same question without the kernel half.
//!
//! Three things differ from an event of the kernel half: the id has its top bit set, the start
//! time is known to a clock tick only ([`crate::respond::kill::same_start`] compares), and what
//! happened before is not known, so there is no taint but what can be seen of a live pipe chain.

mod chain;
pub mod net_table;
pub mod own;
pub mod proc_scan;

use crate::argv;
use crate::container::Registry;
use crate::event::{Body, Connect, ConnectOp, ContainerKey, Event, Exec, Fingerprint, HOST, Origin};
use crate::event::{ProcessKey, Reason, Rung, Stdio, Verdict, state};
use monitor_common::argv::Form;
use monitor_common::exec::{EXEC_ARGS_CUT, EXEC_RELAY, EXEC_STDIN_TAINTED};
use monitor_common::file::{FILE_MEMFD, FILE_TMPFS, FILE_UPPER};
use net_table::Direction;
use proc_scan::{Task, TaskSocket};
use std::collections::{HashMap, HashSet};

/// Set in the id of every event made here.
pub const STARTUP_ID: u64 = 1 << 63;

/// Tells the class of a program (`CLASS_*`) by the last component of its name, and by its
/// fingerprint; the same tables that the kernel half gets.
pub type Classify<'c> = dyn Fn(&str, Fingerprint) -> u32 + 'c;

/// Reads /proc and tells it as events, parents before children. `host`: the host's own processes
/// too. A process that ends meanwhile is left out.
///
/// # Errors
/// /proc cannot be listed.
pub fn scan(registry: &Registry, classify: &Classify<'_>, host: bool) -> std::io::Result<Vec<Event>> {
    let mut tasks = proc_scan::read(registry)?;
    tasks.retain(|t| host || t.container != HOST);
    tasks.sort_by_key(|t| (t.key.start_ns, t.key.tgid));
    Ok(events(&tasks, classify, now_ns()))
}

/// `CLOCK_BOOTTIME` now.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// The events of a set of tasks.
fn events(tasks: &[Task], classify: &Classify<'_>, time_ns: u64) -> Vec<Event> {
    let by_pid: HashMap<u32, &Task> = tasks.iter().map(|t| (t.key.tgid, t)).collect();
    let chains = chain::Chains::new(tasks);
    let mut told = HashSet::new();
    let mut out = Vec::new();
    for task in tasks {
        let (exec, flags) = exec(task, &by_pid, &chains, classify, time_ns);
        push(&mut out, task, Body::Exec(Box::new(exec)), time_ns);
        // A socket that was inherited is told once, of its oldest holder.
        for socket in task.sockets.iter().filter(|s| told.insert((task.netns, s.inode))) {
            if let Some(body) = connect(task, socket, flags) {
                push(&mut out, task, body, time_ns);
            }
        }
    }
    out
}

fn push(out: &mut Vec<Event>, task: &Task, body: Body, time_ns: u64) {
    out.push(Event {
        id: STARTUP_ID | out.len() as u64,
        time_ns,
        process: task.key,
        tid: task.key.tgid,
        uid: task.uid,
        container: task.container,
        verdict: Verdict::Observed,
        reason: Reason::None,
        rung: Rung::None,
        peer_tgid: None,
        body,
    });
}

fn connect(task: &Task, socket: &TaskSocket, task_flags: u32) -> Option<Body> {
    let (peer, op) = match socket.row.direction {
        Direction::Outbound => (socket.row.peer, ConnectOp::Connect),
        Direction::Listening => (socket.row.local, ConnectOp::Listen),
        Direction::Accepted | Direction::Idle => return None,
    };
    Some(Body::Connect(Connect {
        peer,
        protocol: socket.row.protocol,
        // Not the kernel's cookie, which /proc does not show; unique all the same.
        cookie: STARTUP_ID | socket.inode,
        op,
        task_flags,
        sink_tgid: None,
        comm: task.comm.as_str().into(),
    }))
}

fn exec(
    task: &Task,
    by_pid: &HashMap<u32, &Task>,
    chains: &chain::Chains<'_>,
    classify: &Classify<'_>,
    time_ns: u64,
) -> (Exec, u32) {
    let (class, form) = class_and_form(task, classify);
    let parent = by_pid.get(&task.parent);
    let mut task_flags = task_flags(task, class, form, parent.map(|p| p.container));
    let (mut flags, mut origin) = (0, None);
    if class & (state::CLASS_SHELL | state::CLASS_INTERPRETER) != 0 {
        (flags, origin) = fed_from_network(task, chains, form, time_ns);
    }
    if flags & EXEC_STDIN_TAINTED != 0 {
        task_flags |= state::TASK_TAINTED;
    }
    if task.args_cut {
        flags |= EXEC_ARGS_CUT;
    }
    let exec = Exec {
        parent: parent.map_or(ProcessKey { tgid: task.parent, start_ns: 0 }, |p| p.key),
        flags,
        task_flags,
        form,
        exe: task.exe.clone(),
        fingerprint: task.fingerprint,
        stdio: task.stdio.clone(),
        origin,
        comm: task.comm.as_str().into(),
        filename: task.exe.path.clone(),
        args: task.args.iter().map(Into::into).collect(),
        args_cut: task.args_cut,
    };
    (exec, task_flags)
}

/// `EXEC_*` bits and origin of an interpreter whose standard input leads to a connection: a relay
/// if its answers go there too, else a download if it takes its text from there.
fn fed_from_network(task: &Task, chains: &chain::Chains<'_>, form: Form, time_ns: u64) -> (u32, Option<Origin>) {
    let Some(source) = chains.network_end_of_stdin(task) else {
        return (0, None);
    };
    let peer = source.outbound().map(|s| s.row.peer);
    let origin = Origin { process: source.key, hops: 0, peer, time_ns };
    let flags = match chains.network_end_of_stdout(task) {
        Some(_) => EXEC_RELAY,
        None if form == Form::Stdin => EXEC_STDIN_TAINTED,
        None => 0,
    };
    (flags, Some(origin))
}

fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Class of the program, and where it takes its text from.
fn class_and_form(task: &Task, classify: &Classify<'_>) -> (u32, Form) {
    let mut class = classify(task.exe.name(), task.fingerprint);
    let mut leading = 1;
    if class & state::CLASS_MULTICALL != 0 {
        // busybox: the applet is argv[0], or argv[1] after its own name.
        let mut names = task.args.iter().map(|a| basename(a).trim_start_matches('-'));
        let first = names.next().unwrap_or("");
        class = classify(first, Fingerprint::default());
        if class & state::CLASS_MULTICALL != 0 {
            leading = 2;
            class = classify(names.next().unwrap_or(""), Fingerprint::default());
        }
    }
    if class & (state::CLASS_SHELL | state::CLASS_INTERPRETER) == 0 {
        return (class, Form::Unknown);
    }
    (class, argv::form(&task.args, task.args_cut, class, leading))
}

fn task_flags(task: &Task, class: u32, form: Form, parent: Option<ContainerKey>) -> u32 {
    let is = |bit: u32| class & bit != 0;
    let outward = |s: &Stdio| s.outbound().is_some();
    let [stdin, stdout, stderr] = &task.stdio;
    let drift = FILE_UPPER | FILE_TMPFS | FILE_MEMFD;
    [
        (is(state::CLASS_SHELL), state::TASK_SHELL),
        (is(state::CLASS_INTERPRETER), state::TASK_INTERPRETER),
        (is(state::CLASS_PACKAGE_MANAGER), state::TASK_PACKAGE_MANAGER),
        (is(state::CLASS_SESSION_SERVER), state::TASK_SESSION_SERVER),
        (is(state::CLASS_FETCHER), state::TASK_FETCHER),
        (form == Form::Stdin, state::TASK_READS_STDIN),
        (task.outbound().is_some(), state::TASK_NET_OUT),
        (outward(stdin), state::TASK_STDIN_INET),
        (outward(stdout) || outward(stderr), state::TASK_STDOUT_INET),
        (task.container != HOST && task.exe.has(drift), state::TASK_DRIFT),
        (task.container != HOST && parent != Some(task.container), state::TASK_ENTERED),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .fold(0, |flags, (_, bit)| flags | bit)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
