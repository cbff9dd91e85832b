//! Names made for files: a key or crontab that is moved or linked into place was never opened under
//! its final name, and one that is created there exists, empty, before it is opened.

use crate::kernel::Object;
use crate::kernel::file::{Dentry, Inode};
use crate::kernel::task::Task;
use crate::record;
use crate::reflex::{guard, own, provenance, sensitive};
use aya_ebpf::macros::{fentry, lsm};
use aya_ebpf::programs::{FEntryContext, LsmContext};
use bytemuck::Zeroable;
use core::hint::black_box;
use monitor_common::file::{FILE_CREATED, FILE_NAMED, FILE_REMOVED, FILE_SENSITIVE, FILE_WRITE};
use monitor_common::header::{Reason, Rung};
use monitor_common::state::{HOST, Origin};

const DENY: guard::Means = guard::Means::Deny(Rung::Lsm);

/// Before open(2) creates a file. Told only if refused: an open that goes on tells of itself.
///
/// match-proto: inode_create(struct inode *dir, struct dentry *dentry, umode_t mode)
#[lsm(hook = "inode_create")]
pub fn lsm_create(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(3) != 0 {
        return 0;
    }
    guard::errno(named(ctx.arg(1), core::ptr::null(), DENY, true))
}

/// Before link(2).
///
/// match-proto: inode_link(struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)
#[lsm(hook = "inode_link")]
pub fn lsm_link(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(3) != 0 {
        return 0;
    }
    guard::errno(named(ctx.arg(2), ctx.arg(0), DENY, false))
}

/// Before symlink(2).
///
/// match-proto: inode_symlink(struct inode *dir, struct dentry *dentry, const char *old_name)
#[lsm(hook = "inode_symlink")]
pub fn lsm_symlink(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(3) != 0 {
        return 0;
    }
    guard::errno(named(ctx.arg(1), core::ptr::null(), DENY, false))
}

/// Before rename(2).
///
/// match-proto: inode_rename(struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir, struct dentry *new_dentry)
#[lsm(hook = "inode_rename")]
pub fn lsm_rename(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(4) != 0 {
        return 0;
    }
    let refused = removed(ctx.arg(1), DENY) == Some(true) || named(ctx.arg(3), ctx.arg(1), DENY, false) == Some(true);
    guard::errno(Some(refused))
}

/// As [`lsm_link`], without the power to refuse.
///
/// match-proto: security_inode_link(struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)
#[fentry(function = "security_inode_link")]
pub fn fentry_link(ctx: FEntryContext) -> i32 {
    let _ = named(ctx.arg(2), ctx.arg(0), guard::Means::Kill, false);
    0
}

/// As [`lsm_symlink`], without the power to refuse.
///
/// match-proto: security_inode_symlink(struct inode *dir, struct dentry *dentry, const char *old_name)
#[fentry(function = "security_inode_symlink")]
pub fn fentry_symlink(ctx: FEntryContext) -> i32 {
    let _ = named(ctx.arg(1), core::ptr::null(), guard::Means::Kill, false);
    0
}

/// As [`lsm_rename`], without the power to refuse.
///
/// match-proto: security_inode_rename(struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir, struct dentry *new_dentry, unsigned int flags)
#[fentry(function = "security_inode_rename")]
pub fn fentry_rename(ctx: FEntryContext) -> i32 {
    let _ = removed(ctx.arg(1), guard::Means::Kill);
    let _ = named(ctx.arg(3), ctx.arg(1), guard::Means::Kill, false);
    0
}

/// Before unlink(2).
///
/// match-proto: inode_unlink(struct inode *dir, struct dentry *dentry)
#[lsm(hook = "inode_unlink")]
pub fn lsm_unlink(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    guard::errno(removed(ctx.arg(1), DENY))
}

/// Before rmdir(2).
///
/// match-proto: inode_rmdir(struct inode *dir, struct dentry *dentry)
#[lsm(hook = "inode_rmdir")]
pub fn lsm_rmdir(ctx: LsmContext) -> i32 {
    if ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    guard::errno(removed(ctx.arg(1), DENY))
}

/// As [`lsm_unlink`], without the power to refuse.
///
/// match-proto: security_inode_unlink(struct inode *dir, struct dentry *dentry)
#[fentry(function = "security_inode_unlink")]
pub fn fentry_unlink(ctx: FEntryContext) -> i32 {
    let _ = removed(ctx.arg(1), guard::Means::Kill);
    0
}

/// As [`lsm_rmdir`], without the power to refuse.
///
/// match-proto: security_inode_rmdir(struct inode *dir, struct dentry *dentry)
#[fentry(function = "security_inode_rmdir")]
pub fn fentry_rmdir(ctx: FEntryContext) -> i32 {
    let _ = removed(ctx.arg(1), guard::Means::Kill);
    0
}

/// A name is taken away: only of what is ours.
#[inline(always)]
fn removed(at: *const u8, means: guard::Means) -> Option<bool> {
    upon_own(&own::intruder()?, Dentry(Object::argument(at)?), FILE_REMOVED, means)
}

#[inline(always)]
fn upon_own(who: &own::Intruder<'_>, at: Dentry, bits: u32, means: guard::Means) -> Option<bool> {
    let inode = at.inode();
    if !inode.is_some_and(own::is_inode) && !at.parent()?.inode().is_some_and(own::is_inode) {
        return None;
    }
    Some(own::file(who, inode, at, bits | FILE_WRITE, means).denied())
}

/// Judges the name `at`, which the file at `from` (null: a new one) is to get.
#[inline(always)]
fn named(at: *const u8, from: *const u8, means: guard::Means, only_refused: bool) -> Option<bool> {
    let (task, tgid) = Task::running()?;
    let entry = provenance::entry(tgid)?;
    if entry.container == HOST {
        return None;
    }
    let at = Dentry(Object::argument(at)?);
    if let Some(who) = own::Intruder::new(task, tgid, entry)
        && let Some(refused) = upon_own(&who, at, FILE_NAMED, means)
    {
        return Some(refused);
    }
    let reason = sensitive::class(at);
    // Overlayfs repeats in the layer below, with its mounter's credentials, what was asked of it.
    if reason as u8 == Reason::None as u8 || task.acts_for_another() {
        return None;
    }
    // As an opaque address: where there is none, the compiler would put aside whatever the register of an `Option` holds,
    // and the verifier refuses that.
    let replaced = black_box(at.inode().map_or(0, |inode| inode.0.raw() as u64));
    let created = if replaced == 0 { FILE_CREATED } else { 0 };
    let made = created != 0 && sensitive::is_hidden(at);
    let is_set_up = sensitive::sets_up(task, entry, reason, at);
    let judgement = sensitive::judge(entry, tgid, reason, made, is_set_up, means);
    if only_refused && !judgement.denied() || !judgement.tells() {
        return None;
    }
    let replaced = Object::new(replaced as *const u8).map(Inode);
    let inode = Object::new(from).and_then(|from| Dentry(from).inode()).or(replaced);
    let bits = FILE_SENSITIVE | FILE_WRITE | FILE_NAMED | created;
    record::open(task, entry, inode, at, bits, reason, &Origin::zeroed(), &judgement);
    Some(judgement.denied())
}
