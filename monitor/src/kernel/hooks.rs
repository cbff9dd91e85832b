//! The table of hooks: it drives loading, `bulkhead check` and the documentation.

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
}

/// Kind of program, and what it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// BPF LSM hook of that name: denies.
    Lsm(&'static str),
    /// BTF tracepoint.
    BtfTracepoint(&'static str),
    /// Program on the cgroup v2 root.
    CgroupSockAddr,
    /// Program on the cgroup v2 root, `true` = ingress.
    CgroupSkb(bool),
    /// System call tracepoints (`syscalls:NAME`): the last door.
    Syscall(&'static [&'static str]),
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

/// All hooks.
pub const HOOKS: &[Hook] = &[
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
    hook(
        "lsm_file_open",
        Fact::Open,
        Door::Lsm("file_open"),
        0,
        false,
        Power::Deny,
        "refusing an open before it happens",
    ),
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
        1,
        false,
        Power::Kill,
        "downloaded scripts, planted keys and crontabs",
    ),
    hook(
        "descriptor_moved",
        Fact::Descriptor,
        Door::Syscall(&["sys_exit_dup2", "sys_exit_dup3", "sys_exit_dup", "sys_exit_fcntl"]),
        0,
        false,
        Power::Kill,
        "shells that move a connection onto their own standard input",
    ),
    hook(
        "unix_connected",
        Fact::UnixConnect,
        Door::Syscall(&["sys_exit_connect"]),
        0,
        false,
        Power::Kill,
        "container runtime sockets",
    ),
];

impl Door {
    /// Name of the rung this door stands on, as in the documentation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lsm(_) => "lsm",
            Self::BtfTracepoint(_) => "btf_tracepoint",
            Self::CgroupSockAddr => "cgroup_sock_addr",
            Self::CgroupSkb(_) => "cgroup_skb",
            Self::Syscall(_) => "syscall_tracepoint",
        }
    }

    /// What it is attached to.
    pub fn target(&self) -> String {
        match self {
            Self::Lsm(name) | Self::BtfTracepoint(name) => (*name).to_owned(),
            Self::CgroupSockAddr => "cgroup v2 root".into(),
            Self::CgroupSkb(ingress) => format!("cgroup v2 root, {}", if *ingress { "ingress" } else { "egress" }),
            Self::Syscall(names) => names.join(", "),
        }
    }
}
