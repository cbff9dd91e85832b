//! The table of hooks: it drives loading, `bulkhead check` and the documentation.

mod ring;

use monitor_common::field::Field;
use serde::Serialize;

/// What a hook tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Program starts.
    Exec,
    /// Process creation and end.
    Process,
    /// Container cgroups.
    Cgroup,
    /// Outbound connections and datagrams.
    Connect,
    /// Listening sockets.
    Listen,
    /// First payload bytes.
    Payload,
    /// Files opened.
    Open,
    /// Descriptors moved in a running program.
    Descriptor,
    /// AF_UNIX connects to a runtime's socket.
    UnixConnect,
    /// Files that get a sensitive name by rename or link.
    Name,
    /// Files mapped as code.
    Mapping,
    /// Descriptors received from another process.
    Received,
    /// Signals to the daemon.
    Signal,
    /// The daemon traced, its memory or descriptors reached.
    Trace,
    /// The daemon's scheduling and limits.
    Resources,
    /// bpf(2) on maps and links of the programs.
    Bpf,
    /// Pins and files of the daemon removed.
    Removal,
    /// System calls that reach for what lies outside of the container.
    Reach,
    /// Programs and files refused before they exist; without it they are stopped right after.
    Refusal,
}

/// Kind of program, and what it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// BPF LSM hook of that name: denies.
    Lsm(&'static str),
    /// BTF tracepoint.
    BtfTracepoint(&'static str),
    /// Entry of a kernel function.
    Fentry(&'static str),
    /// Exit of a kernel function.
    Fexit(&'static str),
    /// Program on the cgroup v2 root.
    CgroupSockAddr,
    /// Program on the cgroup v2 root, `true` = ingress.
    CgroupSkb(bool),
    /// Classic tracepoint (category and name), not preempted while the program runs: for kernels that preempt at
    /// BTF tracepoints, where a program is skipped for other tasks while it is preempted in one.
    Tracepoint(&'static str, &'static str),
    /// System call tracepoints (`syscalls:NAME`): the last door.
    Syscall(&'static [&'static str]),
    /// The same for what io_uring does without a system call: its tracepoint of one of these names, and what the
    /// program must find in a request. Classic tracepoints, as their records have changed less than the
    /// prototypes of BTF's, and as they are not preempted.
    Ring(&'static [&'static str], &'static [Field]),
}

/// One program behind one door.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// What it tells.
    pub fact: Fact,
    /// How it gets in.
    pub door: Door,
    /// Order among the doors of one fact: only the lowest that loads is used; hooks of one fact and
    /// rank belong together.
    pub rank: u8,
    /// Without the fact there is no monitor.
    pub required: bool,
    /// What it can do about an act.
    pub power: Power,
    /// What is lost without it.
    pub without: &'static str,
}

/// How far a hook can act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Refuses the act with EPERM.
    Deny,
    /// Kills the task before it returns to user space.
    Kill,
    /// Tells.
    Observe,
}

const fn hook(
    program: &'static str,
    fact: Fact,
    door: Door,
    rank: u8,
    required: bool,
    power: Power,
    without: &'static str,
) -> Hook {
    Hook { program, fact, door, rank, required, power, without }
}

const fn reach(program: &'static str, calls: &'static [&'static str], power: Power) -> Hook {
    hook(program, Fact::Reach, Door::Syscall(calls), 0, false, power, REACH)
}

const fn ring(program: &'static str, fact: Fact, door: Door, without: &'static str) -> Hook {
    // Of the rank of the system calls that do the same.
    hook(program, fact, door, 2, false, Power::Kill, without)
}

const REACH: &str = "namespaces joined, roots changed, mounts, modules and BPF programs offered, neighbours traced";
const REFUSAL: &str = "refusing programs and sensitive files before they exist: they are stopped right after";
const OPEN: &str = "downloaded scripts, planted keys and crontabs";
const RING_OPEN: &str = "files opened through io_uring";
const RING_NAME: &str = "keys and crontabs that io_uring moves or links into place";
const RING_REMOVAL: &str = "containers that have io_uring remove pins";
const RING_UNIX: &str = "container runtime sockets that io_uring connects to";
const NAME: &str = "keys and crontabs that are moved or linked into place";
const MAPPING: &str = "downloaded libraries, and programs started by way of the dynamic loader";
const DESCRIPTOR: &str = "shells that move a connection onto their own standard input";
const RECEIVED: &str = "connections handed over a socket, until a shell is started on them";
const SIGNAL: &str = "signals to the daemon";
const SIGNAL_REFUSAL: &str = "refusing signals to the daemon: it is ended, and who did it is killed";
const TRACE: &str = "containers that trace the daemon";
const RESOURCES: &str = "containers that slow the daemon down";
const BPF: &str = "containers that get hold of maps and links";
const REMOVAL: &str = "containers that remove pins";
const UNIX: &str = "container runtime sockets";

/// All hooks.
pub const HOOKS: &[Hook] = &[
    hook(
        "process_exec_whole",
        Fact::Exec,
        Door::Tracepoint("sched", "sched_process_exec"),
        0,
        false,
        Power::Kill,
        "program starts while another is being judged",
    ),
    // Of the same rank: each sees what the other may be left out of.
    hook("process_exec", Fact::Exec, Door::BtfTracepoint("sched_process_exec"), 0, true, Power::Kill, "program starts"),
    hook(
        "process_fork",
        Fact::Process,
        Door::BtfTracepoint("sched_process_fork"),
        0,
        true,
        Power::Observe,
        "process lineage",
    ),
    hook(
        "process_exit",
        Fact::Process,
        Door::BtfTracepoint("sched_process_exit"),
        0,
        true,
        Power::Observe,
        "process lineage",
    ),
    hook(
        "child_born",
        Fact::Process,
        Door::Syscall(&["sys_exit_clone", "sys_exit_clone3", "sys_exit_fork", "sys_exit_vfork"]),
        0,
        false,
        Power::Kill,
        "killing what forks faster than it can be killed",
    ),
    hook(
        "cgroup_mkdir",
        Fact::Cgroup,
        Door::BtfTracepoint("cgroup_mkdir"),
        0,
        true,
        Power::Observe,
        "container identity",
    ),
    hook(
        "cgroup_rmdir",
        Fact::Cgroup,
        Door::BtfTracepoint("cgroup_rmdir"),
        0,
        true,
        Power::Observe,
        "container identity",
    ),
    hook(
        "cgroup_attach_task",
        Fact::Cgroup,
        Door::BtfTracepoint("cgroup_attach_task"),
        0,
        true,
        Power::Observe,
        "container identity",
    ),
    hook("connect4", Fact::Connect, Door::CgroupSockAddr, 0, true, Power::Deny, "IPv4 connections"),
    hook("connect6", Fact::Connect, Door::CgroupSockAddr, 0, true, Power::Deny, "IPv6 connections"),
    hook("sendmsg4", Fact::Connect, Door::CgroupSockAddr, 0, true, Power::Deny, "IPv4 datagrams"),
    hook("sendmsg6", Fact::Connect, Door::CgroupSockAddr, 0, true, Power::Deny, "IPv6 datagrams"),
    hook(
        "sock_set_state",
        Fact::Listen,
        Door::BtfTracepoint("inet_sock_set_state"),
        0,
        false,
        Power::Observe,
        "listening sockets",
    ),
    hook(
        "packet_egress",
        Fact::Payload,
        Door::CgroupSkb(false),
        0,
        false,
        Power::Deny,
        "stratum requests, TLS names, DNS questions; quarantine of established connections",
    ),
    hook(
        "packet_ingress",
        Fact::Payload,
        Door::CgroupSkb(true),
        0,
        false,
        Power::Deny,
        "stratum and DNS answers; quarantine of inbound connections",
    ),
    hook("lsm_program", Fact::Refusal, Door::Lsm("bprm_check_security"), 0, false, Power::Deny, REFUSAL),
    hook("lsm_create", Fact::Refusal, Door::Lsm("inode_create"), 0, false, Power::Deny, REFUSAL),
    hook("lsm_file_open", Fact::Open, Door::Lsm("file_open"), 0, false, Power::Deny, OPEN),
    hook("fentry_file_open", Fact::Open, Door::Fentry("security_file_open"), 1, false, Power::Kill, OPEN),
    hook(
        "file_opened",
        Fact::Open,
        Door::Syscall(&[
            "sys_exit_openat",
            "sys_exit_open",
            "sys_exit_openat2",
            "sys_exit_creat",
            "sys_exit_open_by_handle_at",
        ]),
        2,
        false,
        Power::Kill,
        OPEN,
    ),
    ring("ring_open_taken", Fact::Open, ring::OPEN_TAKEN, RING_OPEN),
    ring("ring_opened", Fact::Open, ring::OPENED, RING_OPEN),
    hook("lsm_link", Fact::Name, Door::Lsm("inode_link"), 0, false, Power::Deny, NAME),
    hook("lsm_symlink", Fact::Name, Door::Lsm("inode_symlink"), 0, false, Power::Deny, NAME),
    hook("lsm_rename", Fact::Name, Door::Lsm("inode_rename"), 0, false, Power::Deny, NAME),
    hook("fentry_link", Fact::Name, Door::Fentry("security_inode_link"), 1, false, Power::Kill, NAME),
    hook("fentry_symlink", Fact::Name, Door::Fentry("security_inode_symlink"), 1, false, Power::Kill, NAME),
    hook("fentry_rename", Fact::Name, Door::Fentry("security_inode_rename"), 1, false, Power::Kill, NAME),
    hook(
        "name_given",
        Fact::Name,
        Door::Syscall(&["sys_exit_rename", "sys_exit_link", "sys_exit_symlink"]),
        2,
        false,
        Power::Kill,
        NAME,
    ),
    hook(
        "name_given_at",
        Fact::Name,
        Door::Syscall(&["sys_exit_renameat2", "sys_exit_renameat", "sys_exit_linkat"]),
        2,
        false,
        Power::Kill,
        NAME,
    ),
    hook("symlink_given_at", Fact::Name, Door::Syscall(&["sys_exit_symlinkat"]), 2, false, Power::Kill, NAME),
    ring("ring_name_taken", Fact::Name, ring::NAME_TAKEN, RING_NAME),
    hook("lsm_mapping", Fact::Mapping, Door::Lsm("mmap_file"), 0, false, Power::Deny, MAPPING),
    hook("fentry_mapping", Fact::Mapping, Door::Fentry("security_mmap_file"), 1, false, Power::Kill, MAPPING),
    hook("code_mapped", Fact::Mapping, Door::Syscall(&["sys_exit_mmap"]), 2, false, Power::Kill, MAPPING),
    hook("fexit_dup", Fact::Descriptor, Door::Fexit("__x64_sys_dup"), 0, false, Power::Kill, DESCRIPTOR),
    hook("fexit_dup2", Fact::Descriptor, Door::Fexit("__x64_sys_dup2"), 0, false, Power::Kill, DESCRIPTOR),
    hook("fexit_dup3", Fact::Descriptor, Door::Fexit("__x64_sys_dup3"), 0, false, Power::Kill, DESCRIPTOR),
    hook("fexit_fcntl", Fact::Descriptor, Door::Fexit("__x64_sys_fcntl"), 0, false, Power::Kill, DESCRIPTOR),
    hook(
        "descriptor_moved",
        Fact::Descriptor,
        Door::Syscall(&["sys_exit_dup2", "sys_exit_dup3", "sys_exit_dup", "sys_exit_fcntl"]),
        1,
        false,
        Power::Kill,
        DESCRIPTOR,
    ),
    hook("lsm_received", Fact::Received, Door::Lsm("file_receive"), 0, false, Power::Observe, RECEIVED),
    hook("fentry_received", Fact::Received, Door::Fentry("security_file_receive"), 1, false, Power::Observe, RECEIVED),
    hook("lsm_unix_connect", Fact::UnixConnect, Door::Lsm("unix_stream_connect"), 0, false, Power::Deny, UNIX),
    hook(
        "fentry_unix_connect",
        Fact::UnixConnect,
        Door::Fentry("security_unix_stream_connect"),
        1,
        false,
        Power::Kill,
        UNIX,
    ),
    reach("namespace_joined", &["sys_exit_setns"], Power::Kill),
    reach("root_changed", &["sys_exit_chroot"], Power::Observe),
    reach("mounted", &["sys_exit_mount"], Power::Observe),
    reach("module_offered", &["sys_exit_init_module", "sys_exit_finit_module"], Power::Observe),
    reach("program_offered", &["sys_exit_bpf"], Power::Observe),
    reach("process_traced", &["sys_exit_ptrace"], Power::Observe),
    hook("unix_connected", Fact::UnixConnect, Door::Syscall(&["sys_exit_connect"]), 2, false, Power::Kill, UNIX),
    ring("ring_connected", Fact::UnixConnect, ring::CONNECTED, RING_UNIX),
    hook("signal_sent", Fact::Signal, Door::BtfTracepoint("signal_generate"), 0, false, Power::Kill, SIGNAL),
    hook("lsm_signal", Fact::Refusal, Door::Lsm("task_kill"), 0, false, Power::Deny, SIGNAL_REFUSAL),
    hook("lsm_trace", Fact::Trace, Door::Lsm("ptrace_access_check"), 0, false, Power::Deny, TRACE),
    hook("fentry_trace", Fact::Trace, Door::Fentry("security_ptrace_access_check"), 1, false, Power::Kill, TRACE),
    hook("traced", Fact::Trace, Door::Syscall(&["sys_exit_ptrace"]), 2, false, Power::Kill, TRACE),
    hook(
        "memory_reached",
        Fact::Trace,
        Door::Syscall(&["sys_exit_process_vm_writev", "sys_exit_process_vm_readv"]),
        2,
        false,
        Power::Kill,
        TRACE,
    ),
    hook("descriptor_taken", Fact::Trace, Door::Syscall(&["sys_exit_pidfd_getfd"]), 2, false, Power::Kill, TRACE),
    hook("lsm_scheduler", Fact::Resources, Door::Lsm("task_setscheduler"), 0, false, Power::Deny, RESOURCES),
    hook("lsm_nice", Fact::Resources, Door::Lsm("task_setnice"), 0, false, Power::Deny, RESOURCES),
    hook("lsm_limit", Fact::Resources, Door::Lsm("task_setrlimit"), 0, false, Power::Deny, RESOURCES),
    hook(
        "fentry_scheduler",
        Fact::Resources,
        Door::Fentry("security_task_setscheduler"),
        1,
        false,
        Power::Kill,
        RESOURCES,
    ),
    hook("fentry_nice", Fact::Resources, Door::Fentry("security_task_setnice"), 1, false, Power::Kill, RESOURCES),
    hook("fentry_limit", Fact::Resources, Door::Fentry("security_task_setrlimit"), 1, false, Power::Kill, RESOURCES),
    hook(
        "rescheduled",
        Fact::Resources,
        Door::Syscall(&[
            "sys_exit_sched_setaffinity",
            "sys_exit_sched_setscheduler",
            "sys_exit_sched_setparam",
            "sys_exit_sched_setattr",
        ]),
        2,
        false,
        Power::Kill,
        RESOURCES,
    ),
    hook("reniced", Fact::Resources, Door::Syscall(&["sys_exit_setpriority"]), 2, false, Power::Kill, RESOURCES),
    hook("limited", Fact::Resources, Door::Syscall(&["sys_exit_prlimit64"]), 2, false, Power::Kill, RESOURCES),
    hook("lsm_map", Fact::Bpf, Door::Lsm("bpf_map"), 0, false, Power::Deny, BPF),
    hook("lsm_bpf", Fact::Bpf, Door::Lsm("bpf"), 0, false, Power::Deny, BPF),
    hook("bpf_called", Fact::Bpf, Door::Syscall(&["sys_exit_bpf"]), 1, false, Power::Kill, BPF),
    hook("lsm_unlink", Fact::Removal, Door::Lsm("inode_unlink"), 0, false, Power::Deny, REMOVAL),
    hook("lsm_rmdir", Fact::Removal, Door::Lsm("inode_rmdir"), 0, false, Power::Deny, REMOVAL),
    hook("fentry_unlink", Fact::Removal, Door::Fentry("security_inode_unlink"), 1, false, Power::Kill, REMOVAL),
    hook("fentry_rmdir", Fact::Removal, Door::Fentry("security_inode_rmdir"), 1, false, Power::Kill, REMOVAL),
    hook(
        "name_taken",
        Fact::Removal,
        Door::Syscall(&["sys_exit_unlink", "sys_exit_rmdir", "sys_exit_rename"]),
        2,
        false,
        Power::Kill,
        REMOVAL,
    ),
    hook(
        "name_taken_at",
        Fact::Removal,
        Door::Syscall(&["sys_exit_unlinkat", "sys_exit_renameat", "sys_exit_renameat2"]),
        2,
        false,
        Power::Kill,
        REMOVAL,
    ),
    ring("ring_removal_taken", Fact::Removal, ring::REMOVAL_TAKEN, RING_REMOVAL),
];

/// Programs that make up for each other: what only one of them was left out of was seen.
pub const IN_PAIRS: [&str; 2] = ["process_exec_whole", "process_exec"];

impl Door {
    /// Is the door for a kernel that does, or does not, preempt programs at BTF tracepoints?
    ///
    /// One that does preempts fentry and fexit programs, too, and leaves them out meanwhile. Opens, mappings and
    /// descriptors are seen as well by system call tracepoints, which it does not; names are not.
    pub fn suits(&self, preempts: bool) -> bool {
        match self {
            Self::Tracepoint(..) => preempts,
            Self::Fentry("security_file_open" | "security_mmap_file") | Self::Fexit(_) => !preempts,
            _ => true,
        }
    }

    /// Does the kernel leave such a program out while it runs on the same CPU already?
    pub fn is_guarded(&self) -> bool {
        !matches!(self, Self::Lsm(_) | Self::CgroupSockAddr | Self::CgroupSkb(_))
    }

    /// Names of the tracepoints it is attached to, where there may be several.
    pub fn tracepoints(&self) -> &'static [&'static str] {
        match self {
            Self::Syscall(names) | Self::Ring(names, _) => names,
            _ => &[],
        }
    }

    /// Kernel fields without which nothing is seen through it.
    pub fn needs(&self) -> &'static [Field] {
        match self {
            Self::Ring(_, fields) => fields,
            _ => &[],
        }
    }

    /// Name of the rung this door stands on, as in the documentation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lsm(_) => "lsm",
            Self::BtfTracepoint(_) => "btf_tracepoint",
            Self::Fentry(_) => "fentry",
            Self::Fexit(_) => "fexit",
            Self::CgroupSockAddr => "cgroup_sock_addr",
            Self::CgroupSkb(_) => "cgroup_skb",
            Self::Tracepoint(..) => "tracepoint",
            Self::Syscall(_) => "syscall_tracepoint",
            Self::Ring(..) => "ring_tracepoint",
        }
    }

    /// What it is attached to.
    pub fn target(&self) -> String {
        match self {
            Self::Lsm(name) | Self::BtfTracepoint(name) | Self::Fentry(name) | Self::Fexit(name) => (*name).to_owned(),
            Self::CgroupSockAddr => "cgroup v2 root".into(),
            Self::CgroupSkb(ingress) => format!("cgroup v2 root, {}", if *ingress { "ingress" } else { "egress" }),
            Self::Tracepoint(category, name) => format!("{category}:{name}"),
            Self::Syscall(names) => names.join(", "),
            Self::Ring(names, _) => format!("io_uring:{}", names.join(" or ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not used on some kernel must have another door there.
    #[test]
    fn every_fact_has_a_door_on_every_kind_of_kernel() {
        for preempts in [false, true] {
            for hook in HOOKS {
                let other = |other: &&Hook| other.fact == hook.fact && other.door.suits(preempts);
                assert!(HOOKS.iter().any(|hook| other(&hook)), "{:?} with preemption {preempts}", hook.fact);
            }
        }
        let exec = HOOKS.iter().find(|hook| hook.fact == Fact::Exec && hook.door.suits(true));
        assert_eq!(exec.map(|hook| hook.program), Some("process_exec_whole"));
    }
}
