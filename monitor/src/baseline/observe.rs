//! From events to acts: who started what, who talked to whom. What an act means is not asked here.

use super::entry::{Access, Act, Layer, Protocol, Text};
use super::pattern::{RUNTIME_EXEC, START, UNKNOWN};
use crate::detect::bounded::Bounded;
use crate::detect::{Context, dns};
use crate::event::{
    Body, Connect, ConnectOp, ContainerKey, Event, Exec, HOST, Open, Payload, ProcessKey, Reason, file, state,
};
use crate::provenance::Process;
use smol_str::SmolStr;
use std::net::IpAddr;

/// Processes whose program is remembered across an exec of their own (`sh` that execs what it was to run).
const PROGRAMS: usize = 8192;
/// Addresses whose names are remembered.
const ADDRESSES: usize = 8192;
/// Names of one address: a content network's has many.
const NAMES: usize = 4;
/// Where answers to questions for names come from.
const DNS_PORT: u16 = 53;
const UDP: u16 = 17;
const TCP: u16 = 6;
/// include/uapi/linux/in.h: what a program that asks for it sees as TCP, and the peer too if it does not know it.
const MPTCP: u16 = 262;

/// See the module.
#[derive(Debug)]
pub struct Observer {
    /// What the processes run that have started a program in a container themselves.
    programs: Bounded<ProcessKey, Runs>,
    names: Bounded<(ContainerKey, IpAddr), Vec<String>>,
}

/// What a process runs.
#[derive(Clone, Debug)]
struct Runs {
    exe: SmolStr,
    /// When it was seen to, ns since boot: at its start, or when the daemon looked around.
    seen_ns: u64,
    /// The latest of its starts from before that, told of since.
    told: Option<SmolStr>,
}

impl Default for Observer {
    fn default() -> Self {
        Self { programs: Bounded::new(PROGRAMS), names: Bounded::new(ADDRESSES) }
    }
}

impl Observer {
    /// What a container's process did; `None` for what baselines are not about. The process table has taken the event
    /// in already.
    pub fn observe(&mut self, event: &Event, cx: &Context<'_>) -> Option<Act> {
        if event.container == HOST {
            return None;
        }
        match &event.body {
            // A runtime's own init, on its way to the program.
            Body::Exec(exec) if exec.task_flags & state::TASK_ENTERING != 0 => None,
            Body::Exec(exec) => Some(self.exec(event, exec, cx)),
            Body::Connect(connect) => self.connect(event, connect, cx),
            Body::Open(open) if open.file.has(file::FILE_EXEC) && event.reason == Reason::BaselineExec => {
                self.refused(event, open, cx)
            }
            Body::Open(open) if open.file.has(file::FILE_MAPPED) && event.reason == Reason::BaselineExec => {
                mapped(event, open, cx)
            }
            Body::Open(open) => opened(event, open, cx),
            Body::Payload(payload) => {
                self.answered(event.container, payload);
                None
            }
            Body::Exit { .. } => {
                self.programs.remove(&event.process);
                None
            }
            _ => None,
        }
    }

    fn exec(&mut self, event: &Event, exec: &Exec, cx: &Context<'_>) -> Act {
        let exe = exec.exe.path.clone();
        // A start from before the daemon looked around is told of late: what was seen then is this program, or a later one.
        let before = match self.programs.get_mut(&event.process) {
            Some(runs) if runs.seen_ns > event.time_ns => runs.told.replace(exe),
            known => {
                let before = known.map(|runs| runs.exe.clone());
                self.programs.insert(event.process, Runs { exe, seen_ns: event.time_ns, told: None });
                before
            }
        };
        let parent = match before {
            Some(before) => before.to_string(),
            None if cx.is_entered(event, exec.task_flags, exec.parent) => {
                let is_first = cx.containers.init(event.container) == Some(event.process);
                if is_first { START } else { RUNTIME_EXEC }.to_owned()
            }
            None => parent_program(event, exec, cx).unwrap_or_else(|| UNKNOWN.to_owned()),
        };
        Act::Exec {
            parent,
            exe: exec.exe.path.to_string(),
            layer: Layer::of(&exec.exe),
            form: Text::of(exec.form),
            user: event.uid,
        }
    }

    /// A program start that an LSM program has refused: nothing has come of the process yet.
    fn refused(&self, event: &Event, open: &Open, cx: &Context<'_>) -> Option<Act> {
        let is_first = cx.containers.init(event.container).is_none_or(|init| init == event.process);
        let parent = match self.programs.get(&event.process) {
            Some(before) => before.exe.to_string(),
            None if open.task_flags & state::TASK_ENTERING != 0 => {
                if is_first { START } else { RUNTIME_EXEC }.to_owned()
            }
            None => cx.process(event).map(|process| process.program.exe.to_string()).unwrap_or_default(),
        };
        let parent = if parent.is_empty() { UNKNOWN.to_owned() } else { parent };
        let (exe, layer) = (open.file.path.to_string(), Layer::of(&open.file));
        Some(Act::Exec { parent, exe, layer, form: None, user: event.uid })
    }

    fn connect(&self, event: &Event, connect: &Connect, cx: &Context<'_>) -> Option<Act> {
        let exe = cx.process(event)?.program.exe.to_string();
        if connect.op == ConnectOp::Listen {
            return Some(Act::Listen { exe, port: connect.peer.port() });
        }
        // getaddrinfo(3) connects to port 0 to learn the address it would send from; nothing is sent.
        if connect.protocol == UDP && connect.peer.port() == 0 {
            return None;
        }
        let names = self.names.get(&(event.container, connect.peer.ip())).cloned().unwrap_or_default();
        let protocol = if connect.protocol == MPTCP { TCP } else { connect.protocol };
        Some(Act::Connect { exe, peer: connect.peer, names, protocol: Protocol(protocol) })
    }

    /// An answer of the container's resolver.
    fn answered(&mut self, container: ContainerKey, payload: &Payload) {
        if !payload.inbound || payload.protocol != UDP || payload.peer.port() != DNS_PORT {
            return;
        }
        let Some(answer) = dns::answer(&payload.data) else { return };
        for address in answer.addresses {
            let Some(names) = self.names.entry((container, address), Vec::new) else { continue };
            names.retain(|known| *known != answer.name);
            names.insert(0, answer.name.clone());
            names.truncate(NAMES);
        }
    }
}

/// What the process that forked it runs.
fn parent_program(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<String> {
    let forked_by = cx.processes.parent(event.process);
    let parent: &Process = forked_by.or_else(|| cx.processes.get(exec.parent))?;
    Some(parent.program.exe.to_string()).filter(|exe| !exe.is_empty())
}

/// Code that is not the image's, where the kernel half holds a container to that.
fn mapped(event: &Event, open: &Open, cx: &Context<'_>) -> Option<Act> {
    let parent = cx.process(event)?.program.exe.to_string();
    let (exe, layer) = (open.file.path.to_string(), Layer::of(&open.file));
    Some(Act::Exec { parent, exe, layer, form: None, user: event.uid })
}

/// Only opens of files that the kernel half was given to watch come at all.
fn opened(event: &Event, open: &Open, cx: &Context<'_>) -> Option<Act> {
    const OTHER: u32 = file::FILE_EXEC | file::FILE_MAPPED | file::FILE_REMOVED | file::FILE_ROOT;
    if open.sensitive == Reason::None || open.file.flags & OTHER != 0 {
        return None;
    }
    let writes = open.file.flags & (file::FILE_WRITE | file::FILE_NAMED) != 0;
    let access = if writes { Access::Write } else { Access::Read };
    Some(Act::File { exe: cx.process(event)?.program.exe.to_string(), path: open.file.path.to_string(), access })
}
