//! What the task's entry says of the new program, before provenance.

use super::look::DRIFT;
use super::{Room, Scratch};
use crate::kernel::clear_words;
use crate::kernel::file::{File, Inode};
use crate::kernel::task::Task;
use crate::reflex::{program, provenance};
use monitor_common::argv::Form;
use monitor_common::exec::{STDIO_FILE, STDIO_INET_OUT, STDIO_PIPE, STDIO_UNIX, Stdio};
use monitor_common::file::{FILE_FOREIGN_SB, FILE_OVERLAY};
use monitor_common::state::{
    CLASS_FETCHER, CLASS_INTERPRETER, CLASS_PACKAGE_MANAGER, CLASS_SESSION_SERVER, CLASS_SHELL, HOST, InodeKey,
    TASK_DRIFT, TASK_ENTERED, TASK_ENTERING, TASK_FETCHER, TASK_INTERPRETER, TASK_NET_OUT, TASK_PACKAGE_MANAGER,
    TASK_PACKAGE_SCRIPT, TASK_READS_STDIN, TASK_SESSION_SERVER, TASK_SHELL, TASK_STDIN_INET, TASK_STDOUT_INET,
};

/// A new program begins with a clean slate.
#[inline(always)]
pub fn renew(room: &mut Room) -> Option<()> {
    let scratch = &room.scratch;
    let entry = provenance::entry(scratch.tgid)?;
    let is_runtime = provenance::is_runtime(entry, &scratch.exe, scratch.class);
    entry.flags = new_flags(entry.flags, entry.container, scratch, is_runtime);
    entry.script = scratch.script;
    entry.stdin = key_if(&scratch.stdio[0], STDIO_UNIX);
    entry.stdout = key_if(&scratch.stdio[1], STDIO_FILE);
    if scratch.stdio[1].kind == STDIO_FILE {
        let file = scratch.task().and_then(Task::descriptors).and_then(|all| all.file(1)).and_then(File::inode);
        entry.stdout.generation = file.and_then(Inode::generation).unwrap_or(0);
    }
    entry.fifo_out = InodeKey { ino: 0, dev: 0, generation: 0 };
    if !is_runtime {
        entry.last_open = InodeKey { ino: 0, dev: 0, generation: 0 };
    }
    clear_words(&mut entry.writes);
    entry.write_next = 0;
    Some(())
}

/// `TASK_*` bits of the new program.
#[inline(always)]
fn new_flags(inherited: u32, container: u64, scratch: &Scratch, is_runtime: bool) -> u32 {
    let mut flags = inherited & (provenance::KEPT_FLAGS | TASK_ENTERED);
    let file = scratch.exe.flags;
    if inherited & TASK_ENTERING != 0 {
        flags |= TASK_ENTERED;
        // The runtime's own init: the program is still to come.
        if is_runtime {
            flags |= TASK_ENTERING;
        }
    }
    let foreign = file & FILE_FOREIGN_SB != 0 && file & FILE_OVERLAY == 0;
    let drift = container != HOST && (file & DRIFT != 0 || foreign);
    if drift {
        flags |= TASK_DRIFT;
    }
    if scratch.class & CLASS_SHELL != 0 {
        flags |= TASK_SHELL;
    }
    if scratch.class & CLASS_INTERPRETER != 0 {
        flags |= TASK_INTERPRETER;
    }
    if scratch.class & CLASS_SESSION_SERVER != 0 && !drift {
        flags |= TASK_SESSION_SERVER;
    }
    // Of an interpreter the script is the program.
    let script = if scratch.script != 0 && scratch.class & CLASS_INTERPRETER != 0 {
        program::named(scratch.script) & (CLASS_PACKAGE_MANAGER | CLASS_FETCHER)
    } else {
        0
    };
    let class = scratch.class | script;
    if !drift && class & CLASS_FETCHER != 0 {
        flags |= TASK_FETCHER;
    }
    if !drift && class & CLASS_PACKAGE_MANAGER != 0 {
        flags = flags & !TASK_PACKAGE_SCRIPT | TASK_PACKAGE_MANAGER;
    } else if scratch.class & (CLASS_SHELL | CLASS_INTERPRETER) != 0 {
        // A maintainer script is a file. Text on a command line (apt's and dpkg's hooks) is whatever
        // somebody gave the package manager as an option.
        if scratch.class & CLASS_SHELL != 0 && scratch.form == Form::Argument as u32 {
            flags &= !TASK_PACKAGE_MANAGER;
        }
        flags |= TASK_PACKAGE_SCRIPT;
    }
    if scratch.form == Form::Stdin as u32 {
        flags |= TASK_READS_STDIN;
    }
    if scratch.stdio[0].kind == STDIO_INET_OUT {
        flags |= TASK_STDIN_INET | TASK_NET_OUT;
    }
    if scratch.stdio[1].kind == STDIO_INET_OUT || scratch.stdio[2].kind == STDIO_INET_OUT {
        flags |= TASK_STDOUT_INET | TASK_NET_OUT;
    }
    if scratch.holds_connection != 0 {
        flags |= TASK_NET_OUT;
    }
    flags
}

#[inline(always)]
fn key_if(stdio: &Stdio, other: u32) -> InodeKey {
    if stdio.kind == STDIO_PIPE || stdio.kind == other {
        InodeKey { ino: stdio.ino, dev: stdio.dev, generation: 0 }
    } else {
        InodeKey { ino: 0, dev: 0, generation: 0 }
    }
}
