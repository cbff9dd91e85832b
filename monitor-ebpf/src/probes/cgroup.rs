//! Cgroup life: a container is known from the moment its cgroup is made, before any engine's API
//! tells of it, and a task belongs to it from the moment it is moved there.

use crate::kernel::Object;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::file::string;
use crate::kernel::task::Task;
use crate::maps::{CONTAINERS, config};
use crate::record::{self, Judgement, Subject};
use crate::reflex::guard::Means;
use crate::reflex::{doom, own, provenance};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use core::hint::black_box;
use monitor_common::header::Kind;
use monitor_common::own::Attempt;
use monitor_common::policy::{POLICY_OFF, POLICY_WATCHED, Policy};
use monitor_common::state::{CgroupChange, HOST, InodeKey, TASK_BEGINS, TASK_ENTERING};

/// Longest directory name looked at; `cri-containerd-<64 hex>.scope` has 85 bytes.
const NAME_LEN: usize = 128;
/// Hex digits of a container id.
const ID_DIGITS: u32 = 64;

#[repr(C)]
struct Name {
    run: u32,
    bytes: [u8; NAME_LEN],
}

#[btf_map]
static NAME: PerCpuArray<Name, 1> = PerCpuArray::new();

/// match-proto: cgroup_mkdir(struct cgroup *cgrp, const char *path)
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let _ = try_mkdir(&ctx);
    0
}

/// match-proto: cgroup_rmdir(struct cgroup *cgrp, const char *path)
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    let _ = try_rmdir(&ctx);
    0
}

/// match-proto: cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: BtfTracePointContext) -> i32 {
    let _ = try_attach(&ctx);
    0
}

#[inline(always)]
fn try_mkdir(ctx: &BtfTracePointContext) -> Option<()> {
    let cgroup = Cgroup(Object::new(ctx.arg::<*const u8>(0))?);
    if !cgroup.is_watched() {
        return None;
    }
    let id = cgroup.id()?;
    let parent = cgroup.parent().and_then(Cgroup::id).unwrap_or(0);
    // SAFETY: copied at once.
    let inherited = unsafe { CONTAINERS.get(&parent) }.copied();
    let policy = if names_a_container(cgroup) {
        provenance::note_made(id);
        Policy { root: id, enforce: config().map_or(0, |config| config.default_enforce), flags: POLICY_WATCHED }
    } else {
        inherited?
    };
    CONTAINERS.insert(&id, &policy, 0).ok()?;
    tell(ctx, cgroup, id, parent, 0)
}

#[inline(always)]
fn try_rmdir(ctx: &BtfTracePointContext) -> Option<()> {
    let cgroup = Cgroup(Object::new(ctx.arg::<*const u8>(0))?);
    if !cgroup.is_watched() {
        return None;
    }
    let id = cgroup.id()?;
    CONTAINERS.remove(&id).ok()?;
    tell(ctx, cgroup, id, 0, 1)
}

#[inline(always)]
fn tell(ctx: &BtfTracePointContext, cgroup: Cgroup, id: u64, parent: u64, gone: u32) -> Option<()> {
    let subject = Subject::of(Task::current()?, id);
    let payer = payer();
    let mut entry =
        record::begin_for::<CgroupChange>(payer, Kind::Cgroup, &subject, &Judgement::NOTHING, record::now())?;
    let out = entry.as_mut_ptr();
    // SAFETY: the reservation is a CgroupChange.
    unsafe {
        (*out).parent = parent;
        (*out).gone = gone;
        (*out).hierarchy = cgroup.hierarchy().unwrap_or(0);
        if let Some(path) = Object::new(ctx.arg::<*const u8>(1)) {
            string(path, &mut (*out).path);
        } else {
            (*out).path[0] = 0;
        }
    }
    // What is enforced in a new container may wait for the daemon.
    record::submit_at_once(entry);
    Some(())
}

/// At whose expense a cgroup is told of: who makes cgroups in a container without end must not lose its
/// engine, or another container, a new container's record. Neither must a flood of the host's own.
#[inline(always)]
fn payer() -> u64 {
    const ENGINE: u64 = 0;
    let maker = Task::current().and_then(Task::tgid).and_then(provenance::entry).map_or(HOST, |entry| entry.container);
    if maker == HOST { ENGINE } else { maker }
}

/// Does the directory's name hold a run of 64 hex digits? Which runtime made it, and whether it is
/// a monitor process's scope rather than the container's, is for the daemon to tell.
#[inline(always)]
fn names_a_container(cgroup: Cgroup) -> bool {
    let Some(name) = cgroup.name() else { return false };
    let Some(buffer) = NAME.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's slot; cgroup changes are serialised by cgroup_mutex.
    string(name, unsafe { &mut (*buffer).bytes });
    // SAFETY: as above.
    unsafe { (*buffer).run = 0 };
    for i in 0..NAME_LEN {
        // Opaque each round, so that the verifier sees one unknown counter and not 128 known ones.
        let buffer = black_box(buffer);
        // SAFETY: `i` is in bounds.
        let (byte, run) = unsafe { ((*buffer).bytes[i], (*buffer).run) };
        if byte == 0 {
            return run == ID_DIGITS;
        }
        if byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) {
            // SAFETY: as above.
            unsafe { (*buffer).run = run.wrapping_add(1) };
        } else if run == ID_DIGITS {
            return true;
        } else {
            // SAFETY: as above.
            unsafe { (*buffer).run = 0 };
        }
    }
    false
}

#[inline(always)]
fn try_attach(ctx: &BtfTracePointContext) -> Option<()> {
    let cgroup = Cgroup(Object::new(ctx.arg::<*const u8>(0))?);
    if !cgroup.is_watched() {
        return None;
    }
    let task = Task(Object::new(ctx.arg::<*const u8>(2))?);
    let tgid = task.tgid()?;
    if own::is_daemon(task) {
        return told(Attempt::Cgroup, cgroup);
    }
    // SAFETY: copied at once.
    let policy = unsafe { CONTAINERS.get(&cgroup.id()?) }.copied();
    match policy {
        Some(policy) if policy.flags & POLICY_OFF == 0 => {
            let entry = match provenance::entry(tgid) {
                Some(entry) => entry,
                None => {
                    let parent = task.parent().and_then(Task::tgid).unwrap_or(0);
                    provenance::create(tgid, task, policy.root, parent)?
                }
            };
            if entry.container != policy.root {
                doom::found_line(entry, tgid);
            }
            let begins = if entry.container == policy.root { entry.flags & TASK_BEGINS } else { 0 };
            entry.container = policy.root;
            entry.flags = TASK_ENTERING | begins | provenance::begins(policy.root);
            // The daemon's own children are there to be judged (canaries), and run what the daemon runs.
            let by_daemon = config().is_some_and(|config| task.parent().and_then(Task::tgid) == Some(config.self_tgid));
            let nothing = InodeKey { ino: 0, dev: 0, generation: 0 };
            entry.last_open = if by_daemon { nothing } else { provenance::program_of(task) };
        }
        // Leaving: only somebody outside may take a process out of its container; a root process
        // inside that moves itself stays what it was.
        _ => {
            let entry = provenance::entry(tgid)?;
            if entry.container == HOST {
                return None;
            }
            let mover = Task::current()?.tgid()?;
            let mover_container = provenance::entry(mover).map_or(HOST, |mover| mover.container);
            if mover_container == HOST {
                entry.container = HOST;
            } else {
                told(Attempt::Leave, cgroup)?;
            }
        }
    }
    Some(())
}

/// A container's process has moved somebody to this cgroup who was to stay where he was.
#[inline(always)]
fn told(attempt: Attempt, to: Cgroup) -> Option<()> {
    own::attempt(&own::intruder()?, attempt, 0, to.id()?, Means::Kill, false)?;
    Some(())
}
