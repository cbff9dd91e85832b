//! AF_UNIX connects: to a container runtime's socket, told by the inode of the socket file that the
//! listening end is bound to, wherever it is mounted, or by the name the server bound; and to another process of the
//! container, which may have a connection for both.

use crate::kernel::Object;
use crate::kernel::file::{File, Type, string};
use crate::kernel::sock::{AF_UNIX, Sock};
use crate::kernel::task::{Task, argument};
use crate::record::{self, Subject};
use crate::reflex::{guard, own, provenance};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, fentry, lsm, tracepoint};
use aya_ebpf::programs::{FEntryContext, LsmContext, TracePointContext};
use core::hint::black_box;
use monitor_common::field::Field;
use monitor_common::hash;
use monitor_common::header::{Kind, Reason, Rung};
use monitor_common::net::{UnixConnect, UnixPeer};
use monitor_common::own::Attempt;
use monitor_common::state::{self, HOST, InodeKey};

const RET: usize = 16;
/// include/uapi/asm-generic/errno.h
const EINPROGRESS: i64 = -115;
/// `sun_path`
const PATH_LEN: usize = 108;

/// Socket files of the container runtimes on this host.
#[btf_map]
static RUNTIME_SOCKETS: HashMap<InodeKey, u32, 64> = HashMap::new();

/// Hashes of names a runtime's socket goes by (`docker.sock`, …).
#[btf_map]
static SOCKET_NAMES: HashMap<u32, u32, 64> = HashMap::new();

#[repr(C)]
struct Path {
    word: u32,
    bytes: [u8; PATH_LEN],
}

#[btf_map]
static PATH: PerCpuArray<Path, 1> = PerCpuArray::new();

/// Exit of connect(2). An AF_UNIX stream connect is complete by then, and not a byte was sent.
#[tracepoint]
pub fn unix_connected(ctx: TracePointContext) -> u32 {
    let _ = try_connected(&ctx);
    0
}

#[inline(always)]
fn try_connected(ctx: &TracePointContext) -> Option<()> {
    // SAFETY: within the tracepoint's record.
    let result = unsafe { ctx.read_at::<i64>(RET) }.ok()?;
    if result != 0 && result != EINPROGRESS {
        return None;
    }
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST {
        return None;
    }
    connected(task, tgid, entry, task.file(argument(Field::RegsFirstArg)? as u32)?)
}

/// The socket is connected.
#[inline(always)]
pub fn connected(task: Task, tgid: u32, entry: &mut state::Task, file: File) -> Option<()> {
    if file.inode()?.kind()? != Type::Socket {
        return None;
    }
    let sock = file.sock()?;
    if sock.family()? != AF_UNIX {
        return None;
    }
    let known = judge(task, tgid, entry, sock.unix_peer()?, guard::Means::Kill);
    if known.is_none() {
        neighbour(tgid, entry, sock);
    }
    Some(())
}

/// Before the connection is made.
///
/// match-proto: unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)
#[lsm(hook = "unix_stream_connect")]
pub fn lsm_unix_connect(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(3) != 0 {
        return 0;
    }
    guard::errno(connecting(ctx.arg(1), guard::Means::Deny(Rung::Lsm)))
}

/// The same place without the power to refuse.
///
/// match-proto: security_unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)
#[fentry(function = "security_unix_stream_connect")]
pub fn fentry_unix_connect(ctx: FEntryContext) -> i32 {
    let _ = connecting(ctx.arg(1), guard::Means::Kill);
    0
}

#[inline(always)]
fn connecting(server: *const u8, means: guard::Means) -> Option<bool> {
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST {
        return None;
    }
    let server = Sock(Object::new(server)?);
    let known = judge(task, tgid, entry, server, means);
    if known.is_none() {
        neighbour(tgid, entry, server);
    }
    known
}

/// Tells who listens at the other end, if that is another process of the container, and another than the last time.
#[inline(always)]
fn neighbour(tgid: u32, entry: &mut state::Task, sock: Sock) -> Option<()> {
    let listener = sock.peer_tgid()?;
    if listener == 0 || listener == tgid || listener == entry.unix_peer {
        return None;
    }
    entry.unix_peer = listener;
    if provenance::entry(listener)?.container != entry.container {
        return None;
    }
    let judgement = record::Judgement::told(Reason::None, listener);
    let reserved = record::begin::<UnixPeer>(Kind::UnixPeer, &Subject::running(entry), &judgement, record::now())?;
    record::submit_quietly(reserved);
    Some(())
}

#[inline(always)]
fn judge(task: Task, tgid: u32, entry: &state::Task, server: Sock, means: guard::Means) -> Option<bool> {
    let inode = server.unix_bound_inode()?;
    if own::is_socket(&inode) {
        return own::attempt(&own::Intruder::new(task, tgid, entry)?, Attempt::Control, 0, 0, means, false);
    }
    // SAFETY: only its presence counts.
    let known = unsafe { RUNTIME_SOCKETS.get(&inode) }.is_some();
    if !known && !named_like_one(server) {
        return None;
    }
    let judgement = guard::act(means, entry.container, tgid, Reason::DockerSocket, 0);
    let subject = Subject::running(entry);
    let Some(mut reserved) = record::begin::<UnixConnect>(Kind::UnixConnect, &subject, &judgement, record::now())
    else {
        return Some(judgement.denied());
    };
    let out = reserved.as_mut_ptr();
    // SAFETY: the reservation is a UnixConnect.
    unsafe {
        (*out).ino = inode.ino;
        (*out).dev = inode.dev;
        (*out).known = u32::from(known);
        (*out).reserved = 0;
        (*out).name[0] = 0;
        if let Some(name) = server.unix_bound_name() {
            string(name, &mut (*out).name);
        }
    }
    record::submit(reserved, &judgement);
    Some(judgement.denied())
}

/// Does the last component of the bound path have a runtime socket's name?
#[inline(always)]
fn named_like_one(server: Sock) -> bool {
    let Some(name) = server.unix_bound_name() else { return false };
    let Some(path) = PATH.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's slot; the program does not nest on a CPU.
    unsafe {
        string(name, &mut (*path).bytes);
        (*path).word = hash::OFFSET;
    }
    for i in 0..PATH_LEN {
        // Opaque each round: see `reflex::program::scan`.
        let path = black_box(path);
        // SAFETY: `i` is in bounds.
        unsafe {
            let byte = (*path).bytes[i];
            if byte == 0 {
                break;
            }
            (*path).word = if byte == b'/' { hash::OFFSET } else { hash::step((*path).word, byte) };
        }
    }
    // SAFETY: as above.
    let word = hash::finish(unsafe { (*black_box(path)).word });
    // SAFETY: only its presence counts.
    unsafe { SOCKET_NAMES.get(&word) }.is_some()
}
