//! What is started, by whom, and with which descriptors.

use super::Room;
use crate::kernel::task::Task;
use crate::reflex::{program, provenance, stdio};
use monitor_common::exec::EXEC_BY_FINGERPRINT;
use monitor_common::file::{FILE_MEMFD, FILE_TMPFS, FILE_UNLINKED, FILE_UPPER};
use monitor_common::state::{Fingerprint, TASK_NET_OUT};

/// Descriptors above the standard ones that are looked at to see whether a connection survived the
/// exec (`exec 3<>/dev/tcp/…`).
const INHERITED_FDS: core::ops::Range<u32> = 3..10;

/// Of an executable that is not the image's.
pub const DRIFT: u32 = FILE_UPPER | FILE_TMPFS | FILE_UNLINKED | FILE_MEMFD;

/// The executable, the standard descriptors and the parent.
#[inline(always)]
pub fn look(room: &mut Room) -> Option<()> {
    let scratch = &mut room.scratch;
    let task = scratch.task()?;
    scratch.file()?.describe(&mut scratch.exe, task.root_sb());
    let descriptors = task.descriptors()?;
    for fd in 0..3 {
        stdio::look(descriptors.file(fd), &mut scratch.stdio[fd as usize]);
    }
    let inherited = provenance::entry(scratch.tgid)?.flags;
    if inherited & TASK_NET_OUT != 0 {
        for fd in INHERITED_FDS {
            if descriptors.file(fd).is_some_and(stdio::is_outbound) {
                scratch.holds_connection = 1;
                break;
            }
        }
    }
    let parent = task.parent();
    scratch.parent_tgid = parent.and_then(Task::tgid).unwrap_or(0);
    scratch.parent_start_ns = parent.and_then(Task::start_ns).unwrap_or(0);
    Some(())
}

/// Class of the executable.
#[inline(always)]
pub fn classify(room: &mut Room) -> Option<()> {
    let (scratch, arguments) = (&mut room.scratch, &raw mut room.arguments);
    let mm = scratch.task()?.mm()?;
    let (code, data) = mm.extents()?;
    scratch.print = Fingerprint { size: scratch.exe.size, code, data };
    let name = program::hash_of(scratch.file()?.dentry()?)?;
    let class = program::classify(name, &scratch.print, scratch.exe.flags & DRIFT == 0);
    if class.by_fingerprint {
        scratch.flags |= EXEC_BY_FINGERPRINT;
    }
    scratch.class = class.bits;
    if class.bits != 0
        && let Some(applet) = program::begin(arguments, class.bits, mm)
    {
        scratch.class = applet;
        scratch.has_arguments = 1;
    }
    Some(())
}

/// What its arguments say.
#[inline(always)]
pub fn read(room: &mut Room) -> Option<()> {
    if room.scratch.has_arguments != 0 {
        let text = program::text(&mut room.arguments, room.scratch.class);
        room.scratch.form = text.form as u32;
        room.scratch.script = text.script;
    }
    Some(())
}
