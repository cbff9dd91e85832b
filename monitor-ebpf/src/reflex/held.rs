//! Which processes are held to a baseline, and what it expects of them and need not be told: counted, by container.

use crate::maps::{PROFILES, config};
use crate::reflex::quarantine;
use crate::share;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use monitor_common::policy::POLICY_BOUND;
use monitor_common::profile::{BOUND_CODE, BOUND_EXECS};
use monitor_common::state::{Held, TASK_DOOMED, TASK_ENTERING, Task};

#[btf_map]
static HELD: LruHashMap<u64, Held, 4096> = LruHashMap::new();

/// Does the daemon want anything to be held back?
#[inline(always)]
pub fn is_on() -> bool {
    config().is_some_and(|config| config.holds_back != 0)
}

/// Is a process held to a baseline's program starts by the kernel half, so that it need not be told of before it does
/// something that is?
#[inline(always)]
pub fn is_expected_of(task: &Task) -> bool {
    task.flags & TASK_DOOMED == 0 && is_on() && binds(task, BOUND_EXECS)
}

/// May a process map code of the image's own files only?
#[inline(always)]
pub fn is_locked(task: &Task) -> bool {
    binds(task, BOUND_CODE)
}

/// Is a process held to this part (`BOUND_*`) of a baseline? Not who is in a session from outside.
#[inline(always)]
fn binds(task: &Task, part: u32) -> bool {
    if task.flags & TASK_ENTERING != 0 || quarantine::policy(task.container) & POLICY_BOUND == 0 {
        return false;
    }
    // SAFETY: copied at once; a change makes it the old one or the new one.
    let Some(bound) = unsafe { PROFILES.get(&task.container) }.copied() else { return false };
    bound.holds & part != 0 && (bound.init == 0 || task.lineage[0] == bound.init)
}

/// Counts a fork.
#[inline(always)]
pub fn count_fork(container: u64) {
    if let Some(held) = of(container) {
        share::add(&raw mut held.forks, 1);
    }
}

/// Counts an end.
#[inline(always)]
pub fn count_exit(container: u64) {
    if let Some(held) = of(container) {
        share::add(&raw mut held.exits, 1);
    }
}

/// Counts a program start.
#[inline(always)]
pub fn count_exec(container: u64) {
    if let Some(held) = of(container) {
        share::add(&raw mut held.execs, 1);
    }
}

#[inline(always)]
fn of<'a>(container: u64) -> Option<&'a mut Held> {
    let found = match HELD.get_ptr_mut(&container) {
        Some(found) => found,
        None => {
            let _ = HELD.insert(&container, &Held { execs: 0, forks: 0, exits: 0 }, u64::from(BPF_NOEXIST));
            HELD.get_ptr_mut(&container)?
        }
    };
    // SAFETY: map values live as long as the program run; every field is a word.
    Some(unsafe { &mut *found })
}
