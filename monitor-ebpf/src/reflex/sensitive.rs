//! Files that make something run later (keys, crontabs, start-up files), told by their own name and
//! those of their nearest directories.

use crate::kernel::Object;
use crate::kernel::file::Dentry;
use crate::kernel::task::Task;
use crate::record::Judgement;
use crate::reflex::{guard, provenance};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::macros::btf_map;
use core::mem::MaybeUninit;
use monitor_common::file::COMPONENT_LEN;
use monitor_common::hash;
use monitor_common::header::Reason;
use monitor_common::state::{
    self, TASK_DRIFT, TASK_INTERPRETER, TASK_NET_OUT, TASK_PACKAGE_SCRIPT, TASK_SHELL, TASK_TAINTED,
};

/// Sensitive files by [`hash::path_key`]; the value is a [`Reason`].
#[btf_map]
static SENSITIVE: HashMap<u64, u32, 1024> = HashMap::new();

/// Hash of an entry's own name.
#[inline(always)]
pub fn name(entry: Dentry) -> Option<u32> {
    match entry_name(entry.0.raw() as u64) {
        0 => None,
        hash => Some(hash),
    }
}

/// A function of its own (see [`super`]): 0 if there is no name. The buffer is on the stack: hooks that may be
/// preempted share a CPU's slot of a map with whoever comes next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_name(entry: u64) -> u32 {
    let mut buffer = MaybeUninit::<[u8; COMPONENT_LEN]>::uninit();
    // SAFETY: the helper writes all of what is read: the name and the NUL that ends the hash.
    let bytes = unsafe { &mut *buffer.as_mut_ptr() };
    let copied = Object::new(entry as *const u8).and_then(|entry| Dentry(entry).name(bytes));
    if copied.is_some() { hash::name(bytes) } else { 0 }
}

/// Does its name begin with a dot, as those of start-up files in a home do?
#[inline(always)]
pub fn is_hidden(entry: Dentry) -> bool {
    entry_begins(entry.0.raw() as u64) == HIDDEN
}

/// Answers of [`entry_begins`].
const HIDDEN: u32 = 1;
const LOADERS: u32 = 2;

/// How its name begins: with a dot, or as those of the dynamic loader's files do. A function of its own (see [`super`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn entry_begins(entry: u64) -> u32 {
    let mut buffer = MaybeUninit::<[u8; COMPONENT_LEN]>::zeroed();
    // SAFETY: zeroed.
    let bytes = unsafe { &mut *buffer.as_mut_ptr() };
    let copied = Object::new(entry as *const u8).and_then(|entry| Dentry(entry).name(bytes));
    match bytes {
        _ if copied.is_none() => 0,
        [b'.', ..] => HIDDEN,
        [b'l', b'd', b'.', b's', b'o', ..] => LOADERS,
        _ => 0,
    }
}

/// May it be an entry point's that installs its image's own jobs or profile before it starts the service? The daemon, which
/// knows more, judges that. A preloaded library or a key is never part of it, nor is anything that came from outside, nor a file that is not
/// on the container's own overlay.
#[inline(always)]
pub fn sets_up(task: Task, entry: &state::Task, reason: Reason, at: Dentry) -> bool {
    let own_business = reason as u8 == Reason::PersistenceCron as u8
        || reason as u8 == Reason::PersistenceOther as u8 && entry_begins(at.0.raw() as u64) != LOADERS;
    own_business
        && entry.flags & (TASK_NET_OUT | TASK_TAINTED) == 0
        && provenance::is_starting_up(entry)
        && at.inode().or_else(|| at.parent()?.inode()).is_some_and(|inode| inode.is_on_root_overlay(task.root_sb()))
}

/// Class of the file at an entry.
#[inline(always)]
pub fn class(entry: Dentry) -> Reason {
    hashes(entry).map_or(Reason::None, |(own, up, top)| class_of(own, up, top))
}

#[inline(always)]
fn hashes(entry: Dentry) -> Option<(u32, u32, u32)> {
    let parent = entry.parent()?;
    Some((name(entry)?, name(parent)?, name(parent.parent()?)?))
}

/// Class by the hashes of the name, its directory's and that one's directory's.
#[inline(always)]
pub fn class_of(own: u32, up: u32, top: u32) -> Reason {
    let keys = [
        hash::path_key(own, up, 0),
        hash::path_key(0, up, 0),
        hash::path_key(0, up, top),
        hash::path_key(own, up, top),
        hash::path_key(own, 0, 0),
    ];
    for key in keys {
        // SAFETY: copied at once.
        if let Some(code) = unsafe { SENSITIVE.get(&key) } {
            return Reason::try_from(*code as u8).unwrap_or(Reason::None);
        }
    }
    Reason::None
}

/// Judges a write to a file of class `reason`; a package manager's own is nothing. `made`: a new one in somebody's home;
/// `is_set_up`: [`sets_up`].
#[inline(always)]
pub fn judge(
    entry: &state::Task,
    tgid: u32,
    reason: Reason,
    made: bool,
    is_set_up: bool,
    means: guard::Means,
) -> Judgement {
    // A program of the image that makes a new start-up file in a home (`useradd -m` and its .bashrc) is left to
    // the daemon, which knows its name; what appends to one, or a shell that makes one, is not.
    let maker = reason as u8 == Reason::PersistenceOther as u8
        && made
        && entry.flags & (TASK_SHELL | TASK_INTERPRETER | TASK_NET_OUT | TASK_TAINTED | TASK_DRIFT) == 0;
    // No package brings SSH keys: a script that writes one does not install.
    let key_by_script = reason as u8 == Reason::PersistenceSshKey as u8 && entry.flags & TASK_PACKAGE_SCRIPT != 0;
    if reason as u8 == Reason::Watched as u8 || state::may_install(entry.flags) && !key_by_script {
        Judgement::NOTHING
    } else if maker || is_set_up {
        Judgement::told(reason, 0)
    } else {
        guard::act(means, entry.container, tgid, reason, 0)
    }
}
