//! Code refused before it runs: programs about to be executed, files about to be mapped as code. The
//! exec tracepoint judges all programs, and later, when redirections and arguments can be seen too;
//! here is what can be known before anything has happened.

use crate::kernel::file::{File, Inode, Type};
use crate::kernel::task::{Task, argument};
use crate::kernel::{Object, read};
use crate::probes::exec;
use crate::record;
use crate::reflex::{doom, guard, held, program, provenance, quarantine, stdio};
use aya_ebpf::macros::{fentry, lsm, tracepoint};
use aya_ebpf::programs::{FEntryContext, LsmContext, TracePointContext};
use bytemuck::Zeroable;
use monitor_common::exec::{STDIO_INET_OUT, Stdio};
use monitor_common::field::Field;
use monitor_common::file::{FILE_EXEC, FILE_MAPPED, FILE_TAINTED};
use monitor_common::header::{Reason, Rung};
use monitor_common::policy::POLICY_BOUND;
use monitor_common::state::{self, CLASS_INTERPRETER, CLASS_SHELL, HOST, Origin, TASK_ENTERING};

/// include/uapi/asm-generic/mman-common.h
const PROT_EXEC: u64 = 4;
/// "\x7fELF", and where the machine stands behind it (include/uapi/linux/elf.h).
const ELF: u32 = 0x464c_457f;
const E_MACHINE: usize = 18;
const EM_X86_64: u16 = 62;
/// As in `descriptor`.
const RET: usize = 16;
/// Highest address that is an error code (include/linux/err.h).
const MAX_ERRNO: i64 = -4095;

/// Before a program, and before each interpreter of a script, is taken.
///
/// match-proto: bprm_check_security(struct linux_binprm *bprm)
#[lsm(hook = "bprm_check_security")]
pub fn lsm_program(ctx: LsmContext) -> i32 {
    // An earlier module's refusal stands.
    if ctx.arg::<i32>(1) != 0 {
        return 0;
    }
    guard::errno(try_program(&ctx))
}

#[inline(always)]
fn try_program(ctx: &LsmContext) -> Option<bool> {
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST {
        return None;
    }
    let bprm = Object::new(ctx.arg::<*const u8>(0))?;
    let file = bprm.follow(Field::BprmFile).map(File)?;
    let inode = file.inode()?;
    let origin = &mut Origin::zeroed();
    let (reason, bits) = match objection(task, tgid, entry, file, inode, origin) {
        Some(found) => found,
        None => deviation(task, entry.container, bprm, file)?,
    };
    let judgement = guard::deny(entry.container, tgid, reason, origin.tgid, Rung::Lsm);
    // What is only watched is told by the exec itself.
    if !judgement.denied() {
        return None;
    }
    if reason as u8 == Reason::ReverseShell as u8 {
        // Refused, it would tell the other end so: its standard error is the connection.
        doom::kill_current();
    }
    record::open(task, entry, Some(inode), file.dentry()?, FILE_EXEC | bits, Reason::None, origin, &judgement);
    Some(true)
}

/// Why the program must not start.
#[inline(always)]
fn objection(
    task: Task,
    tgid: u32,
    entry: &mut state::Task,
    file: File,
    inode: Inode,
    origin: &mut Origin,
) -> Option<(Reason, u32)> {
    let key = inode.key()?;
    if provenance::taint_of(&key, inode, origin).is_some() {
        // Its segments are mapped next: the same thing, seen again.
        entry.last_open = key;
        return Some((Reason::DownloadExec, FILE_TAINTED));
    }
    // As at exec: a runtime's own init runs from a memfd, before its program.
    if entry.flags & TASK_ENTERING == 0 && file.is_memfd(inode) {
        return Some((Reason::FilelessExec, 0));
    }
    if program::named(program::hash_of(file.dentry()?)?) & (CLASS_SHELL | CLASS_INTERPRETER) == 0 {
        return None;
    }
    let descriptors = task.descriptors()?;
    let out = stdio::is_outbound(descriptors.file(1)?) || stdio::is_outbound(descriptors.file(2)?);
    let mut input = Stdio::zeroed();
    stdio::look(descriptors.file(0), &mut input);
    if !out || input.kind != STDIO_INET_OUT {
        return None;
    }
    provenance::set_origin(origin, tgid, entry.start_ns, &input.peer, record::now());
    Some((Reason::ReverseShell, 0))
}

/// A program that the container's baseline does not have. A script is not one, its interpreter is, which comes by
/// itself; what is not for this machine may have one that is not named in it (binfmt_misc).
#[inline(always)]
fn deviation(task: Task, container: u64, bprm: Object, file: File) -> Option<(Reason, u32)> {
    if quarantine::policy(container) & POLICY_BOUND == 0 {
        return None;
    }
    let head = bprm.address(Field::BprmBuf)?;
    let is_native = read::<u32>(head.cast())? == ELF && read::<u16>(head.wrapping_add(E_MACHINE).cast())? == EM_X86_64;
    (is_native && exec::lacks(task, file)?).then_some((Reason::BaselineExec, 0))
}

/// Before a file is mapped.
///
/// match-proto: mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
#[lsm(hook = "mmap_file")]
pub fn lsm_mapping(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(4) != 0 || ctx.arg::<u64>(2) & PROT_EXEC == 0 {
        return 0;
    }
    guard::errno(mapping(ctx.arg(0), guard::Means::Deny(Rung::Lsm)))
}

/// The same place without the power to refuse.
///
/// match-proto: security_mmap_file(struct file *file, unsigned long prot, unsigned long flags)
#[fentry(function = "security_mmap_file")]
pub fn fentry_mapping(ctx: FEntryContext) -> i32 {
    if ctx.arg::<u64>(1) & PROT_EXEC != 0 {
        let _ = mapping(ctx.arg(0), guard::Means::Kill);
    }
    0
}

/// Exit of mmap(2): mapped, and not an instruction of it has run. A kernel that maps a program's
/// segments for exec does not come by.
#[tracepoint]
pub fn code_mapped(ctx: TracePointContext) -> u32 {
    let _ = try_mapped(&ctx);
    0
}

#[inline(always)]
fn try_mapped(ctx: &TracePointContext) -> Option<()> {
    // SAFETY: within the tracepoint's record.
    let address = unsafe { ctx.read_at::<i64>(RET) }.ok()?;
    if (MAX_ERRNO..0).contains(&address) {
        return None;
    }
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST || argument(Field::RegsThirdArg)? & PROT_EXEC == 0 {
        return None;
    }
    let fd = argument(Field::RegsFifthArg)? as u32;
    judge(task, tgid, entry, task.file(fd)?, guard::Means::Kill)?;
    Some(())
}

#[inline(always)]
fn mapping(file: *const u8, means: guard::Means) -> Option<bool> {
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST {
        return None;
    }
    judge(task, tgid, entry, File(Object::new(file)?), means)
}

/// Libraries, and programs started by way of the dynamic loader. What a process unpacked itself and
/// then loads is its own code: every Java service with a native library does that.
#[inline(always)]
fn judge(task: Task, tgid: u32, entry: &mut state::Task, file: File, means: guard::Means) -> Option<bool> {
    let inode = file.inode()?;
    if inode.kind()? != Type::Regular {
        return None;
    }
    let key = inode.key()?;
    let origin = &mut Origin::zeroed();
    let tainted = provenance::taint_of(&key, inode, origin).is_some();
    if !tainted || origin.tgid == tgid || (entry.last_open.ino == key.ino && entry.last_open.dev == key.dev) {
        return locked(task, tgid, entry, file, inode, means);
    }
    entry.last_open = key;
    let judgement = guard::act(means, entry.container, tgid, Reason::DownloadExec, origin.tgid);
    let bits = FILE_MAPPED | FILE_TAINTED;
    record::open(task, entry, Some(inode), file.dentry()?, bits, Reason::None, origin, &judgement);
    Some(judgement.denied())
}

/// What is not the image's, where the container's baseline locks its code.
#[inline(always)]
fn locked(
    task: Task,
    tgid: u32,
    entry: &mut state::Task,
    file: File,
    inode: Inode,
    means: guard::Means,
) -> Option<bool> {
    if !held::is_locked(entry) || inode.is_of_image(task.root_sb())? {
        return None;
    }
    let judgement = guard::act(means, entry.container, tgid, Reason::BaselineExec, 0);
    record::open(task, entry, Some(inode), file.dentry()?, FILE_MAPPED, Reason::None, &Origin::zeroed(), &judgement);
    Some(judgement.denied())
}
