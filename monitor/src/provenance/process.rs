//! One process and the program it runs.

use crate::event::{ContainerKey, Exec, Form, Inode, ProcessKey, Stdio, last_component};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::net::SocketAddr;
use std::sync::Arc;

/// Argument bytes kept of one program. A finding shows them; 1 KiB holds every one-liner of the
/// scenario catalogue, and what matters beyond it (padding attacks) was judged from the event.
const ARGS_KEPT: usize = 1024;

/// Outbound connections, and neighbours, remembered per process.
const OUTBOUND_KEPT: usize = 4;

/// What a process runs; shared by a process and its children until they exec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Executable, path inside its file system.
    pub exe: SmolStr,
    /// Its identity.
    pub inode: Inode,
    /// `FILE_*` bits of the executable.
    pub exe_flags: u32,
    /// Arguments, the first 1 KiB.
    pub args: Arc<[SmolStr]>,
    /// Where it takes its program text from.
    pub form: Form,
    /// `EXEC_*` bits.
    pub exec_flags: u32,
    /// Descriptors 0, 1, 2 at its start.
    pub stdio: [Stdio; 3],
    /// Event id of its exec; 0 when that was before the monitor.
    pub exec_event: u64,
    /// When it was started, ns since boot.
    pub time_ns: u64,
}

impl Default for Program {
    fn default() -> Self {
        Self {
            exe: SmolStr::default(),
            inode: Inode::default(),
            exe_flags: 0,
            args: Arc::default(),
            form: Form::Unknown,
            exec_flags: 0,
            stdio: [Stdio::None, Stdio::None, Stdio::None],
            exec_event: 0,
            time_ns: 0,
        }
    }
}

impl Program {
    /// From an exec event.
    pub fn new(exec: &Exec, event: u64, time_ns: u64) -> Self {
        Self {
            exe: exec.exe.path.clone(),
            inode: exec.exe.inode,
            exe_flags: exec.exe.flags,
            args: bounded(&exec.args),
            form: exec.form,
            exec_flags: exec.flags,
            stdio: exec.stdio.clone(),
            exec_event: event,
            time_ns,
        }
    }

    /// Last component of the executable's path.
    pub fn name(&self) -> &str {
        last_component(&self.exe)
    }
}

/// The head of an argument list, at most [`ARGS_KEPT`] bytes.
fn bounded(args: &Arc<[SmolStr]>) -> Arc<[SmolStr]> {
    // Each argument costs its header as well.
    let costs = |arg: &SmolStr| arg.len() + size_of::<SmolStr>();
    let mut left = ARGS_KEPT;
    let is_over = |arg: &SmolStr| {
        let over = arg.len() > left || left == 0;
        left = left.saturating_sub(costs(arg));
        over
    };
    let Some(whole) = args.iter().position(is_over) else { return Arc::clone(args) };
    let (head, rest) = args.split_at(whole);
    let mut end = ARGS_KEPT.saturating_sub(head.iter().map(costs).sum());
    if end == 0 {
        return head.into();
    }
    while !rest[0].is_char_boundary(end) {
        end -= 1;
    }
    head.iter().cloned().chain([SmolStr::new(&rest[0][..end])]).collect()
}

/// An outbound connection a process made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// Where to.
    pub peer: SocketAddr,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// Socket cookie.
    pub cookie: u64,
    /// When, ns since boot.
    pub time_ns: u64,
    /// Bytes have come back on it.
    pub answered: bool,
}

/// A process that it is connected to over AF_UNIX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Who listened there.
    pub listener: ProcessKey,
    /// When it connected, ns since boot.
    pub time_ns: u64,
}

/// One process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// What identifies it.
    pub key: ProcessKey,
    /// Who forked it (not who adopted it later).
    pub parent: Option<ProcessKey>,
    /// comm.
    pub comm: SmolStr,
    /// What it runs.
    pub program: Arc<Program>,
    /// Executable it ran before its last exec (its own or inherited), if known.
    pub replaced: Option<Inode>,
    /// Real uid.
    pub uid: u32,
    /// Its container.
    pub container: ContainerKey,
    /// `TASK_*` bits as last told by the kernel half.
    pub task_flags: u32,
    /// When it ended, ns since boot.
    pub exited_at: Option<u64>,
    /// Number of execs seen: with the key it names one program life.
    pub generation: u32,
    /// Latest outbound connections of this program, DNS left out.
    pub outbound: Vec<Outbound>,
    /// Latest processes of the container that it connected to over AF_UNIX, over all programs it ran: a socket may
    /// become the next one's standard input.
    #[serde(skip)]
    pub neighbours: Vec<Neighbour>,
    /// It listens on an inet socket.
    pub listening: bool,
    /// On the host, what it was started as, where another program has replaced that since: `sh -c` runs the last command
    /// in its own place, and a crontab's line would be gone with it. Only incidents ask.
    #[serde(skip)]
    pub began_as: Option<Arc<Program>>,
}

impl Process {
    /// A process of which nothing but its identity is known.
    pub fn unknown(key: ProcessKey, container: ContainerKey) -> Self {
        Self::running(key, container, Arc::default())
    }

    /// The same, but for what it runs.
    pub fn running(key: ProcessKey, container: ContainerKey, program: Arc<Program>) -> Self {
        Self {
            key,
            parent: None,
            comm: SmolStr::default(),
            program,
            replaced: None,
            uid: 0,
            container,
            task_flags: 0,
            exited_at: None,
            generation: 0,
            outbound: Vec::new(),
            neighbours: Vec::new(),
            listening: false,
            began_as: None,
        }
    }

    /// Is a `TASK_*` bit set?
    pub fn has(&self, bit: u32) -> bool {
        self.task_flags & bit != 0
    }

    /// Still runs, as far as the events tell.
    pub fn alive(&self) -> bool {
        self.exited_at.is_none()
    }

    /// Remembers whom it speaks to over AF_UNIX, the latest few.
    pub(super) fn speaks_to(&mut self, neighbour: Neighbour) {
        self.neighbours.retain(|known| known.listener != neighbour.listener);
        if self.neighbours.len() == OUTBOUND_KEPT {
            self.neighbours.remove(0);
        }
        self.neighbours.push(neighbour);
    }

    /// Remembers a connection, the latest few.
    pub(super) fn connected(&mut self, outbound: Outbound) {
        if self.outbound.iter().any(|o| o.cookie == outbound.cookie && o.peer == outbound.peer) {
            return;
        }
        if self.outbound.len() == OUTBOUND_KEPT {
            self.outbound.remove(0);
        }
        self.outbound.push(outbound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arguments_are_cut_on_a_character() {
        let args: Arc<[SmolStr]> = ["sh".into(), "é".repeat(4000).into(), "tail".into()].into();
        let kept = bounded(&args);
        assert_eq!(kept.len(), 2);
        assert!(kept.iter().map(|arg| arg.len()).sum::<usize>() <= ARGS_KEPT);
    }
}
