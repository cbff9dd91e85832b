//! `struct task_struct` and what hangs on it.

use super::file::{Dentry, File};
use super::{Object, read};
use crate::maps::offset;
use aya_ebpf::helpers::generated::bpf_task_pt_regs;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf};
use monitor_common::field::Field;

/// `THREAD_SIZE` of x86-64, on kernels before 5.15 without anything above the registers
/// (arch/x86/include/asm/page_64_types.h, thread_info.h).
const KERNEL_STACK: usize = 16384;

/// A task.
#[derive(Clone, Copy)]
pub struct Task(pub Object);

impl Task {
    /// The running task.
    #[inline(always)]
    pub fn current() -> Option<Self> {
        // SAFETY: no arguments; the current task always exists.
        Object::new(unsafe { bpf_get_current_task() } as *const u8).map(Self)
    }

    /// The running task and its thread group id, as the kernel has it at hand.
    #[inline(always)]
    pub fn running() -> Option<(Self, u32)> {
        Some((Self::current()?, (bpf_get_current_pid_tgid() >> 32) as u32))
    }

    /// The task that a `struct pid` stands for.
    #[inline(always)]
    pub fn of_pid(pid: Object) -> Option<Self> {
        // The lists of PIDTYPE_PID, which is 0 (include/linux/pid_types.h), come first on both sides.
        let first = pid.follow(Field::PidTasks)?;
        Object::new(first.raw().wrapping_sub(crate::maps::offset(Field::TaskPidLinks)?)).map(Self)
    }

    /// Thread group id.
    #[inline(always)]
    pub fn tgid(self) -> Option<u32> {
        self.0.get(Field::TaskTgid)
    }

    /// Thread id.
    #[inline(always)]
    pub fn tid(self) -> Option<u32> {
        self.0.get(Field::TaskPid)
    }

    /// Start of the process (of its group leader), ns since boot.
    #[inline(always)]
    pub fn start_ns(self) -> Option<u64> {
        self.0.follow(Field::TaskGroupLeader)?.get(Field::TaskStart)
    }

    /// Number of its last exec: it grows with each, and a child begins with its parent's.
    #[inline(always)]
    pub fn exec_id(self) -> Option<u32> {
        self.0.get(Field::TaskExecId)
    }

    /// Parent process.
    #[inline(always)]
    pub fn parent(self) -> Option<Self> {
        self.0.follow(Field::TaskRealParent).map(Self)
    }

    /// Real uid in the initial user namespace.
    #[inline(always)]
    pub fn uid(self) -> Option<u32> {
        self.0.follow(Field::TaskCred)?.get(Field::CredUid)
    }

    /// Does the kernel act with other credentials than the task's own?
    #[inline(always)]
    pub fn acts_for_another(self) -> bool {
        self.0.follow(Field::TaskCred) != self.0.follow(Field::TaskRealCred)
    }

    /// Wait status.
    #[inline(always)]
    pub fn exit_code(self) -> Option<u32> {
        self.0.get(Field::TaskExitCode)
    }

    /// Copies its name.
    #[inline(always)]
    pub fn comm(self, out: &mut [u8; 16]) {
        if let Some(name) = self.0.address(Field::TaskComm) {
            super::file::copy(name.cast::<[u8; 16]>(), out);
        }
    }

    /// Threads of the group that are not dead yet.
    #[inline(always)]
    pub fn live_threads(self) -> Option<i32> {
        self.0.follow(Field::TaskSignal)?.get(Field::SignalLive)
    }

    /// Address of its set of cgroups: differs between tasks exactly when some cgroup does.
    #[inline(always)]
    pub fn css_set(self) -> Option<Object> {
        self.0.follow(Field::TaskCgroups)
    }

    /// Address space.
    #[inline(always)]
    pub fn mm(self) -> Option<Mm> {
        self.0.follow(Field::TaskMm).map(Mm)
    }

    /// Inode number of its mount namespace.
    #[inline(always)]
    pub fn mount_namespace(self) -> Option<u32> {
        self.0.follow(Field::TaskNsproxy)?.follow(Field::NsproxyMnt)?.get(Field::MntInum)
    }

    /// Inode number of its user namespace, and how deep that is nested.
    #[inline(always)]
    pub fn user_namespace(self) -> Option<(u32, u32)> {
        let namespace = self.0.follow(Field::TaskCred)?.follow(Field::CredUserNs)?;
        Some((namespace.get(Field::UserInum)?, namespace.get(Field::UserNsLevel)?))
    }

    /// The task it began to trace last.
    #[inline(always)]
    pub fn last_traced(self) -> Option<Self> {
        let list = self.0.address(Field::TaskPtraced)?;
        let entry = read::<*const u8>(list.cast())?;
        if entry == list {
            return None;
        }
        Object::new(entry.wrapping_sub(offset(Field::TaskPtraceEntry)?)).map(Self)
    }

    /// Its root directory.
    #[inline(always)]
    pub fn root_directory(self) -> Option<Dentry> {
        self.0.follow(Field::TaskFs)?.embedded(Field::FsRoot)?.follow(Field::PathDentry).map(Dentry)
    }

    /// Superblock of its root directory.
    #[inline(always)]
    pub fn root_sb(self) -> Option<Object> {
        self.0.follow(Field::TaskFs)?.embedded(Field::FsRoot)?.follow(Field::PathMnt)?.follow(Field::VfsmountSb)
    }

    /// Its working directory.
    #[inline(always)]
    pub fn working_directory(self) -> Option<Dentry> {
        self.0.follow(Field::TaskFs)?.embedded(Field::FsPwd)?.follow(Field::PathDentry).map(Dentry)
    }

    /// An open file.
    #[inline(always)]
    pub fn file(self, fd: u32) -> Option<File> {
        self.descriptors()?.file(fd)
    }

    /// The descriptor table, to look at several files.
    #[inline(always)]
    pub fn descriptors(self) -> Option<Descriptors> {
        let table = self.0.follow(Field::TaskFiles)?.follow(Field::FilesFdt)?;
        if offset(Field::FdtableMax) == Some(0) && offset(Field::FdtableFd) == Some(8) {
            // Beside each other, as ever so far: one look for both.
            let [max, files] = read::<[u64; 2]>(table.raw().cast())?;
            return Some(Descriptors { files: Object::new(files as *const u8)?, max: max as u32 });
        }
        Some(Descriptors { files: table.follow(Field::FdtableFd)?, max: table.get(Field::FdtableMax)? })
    }
}

/// An argument of the running system call, from the registers saved at its entry.
#[inline(always)]
pub fn argument(field: Field) -> Option<u64> {
    registers()?.get(field)
}

/// The registers of the running task as it left user space.
#[inline(always)]
fn registers() -> Option<Object> {
    if offset(Field::HelperTaskRegs).is_some() {
        // SAFETY: no arguments, and the task's own registers.
        let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
        return Object::new(regs as *const u8);
    }
    let stack = Task::current()?.0.follow(Field::TaskStack)?;
    Object::new(stack.raw().wrapping_add(KERNEL_STACK).wrapping_sub(offset(Field::RegsSizeOf)?))
}

/// A descriptor table.
#[derive(Clone, Copy)]
pub struct Descriptors {
    files: Object,
    max: u32,
}

impl Descriptors {
    /// The file behind a descriptor.
    #[inline(always)]
    pub fn file(self, fd: u32) -> Option<File> {
        if fd >= self.max {
            return None;
        }
        let slot = self.files.raw().wrapping_add(fd as usize * 8);
        Object::new(read::<*const u8>(slot.cast())?).map(File)
    }
}

/// `struct mm_struct`.
#[derive(Clone, Copy)]
pub struct Mm(Object);

impl Mm {
    /// The program's file.
    #[inline(always)]
    pub fn executable(self) -> Option<File> {
        self.0.follow(Field::MmExeFile).map(File)
    }

    /// First and one-past-last address of the argument block.
    #[inline(always)]
    pub fn arguments(self) -> Option<(u64, u64)> {
        Some((self.0.get(Field::MmArgStart)?, self.0.get(Field::MmArgEnd)?))
    }

    /// Bytes of code and of initialised data, as the ELF loader laid them out.
    #[inline(always)]
    pub fn extents(self) -> Option<(u64, u64)> {
        let code = self.0.get::<u64>(Field::MmEndCode)?.wrapping_sub(self.0.get(Field::MmStartCode)?);
        let data = self.0.get::<u64>(Field::MmEndData)?.wrapping_sub(self.0.get(Field::MmStartData)?);
        Some((code, data))
    }
}
