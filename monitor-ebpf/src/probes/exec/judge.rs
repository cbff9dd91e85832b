//! Where its bytes come from, and what is done about it.

use super::{Room, Scratch};
use crate::kernel::copy_words;
use crate::kernel::file::File;
use crate::kernel::task::Task;
use crate::record::Judgement;
use crate::reflex::{guard, provenance};
use monitor_common::exec::{
    EXEC_RELAY, EXEC_STDIN_TAINTED, STDIO_FILE, STDIO_INET_OUT, STDIO_PIPE, STDIO_TTY, STDIO_UNIX,
};
use monitor_common::file::{FILE_MEMFD, FILE_TAINTED};
use monitor_common::header::Reason;
use monitor_common::state::{
    self, CLASS_INTERPRETER, CLASS_SHELL, HOST, InodeKey, TASK_ENTERED, TASK_ENTERING, TASK_EXE_TAINTED,
    TASK_FEEDS_SHELL, TASK_NET_OUT, TASK_READS_STDIN, TASK_SESSION_SERVER, TASK_SHELL, TASK_STDIN_INET,
    TASK_STDOUT_INET, TASK_TAINTED,
};

/// What was found, before it is decided whether to act.
#[derive(Clone, Copy)]
struct Found {
    reason: Reason,
    peer_tgid: u32,
}

/// Provenance and verdict.
#[inline(always)]
pub fn judge(room: &mut Room) -> Option<()> {
    let tgid = room.scratch.tgid;
    room.judgement = judgement(provenance::entry(tgid)?, tgid, &mut room.scratch);
    Some(())
}

#[inline(always)]
fn judgement(entry: &mut state::Task, tgid: u32, scratch: &mut Scratch) -> Judgement {
    let interpreter = scratch.class & (CLASS_SHELL | CLASS_INTERPRETER) != 0;
    let text = interpreter && entry.flags & TASK_READS_STDIN != 0;
    let mut found = judge_stdin(entry, tgid, scratch, text);
    if found.is_none() {
        found = judge_socket(entry, tgid, scratch, interpreter, text);
    }
    if found.is_none() && entry.flags & TASK_TAINTED != 0 {
        // A stage between the network and somebody else: follow what it writes.
        found = provenance::outputs(tgid).map(|sink| Found { reason: sink.reason, peer_tgid: sink.tgid });
    }
    if found.is_none() {
        found = judge_file(entry, scratch);
    }
    match found {
        Some(found) => guard::kill(entry.container, tgid, found.reason, found.peer_tgid),
        None => judge_relay(entry, tgid, scratch, text),
    }
}

/// A pipe on standard input or output.
#[inline(always)]
fn judge_stdin(entry: &mut state::Task, tgid: u32, scratch: &mut Scratch, text: bool) -> Option<Found> {
    let mut down = InodeKey { ino: 0, dev: 0, generation: 0 };
    if scratch.stdio[1].kind == STDIO_PIPE {
        down = entry.stdout;
        provenance::writes(&down, tgid);
    }
    if scratch.stdio[0].kind == STDIO_FILE {
        return judge_stdin_file(entry, scratch, text);
    }
    if scratch.stdio[0].kind != STDIO_PIPE {
        return None;
    }
    let key = entry.stdin;
    if text {
        let reason = provenance::shell_reads(&key, tgid, &mut scratch.origin)?;
        scratch.flags |= EXEC_STDIN_TAINTED;
        return Some(Found { reason, peer_tgid: scratch.origin.tgid });
    }
    provenance::stage_reads(&key, &down, tgid, &mut scratch.origin)?;
    scratch.flags |= EXEC_STDIN_TAINTED;
    entry.flags |= TASK_TAINTED;
    copy_words(&scratch.origin, &mut entry.origin);
    None
}

/// A file on standard input: `sh < downloaded`, or a copier of it.
#[inline(always)]
fn judge_stdin_file(entry: &mut state::Task, scratch: &mut Scratch, text: bool) -> Option<Found> {
    let key = InodeKey { ino: scratch.stdio[0].ino, dev: scratch.stdio[0].dev, generation: 0 };
    let file = scratch.task().and_then(Task::descriptors)?.file(0)?.inode()?;
    provenance::taint_of(&key, file, &mut scratch.origin)?;
    scratch.origin.hops += 1;
    if scratch.origin.hops > provenance::MAX_HOPS {
        return None;
    }
    scratch.flags |= EXEC_STDIN_TAINTED;
    if text {
        return Some(Found { reason: Reason::DownloadExec, peer_tgid: scratch.origin.tgid });
    }
    entry.flags |= TASK_TAINTED;
    copy_words(&scratch.origin, &mut entry.origin);
    None
}

/// Standard descriptors on an outbound socket.
#[inline(always)]
fn judge_socket(
    entry: &mut state::Task,
    tgid: u32,
    scratch: &mut Scratch,
    interpreter: bool,
    text: bool,
) -> Option<Found> {
    if entry.flags & (TASK_STDIN_INET | TASK_STDOUT_INET) == 0 {
        return None;
    }
    let (start_ns, time_ns) = (entry.start_ns, scratch.time_ns);
    for stdio in &scratch.stdio {
        if stdio.kind == STDIO_INET_OUT {
            provenance::set_origin(&mut scratch.origin, tgid, start_ns, &stdio.peer, time_ns);
            break;
        }
    }
    copy_words(&scratch.origin, &mut entry.origin);
    let both = entry.flags & TASK_STDIN_INET != 0 && entry.flags & TASK_STDOUT_INET != 0;
    if interpreter && both {
        return Some(Found { reason: Reason::ReverseShell, peer_tgid: 0 });
    }
    if entry.flags & TASK_STDIN_INET == 0 {
        return None;
    }
    if text {
        // Program text straight from a socket: `bash <&3`.
        scratch.flags |= EXEC_STDIN_TAINTED;
        return Some(Found { reason: Reason::DownloadExec, peer_tgid: 0 });
    }
    // `cat <&3 | sh`: what this program writes came from the network.
    entry.flags |= TASK_TAINTED;
    None
}

/// The executable itself.
#[inline(always)]
fn judge_file(entry: &mut state::Task, scratch: &mut Scratch) -> Option<Found> {
    let key = InodeKey { ino: scratch.exe.ino, dev: scratch.exe.dev, generation: 0 };
    let file = scratch.file().and_then(File::inode);
    if file.is_some_and(|file| provenance::taint_of(&key, file, &mut scratch.origin).is_some()) {
        entry.flags |= TASK_EXE_TAINTED;
        scratch.exe.flags |= FILE_TAINTED;
        return Some(Found { reason: Reason::DownloadExec, peer_tgid: scratch.origin.tgid });
    }
    // A container runtime starts its own init from a memfd before it starts the container's program; what comes later
    // has no such excuse, whoever the process' parent is.
    if scratch.exe.flags & FILE_MEMFD != 0 && entry.flags & TASK_ENTERING == 0 && entry.container != HOST {
        return Some(Found { reason: Reason::FilelessExec, peer_tgid: 0 });
    }
    None
}

/// Does a program other than the parent write the pipe (`curl … | sudo bash`)? Then the parent is no relay.
#[inline(always)]
fn fed_by_another(stdin: &InodeKey, parent_tgid: u32) -> bool {
    let key = *stdin;
    provenance::known_pipe(&key).is_some_and(|pipe| pipe.writer != 0 && pipe.writer != parent_tgid)
}

/// `curl … | sudo bash` with a terminal of its own: sudo reads the pipe and hands the bytes on through a channel of its own, from
/// a process it forked for that. Answers where they come from, if they come from the network.
#[inline(always)]
fn fed_from_network(parent: &state::Task, scratch: &mut Scratch) -> Option<u32> {
    let feeder = if parent.flags & TASK_TAINTED != 0 {
        parent
    } else {
        let forked_by = provenance::entry(parent.parent_tgid)?;
        if forked_by.flags & TASK_TAINTED == 0 || forked_by.container != parent.container {
            return None;
        }
        forked_by
    };
    if feeder.flags & TASK_SHELL != 0 || state::is_package_manager(feeder.flags) {
        return None;
    }
    copy_words(&feeder.origin, &mut scratch.origin);
    scratch.flags |= EXEC_STDIN_TAINTED;
    Some(scratch.origin.tgid)
}

/// Who started a shell: its parent, or that one's if the parent is a shell that was only told to start it and left it
/// its own standard input (popen(3), system(3): `sh -c sh`).
#[inline(always)]
fn commander<'a>(entry: &state::Task, parent_tgid: u32) -> Option<(u32, &'a mut state::Task)> {
    let parent = provenance::entry(parent_tgid)?;
    let wraps = parent.flags & (TASK_SHELL | TASK_READS_STDIN) == TASK_SHELL
        && entry.stdin.ino != 0
        && parent.stdin.ino == entry.stdin.ino
        && parent.stdin.dev == entry.stdin.dev
        && parent.container == entry.container;
    if !wraps {
        return Some((parent_tgid, parent));
    }
    let above = parent.parent_tgid;
    Some((above, provenance::entry(above)?))
}

/// A shell that takes commands from its parent, which has (or may get) a connection.
#[inline(always)]
fn judge_relay(entry: &mut state::Task, tgid: u32, scratch: &mut Scratch, commanded: bool) -> Judgement {
    if !commanded || entry.flags & TASK_ENTERED != 0 {
        return Judgement::NOTHING;
    }
    let input = scratch.stdio[0].kind;
    if input != STDIO_PIPE && input != STDIO_UNIX && input != STDIO_TTY {
        return Judgement::NOTHING;
    }
    let output = scratch.stdio[1].kind;
    let answers = output == STDIO_PIPE || output == STDIO_UNIX || output == STDIO_TTY;
    let Some((parent_tgid, parent)) = commander(entry, scratch.parent_tgid) else { return Judgement::NOTHING };
    if input == STDIO_PIPE && fed_by_another(&entry.stdin, parent_tgid) {
        return Judgement::NOTHING;
    }
    if parent_tgid == tgid
        || parent.container != entry.container
        || parent.flags & (TASK_SHELL | TASK_SESSION_SERVER) != 0
        || state::is_package_manager(parent.flags)
    {
        return Judgement::NOTHING;
    }
    if input != STDIO_TTY {
        if answers {
            parent.flags |= TASK_FEEDS_SHELL;
        }
        if let Some(origin_tgid) = fed_from_network(parent, scratch) {
            return guard::kill(entry.container, tgid, Reason::DownloadExec, origin_tgid);
        }
    }
    if !answers || parent.flags & TASK_NET_OUT == 0 {
        return Judgement::NOTHING;
    }
    scratch.flags |= EXEC_RELAY;
    copy_words(&parent.origin, &mut scratch.origin);
    Judgement::told(Reason::ReverseShell, parent_tgid)
}
