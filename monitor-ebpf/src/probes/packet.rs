//! First payload bytes of a connection, both ways: what judgement reads stratum, DNS names and TLS
//! server names from. Of a direction and socket a few segments are copied, more if they are short ([`ROOM`]); a packet
//! of a socket that no watched process connected costs one lookup. Before that: no packet of a quarantined
//! container passes, in either direction.

use crate::kernel::copy_words;
use crate::record::{self, Judgement, Subject};
use crate::reflex::{marks, quarantine};
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::hint::black_box;
use monitor_common::header::Kind;
use monitor_common::net::{PAYLOAD_LEN, Payload};
use monitor_common::state::Socket;

const ALLOW: i32 = 1;
const DROP: i32 = 0;
/// What is copied in each direction, in units: four segments of ordinary length, enough for a proxy's CONNECT, a login and its
/// answer, or 32 crumbs of a request that was split to go unseen.
const ROOM: u16 = 32;
/// Bytes a unit, and the most units that one segment counts for.
const UNIT: u32 = 16;
const MOST: u32 = 8;
/// Index of the last byte that is copied, as a mask.
const LAST_BYTE: u32 = PAYLOAD_LEN as u32 - 1;
const _: () = assert!(PAYLOAD_LEN.is_power_of_two());
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// Headers without options, bytes, and where the TCP header tells what comes first and its own length.
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const TCP_SEQUENCE: usize = 4;
const TCP_OFFSET: usize = 12;

/// Packets leaving.
#[cgroup_skb]
pub fn packet_egress(ctx: SkBuffContext) -> i32 {
    if quarantine::cuts(ctx.skb.skb) {
        return DROP;
    }
    let _ = try_packet(&ctx, false);
    ALLOW
}

/// Packets arriving.
#[cgroup_skb]
pub fn packet_ingress(ctx: SkBuffContext) -> i32 {
    if quarantine::cuts(ctx.skb.skb) {
        return DROP;
    }
    let _ = try_packet(&ctx, true);
    ALLOW
}

/// Is it TCP's own (a handshake, an acknowledgement, an end)? Half of all packets are, and are told from a look at the
/// headers alone, where these are at hand and of the usual form.
#[inline(always)]
fn is_bare(ctx: &SkBuffContext) -> bool {
    // SAFETY: the kernel hands a valid context.
    let (start, end, length) = unsafe {
        let skb = &*ctx.skb.skb;
        (skb.data as usize, skb.data_end as usize, skb.len)
    };
    let byte = |offset: usize| {
        // SAFETY: each caller has compared with the end before.
        unsafe { *((start + offset) as *const u8) }
    };
    if start + IPV4_LEN + TCP_LEN > end {
        return false;
    }
    if byte(0) == 0x45 {
        return byte(9) == IPPROTO_TCP && length == IPV4_LEN as u32 + tcp_length(byte(IPV4_LEN + TCP_OFFSET));
    }
    if byte(0) >> 4 != 6 || byte(6) != IPPROTO_TCP || start + IPV6_LEN + TCP_LEN > end {
        return false;
    }
    length == IPV6_LEN as u32 + tcp_length(byte(IPV6_LEN + TCP_OFFSET))
}

/// From the byte that holds it, in words, in its upper half.
#[inline(always)]
const fn tcp_length(byte: u8) -> u32 {
    (byte >> 4) as u32 * 4
}

#[inline(always)]
fn try_packet(ctx: &SkBuffContext, inbound: bool) -> Option<()> {
    if is_bare(ctx) {
        return None;
    }
    // SAFETY: the kernel hands a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    // SAFETY: map values live as long as the program run; the counters may race by one.
    let socket = unsafe { &mut *marks::of_socket(cookie)? };
    let index = if inbound { socket.received } else { socket.sent };
    if index >= ROOM {
        return None;
    }
    let (mut offset, sequence) = payload(ctx)?;
    let mut length = ctx.len().checked_sub(offset)?;
    if let Some(first) = sequence {
        let copied_to = if inbound { &mut socket.received_to } else { &mut socket.sent_to };
        // What is sent once more, because its acknowledgement is late, was copied before.
        let again = if index == 0 { 0 } else { copied_to.wrapping_sub(first).cast_signed().max(0).cast_unsigned() };
        length = length.checked_sub(again)?;
        offset += again;
        *copied_to = first.wrapping_add(again + length);
    }
    if length == 0 {
        return None;
    }
    let units = length.div_ceil(UNIT).min(MOST) as u16;
    if inbound {
        socket.received = index + units;
    } else {
        socket.sent = index + units;
    }
    emit(ctx, socket, cookie, inbound, index, offset, length)
}

/// Offset of the TCP or UDP payload, and the sequence number of TCP's; cgroup programs see the packet from its IP header on.
#[inline(always)]
fn payload(ctx: &SkBuffContext) -> Option<(u32, Option<u32>)> {
    let first: u8 = ctx.load(0).ok()?;
    let (protocol, transport) = match first >> 4 {
        4 => (ctx.load::<u8>(9).ok()?, u32::from(first & 15) * 4),
        // Extension headers are passed over: rare, and the evidence is not the only one.
        6 => (ctx.load::<u8>(6).ok()?, 40),
        _ => return None,
    };
    match protocol {
        IPPROTO_TCP => {
            let words: u8 = ctx.load(transport as usize + TCP_OFFSET).ok()?;
            let sequence = ctx.load::<u32>(transport as usize + TCP_SEQUENCE).ok()?;
            Some((transport + tcp_length(words), Some(u32::from_be(sequence))))
        }
        IPPROTO_UDP => Some((transport + 8, None)),
        _ => None,
    }
}

#[inline(always)]
fn emit(
    ctx: &SkBuffContext,
    socket: &Socket,
    cookie: u64,
    inbound: bool,
    index: u16,
    offset: u32,
    length: u32,
) -> Option<()> {
    let subject = Subject {
        tgid: socket.tgid,
        tid: socket.tgid,
        uid: socket.uid,
        start_ns: socket.start_ns,
        container: socket.container,
    };
    let mut reserved = record::begin::<Payload>(Kind::Payload, &subject, &Judgement::NOTHING, record::now())?;
    let out = reserved.as_mut_ptr();
    let wanted = if length > PAYLOAD_LEN as u32 { PAYLOAD_LEN as u32 } else { length };
    // SAFETY: the reservation is a Payload, and `data` has PAYLOAD_LEN bytes.
    unsafe {
        copy_words(&socket.peer, &mut (*out).peer);
        (*out).cookie = cookie;
        (*out).inbound = u32::from(inbound);
        (*out).index = u32::from(index);
        (*out).segment = length;
        // The verifier wants 1..=PAYLOAD_LEN, on the very value that is passed. Up to 6.7 it learns nothing from a
        // comparison with zero, which is what a clamp becomes; a mask and an addition it has always understood.
        let bounded = (black_box(wanted - 1) & LAST_BYTE) + 1;
        let status = bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, (&raw mut (*out).data).cast(), bounded);
        (*out).len = if status == 0 { wanted } else { 0 };
    }
    record::submit(reserved, &Judgement::NOTHING);
    Some(())
}
