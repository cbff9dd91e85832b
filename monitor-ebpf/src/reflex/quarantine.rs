//! Quarantine: whose packet is it, and is that container cut off? By the socket's network namespace,
//! its cgroup v2, or, where a container has neither to itself, by the socket.

use crate::kernel::Object;
use crate::kernel::sock::Sock;
use crate::maps::{CONTAINERS, QUARANTINE, config, hierarchy};
use crate::reflex::marks;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::helpers::generated::bpf_skb_cgroup_id;
use monitor_common::field::Field;
use monitor_common::policy::POLICY_QUARANTINE;
use monitor_common::state::{
    CUT_CGROUP, CUT_NETNS, CUT_PORT, CUT_SOCKET, CutKey, HOST, RESPONSE_CGROUP, RESPONSE_NETNS, RESPONSE_SOCKET,
};

/// `POLICY_*` of the container.
#[inline(always)]
pub fn policy(container: u64) -> u32 {
    if container == HOST {
        return 0;
    }
    // SAFETY: read at once.
    unsafe { CONTAINERS.get(&container) }.map_or(0, |policy| policy.flags)
}

/// Is the container quarantined?
#[inline(always)]
fn holds(container: u64) -> bool {
    policy(container) & POLICY_QUARANTINE != 0
}

#[inline(always)]
fn listed(kind: u32, id: u64) -> bool {
    let key = CutKey { id, kind, reserved: 0 };
    // SAFETY: only its presence counts.
    unsafe { QUARANTINE.get(&key) }.is_some()
}

/// Must the packet be dropped? Without any quarantine this is one array lookup.
#[inline(always)]
pub fn cuts(skb: *mut __sk_buff) -> bool {
    let responses = config().map_or(0, |config| config.responses);
    if responses & (RESPONSE_NETNS | RESPONSE_CGROUP | RESPONSE_SOCKET) == 0 {
        return false;
    }
    if responses & RESPONSE_CGROUP != 0 && by_cgroup(skb) {
        return true;
    }
    // For the kernel the context is the sk_buff itself, with the full socket in it.
    by_socket(skb, responses).unwrap_or(false)
}

#[inline(always)]
fn by_cgroup(skb: *mut __sk_buff) -> bool {
    // SAFETY: the kernel hands a valid context.
    let id = unsafe { bpf_skb_cgroup_id(skb) };
    if hierarchy() == 0 {
        // Containers are told by these very cgroups, nested ones included.
        // SAFETY: read at once.
        return unsafe { CONTAINERS.get(&id) }.is_some_and(|policy| policy.flags & POLICY_QUARANTINE != 0);
    }
    listed(CUT_CGROUP, id)
}

#[inline(always)]
fn by_socket(skb: *mut __sk_buff, responses: u32) -> Option<bool> {
    let sock = Sock(Object::new(skb)?.follow(Field::SkbSock)?);
    let netns = sock.netns()?;
    if responses & RESPONSE_NETNS != 0 && listed(CUT_NETNS, u64::from(netns)) {
        return Some(true);
    }
    if responses & RESPONSE_SOCKET == 0 {
        return Some(false);
    }
    // SAFETY: the kernel hands a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    // SAFETY: read at once.
    if let Some(socket) = marks::of_socket(cookie)
        && holds(unsafe { (*socket).container })
    {
        return Some(true);
    }
    if let Some(port) = sock.local_port()
        && listed(CUT_PORT, u64::from(netns) << 16 | u64::from(port))
    {
        return Some(true);
    }
    Some(listed(CUT_SOCKET, sock.inode()?))
}
