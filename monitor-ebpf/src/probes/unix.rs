//! AF_UNIX connects to a container runtime's socket: told by the inode of the socket file that the
//! listening end is bound to, wherever it is mounted, or by the name the server bound.

use crate::kernel::Object;
use crate::kernel::file::{Type, string};
use crate::kernel::sock::{AF_UNIX, Sock};
use crate::kernel::task::Task;
use crate::record::{self, Subject};
use crate::reflex::{guard, provenance};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::helpers::{bpf_get_current_task_btf, generated::bpf_task_pt_regs};
use aya_ebpf::macros::{btf_map, tracepoint};
use aya_ebpf::programs::TracePointContext;
use core::hint::black_box;
use monitor_common::field::Field;
use monitor_common::hash;
use monitor_common::header::{Kind, Reason};
use monitor_common::net::UnixConnect;
use monitor_common::state::{HOST, InodeKey};

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
    let task = Task::current()?;
    let tgid = task.tgid()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST {
        return None;
    }
    let file = task.file(first_argument()?)?;
    if file.inode()?.kind()? != Type::Socket {
        return None;
    }
    let sock = file.sock()?;
    if sock.family()? != AF_UNIX {
        return None;
    }
    let server = sock.unix_peer()?;
    let inode = server.unix_bound_inode()?;
    // SAFETY: only its presence counts.
    let known = unsafe { RUNTIME_SOCKETS.get(&inode) }.is_some();
    if !known && !named_like_one(server) {
        return None;
    }
    let judgement = guard::kill(entry.container, tgid, Reason::DockerSocket, 0);
    let subject = Subject::of(task, entry.container);
    let mut reserved = record::begin::<UnixConnect>(Kind::UnixConnect, &subject, &judgement, record::now())?;
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
    reserved.submit(0);
    Some(())
}

/// The system call's first argument, from the registers saved at its entry.
#[inline(always)]
fn first_argument() -> Option<u32> {
    // SAFETY: no arguments, and the task's own registers.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    Object::new(regs as *const u8)?.get::<u64>(Field::RegsFirstArg).map(|fd| fd as u32)
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
