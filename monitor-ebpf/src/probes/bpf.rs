//! bpf(2) on what is ours: a map's contents, and what holds programs attached. A program's descriptor gives no
//! power over it, and a map's read-only one none either.

use crate::kernel::Object;
use crate::kernel::task::argument;
use crate::reflex::guard::{self, Means};
use crate::reflex::own;
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::macros::{lsm, tracepoint};
use aya_ebpf::programs::{LsmContext, TracePointContext};
use monitor_common::field::Field;
use monitor_common::header::Rung;
use monitor_common::own::Attempt;

const DENY: Means = Means::Deny(Rung::Lsm);
/// As in `descriptor`.
const RET: usize = 16;

/// enum bpf_cmd (include/uapi/linux/bpf.h)
const BPF_OBJ_GET: u32 = 7;
const BPF_MAP_GET_FD_BY_ID: u32 = 14;
const BPF_LINK_UPDATE: u32 = 29;
const BPF_LINK_GET_FD_BY_ID: u32 = 30;
const BPF_LINK_DETACH: u32 = 34;

/// Before a map gets a descriptor, by its number or its pin.
///
/// match-proto: bpf_map(struct bpf_map *map, fmode_t fmode)
#[lsm(hook = "bpf_map")]
pub fn lsm_map(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    guard::errno(map(ctx.arg(0), ctx.arg(1)))
}

#[inline(always)]
fn map(map: *const u8, mode: u32) -> Option<bool> {
    if mode & own::FMODE_WRITE == 0 {
        return None;
    }
    let who = own::intruder()?;
    let id = own::map(Object::new(map)?)?;
    own::attempt(&who, Attempt::Map, 0, id, DENY, false)
}

/// Before bpf(2). What an earlier program of ours refused does not come here; newer kernels append parameters.
///
/// match-proto: bpf(int cmd, union bpf_attr *attr, unsigned int size, ...)
#[lsm(hook = "bpf")]
pub fn lsm_bpf(ctx: LsmContext) -> i32 {
    guard::errno(link(ctx.arg(0), ctx.arg(1)))
}

/// The first word of the attributes is the link's number, or a descriptor of it.
#[inline(always)]
fn link(command: u32, attributes: *const u32) -> Option<bool> {
    if command != BPF_LINK_GET_FD_BY_ID && command != BPF_LINK_DETACH && command != BPF_LINK_UPDATE {
        return None;
    }
    let who = own::intruder()?;
    let word = crate::kernel::read(attributes)?;
    let (attempt, id) = if command == BPF_LINK_GET_FD_BY_ID {
        if !own::is_link(word) {
            return None;
        }
        (Attempt::Link, u64::from(word))
    } else {
        own::object(who.task.file(word)?)?
    };
    own::attempt(&who, attempt, command, id, DENY, false)
}

/// Exit of bpf(2), where LSM is not active: who has got hold of a descriptor dies before it can be used. A kill at the
/// entry (fentry) comes too late for a link that is detached by the same call.
#[tracepoint]
pub fn bpf_called(ctx: TracePointContext) -> u32 {
    let _ = try_called(&ctx);
    0
}

#[inline(always)]
fn try_called(ctx: &TracePointContext) -> Option<()> {
    // SAFETY: within the tracepoint's record.
    let result = unsafe { ctx.read_at::<i64>(RET) }.ok()?;
    if result < 0 {
        return None;
    }
    let who = own::intruder()?;
    let command = argument(Field::RegsFirstArg)? as u32;
    let fd = match command {
        BPF_OBJ_GET | BPF_MAP_GET_FD_BY_ID | BPF_LINK_GET_FD_BY_ID => result as u32,
        // SAFETY: the helper checks the address.
        BPF_LINK_DETACH | BPF_LINK_UPDATE => {
            unsafe { bpf_probe_read_user(argument(Field::RegsSecondArg)? as *const u32) }.ok()?
        }
        _ => return None,
    };
    let (attempt, id) = own::object(who.task.file(fd)?)?;
    own::attempt(&who, attempt, command, id, Means::Kill, false)?;
    Some(())
}
