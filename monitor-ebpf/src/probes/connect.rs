//! Outbound connections: connect(2) and its like by any interface (io_uring, non-blocking, Fast
//! Open), and datagrams with an address. The cgroup programs see the kernel's own copy of the
//! address and can refuse. Listening sockets come from a BTF tracepoint.

use crate::kernel::sock::{AF_INET, AF_INET6, Sock, TCP_LISTEN, mapped};
use crate::kernel::task::Task;
use crate::kernel::{Object, copy_words};
use crate::record::{self, Judgement, Subject};
use crate::reflex::{expected, guard, marks, provenance, quarantine};
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::{btf_tracepoint, cgroup_sock_addr};
use aya_ebpf::programs::{BtfTracePointContext, SockAddrContext};
use monitor_common::header::{Kind, Reason, Rung};
use monitor_common::net::{Connect, OP_CONNECT, OP_LISTEN, OP_SENDTO, Peer};
use monitor_common::policy::{POLICY_BOUND, POLICY_QUARANTINE};
use monitor_common::state::{self, HOST, Socket, TASK_FEEDS_SHELL, TASK_NET_OUT};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
/// include/uapi/linux/in.h
const IPPROTO_TCP: u16 = 6;
/// include/uapi/linux/in.h
const IPPROTO_UDP: u16 = 17;
const DNS_PORT: u16 = 53;
/// The kubelet's API and its read-only port (kubernetes.io, "Ports and Protocols").
const KUBELET_PORTS: [u16; 2] = [10250, 10255];
/// 169.254.169.254, in memory order.
const METADATA_V4: [u8; 4] = [169, 254, 169, 254];
/// fd00:ec2::254, AWS's IPv6 metadata address.
const METADATA_V6: [u8; 16] = [0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54];

/// Refuses or allows connect() to an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    outbound(&ctx, AF_INET, OP_CONNECT)
}

/// Refuses or allows connect() to an IPv6 address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    outbound(&ctx, AF_INET6, OP_CONNECT)
}

/// Refuses or allows a datagram to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    outbound(&ctx, AF_INET, OP_SENDTO)
}

/// Refuses or allows a datagram to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    outbound(&ctx, AF_INET6, OP_SENDTO)
}

#[inline(always)]
fn outbound(ctx: &SockAddrContext, family: u16, op: u32) -> i32 {
    try_outbound(ctx, family, op).unwrap_or(ALLOW)
}

#[inline(always)]
fn address(ctx: &bpf_sock_addr, family: u16, peer: &mut Peer) {
    peer.family = family;
    peer.reserved = 0;
    peer.protocol = ctx.protocol as u16;
    peer.port = u16::from_be(ctx.user_port as u16);
    if family == AF_INET {
        mapped(ctx.user_ip4, &mut peer.addr);
    } else {
        // Word by word: the context allows aligned 4-byte loads at known offsets only.
        let words = [ctx.user_ip6[0], ctx.user_ip6[1], ctx.user_ip6[2], ctx.user_ip6[3]];
        for (i, word) in words.iter().enumerate() {
            let bytes = word.to_ne_bytes();
            peer.addr[i * 4] = bytes[0];
            peer.addr[i * 4 + 1] = bytes[1];
            peer.addr[i * 4 + 2] = bytes[2];
            peer.addr[i * 4 + 3] = bytes[3];
        }
    }
}

#[inline(always)]
fn try_outbound(ctx: &SockAddrContext, family: u16, op: u32) -> Option<i32> {
    let (task, tgid) = Task::running()?;
    let entry = match provenance::entry(tgid) {
        Some(entry) => entry,
        None => {
            // A process from before the monitor, seen for the first time.
            let container = provenance::container_of(task)?;
            let parent = task.parent().and_then(Task::tgid).unwrap_or(0);
            provenance::create(tgid, task, container, parent)?
        }
    };
    let policy = quarantine::policy(entry.container);
    if policy & POLICY_QUARANTINE != 0 {
        return Some(DENY);
    }
    let time_ns = record::now();
    let mut peer = Peer { addr: [0; 16], port: 0, family: 0, protocol: 0, reserved: 0 };
    // SAFETY: the kernel hands a valid context.
    address(unsafe { &*ctx.sock_addr }, family, &mut peer);
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    // Before anything is noted of it, and of every datagram: the first of a socket may go where it may.
    if policy & POLICY_BOUND != 0 && expected::lacks(tgid, &peer) {
        let judgement = guard::deny(entry.container, tgid, Reason::BaselineConnect, 0, Rung::Cgroup);
        if judgement.denied() {
            let subject = Subject::of(task, entry.container);
            emit(&subject, &judgement, time_ns, entry, &peer, cookie, op, 0, task);
            return Some(DENY);
        }
    }
    if op == OP_SENDTO && marks::is_outbound(cookie) {
        return None; // one record a socket; a resolver's retries and a chatty sender stay cheap
    }
    let subject = Subject::running(entry);
    let socket = Socket {
        tgid,
        sent: 0,
        received: 0,
        start_ns: entry.start_ns,
        container: entry.container,
        peer,
        uid: subject.uid,
        sent_to: 0,
        received_to: 0,
        reserved: 0,
    };
    marks::socket(cookie, &socket);
    let (judgement, sink) = judge(entry, tgid, &peer, time_ns);
    emit(&subject, &judgement, time_ns, entry, &peer, cookie, op, sink, task);
    if judgement.denied() {
        marks::forget_socket(cookie);
        return Some(DENY);
    }
    Some(ALLOW)
}

/// Name resolution: a question to a resolver, or getaddrinfo(3) connecting datagram sockets to port 0 to
/// learn the source address. It brings no content, and nearly every program does it.
#[inline(always)]
fn is_lookup(peer: &Peer) -> bool {
    peer.protocol == IPPROTO_UDP && (peer.port == 0 || peer.port == DNS_PORT)
}

/// Notes the connection and decides on it.
#[inline(always)]
fn judge(entry: &mut state::Task, tgid: u32, peer: &Peer, time_ns: u64) -> (Judgement, u32) {
    if is_lookup(peer) {
        return (Judgement::NOTHING, 0);
    }
    entry.flags |= TASK_NET_OUT;
    let start_ns = entry.start_ns;
    provenance::set_origin(&mut entry.origin, tgid, start_ns, peer, time_ns);
    if let Some(sink) = provenance::outputs(tgid) {
        return (guard::deny(entry.container, tgid, sink.reason, sink.tgid, Rung::Cgroup), sink.tgid);
    }
    if entry.flags & TASK_FEEDS_SHELL != 0 && !state::is_package_manager(entry.flags) {
        return (Judgement::told(Reason::ReverseShell, 0), 0);
    }
    if entry.container == HOST {
        return (Judgement::NOTHING, 0);
    }
    let reason = destination(peer);
    if reason as u8 == Reason::None as u8 {
        return (Judgement::NOTHING, 0);
    }
    (guard::deny(entry.container, tgid, reason, 0, Rung::Cgroup), 0)
}

/// Destinations no container is expected to talk to.
#[inline(always)]
fn destination(peer: &Peer) -> Reason {
    if peer.protocol == IPPROTO_TCP && (peer.port == KUBELET_PORTS[0] || peer.port == KUBELET_PORTS[1]) {
        return Reason::KubeletAccess;
    }
    let v4 = [peer.addr[12], peer.addr[13], peer.addr[14], peer.addr[15]];
    let is_v4 = peer.addr[10] == 0xff && peer.addr[11] == 0xff && peer.addr[0] == 0;
    if (is_v4 && v4 == METADATA_V4) || peer.addr == METADATA_V6 {
        return Reason::MetadataAccess;
    }
    Reason::None
}

#[expect(clippy::too_many_arguments, reason = "everything a connect record is made of")]
#[inline(always)]
fn emit(
    subject: &Subject,
    judgement: &Judgement,
    time_ns: u64,
    entry: &state::Task,
    peer: &Peer,
    cookie: u64,
    op: u32,
    sink_tgid: u32,
    task: Task,
) {
    let Some(mut reserved) = record::begin::<Connect>(Kind::Connect, subject, judgement, time_ns) else { return };
    let out = reserved.as_mut_ptr();
    // SAFETY: the reservation is a Connect.
    unsafe {
        copy_words(peer, &mut (*out).peer);
        (*out).cookie = cookie;
        (*out).op = op;
        (*out).task_flags = entry.flags;
        (*out).sink_tgid = sink_tgid;
        (*out).reserved = 0;
        task.comm(&mut (*out).comm);
    }
    record::submit(reserved, judgement);
}

/// match-proto: inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let _ = try_listen(&ctx);
    0
}

#[inline(always)]
fn try_listen(ctx: &BtfTracePointContext) -> Option<()> {
    if ctx.arg::<i32>(2) != TCP_LISTEN {
        return None;
    }
    let sock = Sock(Object::new(ctx.arg::<*const u8>(0))?);
    let task = Task::current()?;
    let entry = provenance::entry(task.tgid()?)?;
    if entry.container == HOST {
        return None;
    }
    let family = sock.family()?;
    let mut peer = Peer { addr: [0; 16], port: 0, family, protocol: IPPROTO_TCP, reserved: 0 };
    peer.port = sock.local_port()?;
    let subject = Subject::running(entry);
    emit(&subject, &Judgement::NOTHING, record::now(), entry, &peer, sock.cookie().unwrap_or(0), OP_LISTEN, 0, task);
    Some(())
}
