//! The kernel struct fields the programs read. The daemon resolves each against the running
//! kernel's BTF and hands the offsets over as one frozen read-only global; an accessor answers
//! `None` for a field that this kernel does not have.

/// Offset of a field this kernel does not have.
pub const MISSING: u32 = u32::MAX;

macro_rules! fields {
    ($($(#[$m:meta])* $variant:ident = [$($name:literal),+ $(,)?] $need:ident),+ $(,)?) => {
        /// A kernel field (or the size of a struct, or the value of an enumerator).
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field { $($(#[$m])* $variant),+ }

        /// How a field is found: `struct.member.member`, `sizeof struct`, or
        /// `enum NAME.ENUMERATOR`; the first spelling that the kernel has counts.
        pub struct Spec {
            /// The field.
            pub field: Field,
            /// Spellings over kernel versions.
            pub names: &'static [&'static str],
            /// Without it nothing works.
            pub required: bool,
            /// Only some doors need it, which are not opened without it.
            pub door: bool,
        }

        /// All of them, indexed by `Field as usize`.
        pub const FIELDS: &[Spec] = &[
            $(Spec { field: Field::$variant, names: &[$($name),+], required: fields!(@ $need), door: fields!(# $need) }),+
        ];
    };
    (@ required) => { true };
    (@ $other:ident) => { false };
    (# door) => { true };
    (# $other:ident) => { false };
}

fields! {
    /// Thread group id.
    TaskTgid = ["task_struct.tgid"] required,
    /// Thread id.
    TaskPid = ["task_struct.pid"] required,
    /// Start time incl. suspend, ns (renamed in 5.5).
    TaskStart = ["task_struct.start_boottime", "task_struct.real_start_time"] required,
    /// Parent that is waited on by.
    TaskRealParent = ["task_struct.real_parent"] required,
    /// Leader of the thread group.
    TaskGroupLeader = ["task_struct.group_leader"] required,
    /// Address space.
    TaskMm = ["task_struct.mm"] required,
    /// Descriptor table.
    TaskFiles = ["task_struct.files"] required,
    /// Root and working directory.
    TaskFs = ["task_struct.fs"] required,
    /// Shared by the threads of a group.
    TaskSignal = ["task_struct.signal"] required,
    /// Its cgroups.
    TaskCgroups = ["task_struct.cgroups"] required,
    /// Credentials.
    TaskCred = ["task_struct.cred"] required,
    /// Wait status.
    TaskExitCode = ["task_struct.exit_code"] required,
    /// Name.
    TaskComm = ["task_struct.comm"] required,
    /// Threads not yet dead.
    SignalLive = ["signal_struct.live"] required,
    /// Argument block.
    MmArgStart = ["mm_struct.arg_start"] required,
    /// Its end.
    MmArgEnd = ["mm_struct.arg_end"] required,
    /// Code segment.
    MmStartCode = ["mm_struct.start_code"] required,
    /// Its end.
    MmEndCode = ["mm_struct.end_code"] required,
    /// Data segment.
    MmStartData = ["mm_struct.start_data"] required,
    /// Its end.
    MmEndData = ["mm_struct.end_data"] required,
    /// Credentials that others judge the task by; the acting ones differ while the kernel acts for itself.
    TaskRealCred = ["task_struct.real_cred"] optional,
    /// Tasks it traces, the newest first.
    TaskPtraced = ["task_struct.ptraced"] optional,
    /// Its place among those of its tracer.
    TaskPtraceEntry = ["task_struct.ptrace_entry"] optional,
    /// Its process id as the kernel keeps it.
    TaskThreadPid = ["task_struct.thread_pid"] optional,
    /// Its place among the tasks of that id.
    TaskPidLinks = ["task_struct.pid_links"] optional,
    /// Depth of the namespace that a process id is from.
    PidLevel = ["pid.level"] optional,
    /// Tasks with that id.
    PidTasks = ["pid.tasks"] optional,
    /// Process that a file of /proc is about, and its inode.
    ProcInodePid = ["proc_inode.pid"] optional,
    /// See above.
    ProcInodeVfs = ["proc_inode.vfs_inode"] optional,
    /// What a pidfd is of, since 6.9.
    InodePrivate = ["inode.i_private"] optional,
    /// Who sent a signal.
    SiginfoCode = ["kernel_siginfo.si_code"] optional,
    /// Number of a map.
    BpfMapId = ["bpf_map.id"] optional,
    /// Number of a link.
    BpfLinkId = ["bpf_link.id"] optional,
    /// Program file.
    MmExeFile = ["mm_struct.exe_file"] required,
    /// Real uid.
    CredUid = ["cred.uid"] required,
    /// Current table.
    FilesFdt = ["files_struct.fdt"] required,
    /// Array of files.
    FdtableFd = ["fdtable.fd"] required,
    /// Its length.
    FdtableMax = ["fdtable.max_fds"] required,
    /// Root directory.
    FsRoot = ["fs_struct.root"] required,
    /// Working directory.
    FsPwd = ["fs_struct.pwd"] optional,
    /// Inode of an open file.
    FileInode = ["file.f_inode"] required,
    /// Mode bits of an open file.
    FileMode = ["file.f_mode"] required,
    /// Flags of an open file.
    FileFlags = ["file.f_flags"] required,
    /// Its path (an anonymous union since 6.16).
    FilePath = ["file.f_path", "file.__f_path"] required,
    /// The socket of a socket file.
    FilePrivate = ["file.private_data"] required,
    /// Directory entry of a path.
    PathDentry = ["path.dentry"] required,
    /// Mount of a path.
    PathMnt = ["path.mnt"] required,
    /// A mount as a namespace sees it: the part that a path points to.
    MountMnt = ["mount.mnt"] optional,
    /// The namespace it is in.
    MountNamespace = ["mount.mnt_ns"] optional,
    /// Superblock of a mount.
    VfsmountSb = ["vfsmount.mnt_sb"] required,
    /// Parent entry.
    DentryParent = ["dentry.d_parent"] required,
    /// Name, pointer.
    DentryName = ["dentry.d_name.name", "dentry.__d_name.name"] required,
    /// Inode of an entry.
    DentryInode = ["dentry.d_inode"] required,
    /// File type and permissions.
    InodeMode = ["inode.i_mode"] required,
    /// Number.
    InodeNumber = ["inode.i_ino"] required,
    /// Superblock.
    InodeSb = ["inode.i_sb"] required,
    /// Size in bytes.
    InodeSize = ["inode.i_size"] required,
    /// Links.
    InodeLinks = ["inode.i_nlink", "inode.__i_nlink"] required,
    /// Size of struct inode: overlayfs keeps the upper dentry right behind it.
    InodeSizeOf = ["sizeof inode"] required,
    /// How many have it open for writing, negative: how many execute it.
    InodeWriters = ["inode.i_writecount"] required,
    /// What tells an inode from those that had its number before.
    InodeGeneration = ["inode.i_generation"] required,
    /// Device number of a device file.
    InodeRdev = ["inode.i_rdev"] required,
    /// Device.
    SbDev = ["super_block.s_dev"] required,
    /// Magic.
    SbMagic = ["super_block.s_magic"] required,
    /// Protocol state.
    SocketSk = ["socket.sk"] required,
    /// Address family.
    SockFamily = ["sock.__sk_common.skc_family"] required,
    /// TCP state.
    SockState = ["sock.__sk_common.skc_state"] required,
    /// Peer port, network order.
    SockDport = ["sock.__sk_common.skc_dport"] required,
    /// Local port, host order.
    SockNum = ["sock.__sk_common.skc_num"] required,
    /// Peer IPv4 address.
    SockDaddr = ["sock.__sk_common.skc_daddr"] required,
    /// Peer IPv6 address.
    SockV6Daddr = ["sock.__sk_common.skc_v6_daddr"] optional,
    /// Cookie, 0 until somebody asked for it.
    SockCookie = ["sock.__sk_common.skc_cookie"] required,
    /// SOCK_STREAM, …
    SockType = ["sock.sk_type"] optional,
    /// IPPROTO_*.
    SockProtocol = ["sock.sk_protocol"] required,
    /// The socket a packet belongs to.
    SkbSock = ["sk_buff.sk"] optional,
    /// Network namespace of a socket.
    SockNet = ["sock.__sk_common.skc_net.net"] optional,
    /// Inode number of a network namespace.
    NetInum = ["net.ns.inum"] optional,
    /// The part of a socket that has a file.
    SockSocket = ["sock.sk_socket"] optional,
    /// Inode of a socket's file, from the socket.
    SocketAllocInode = ["socket_alloc.vfs_inode"] optional,
    /// Process at the other end of an AF_UNIX socket; of a listening one, who listens.
    SockPeerPid = ["sock.sk_peer_pid"] optional,
    /// A process id in each namespace, the outermost first; the number comes first in each.
    PidNumbers = ["pid.numbers"] optional,
    /// Other end of an AF_UNIX socket.
    UnixPeer = ["unix_sock.peer"] optional,
    /// Bound name.
    UnixAddr = ["unix_sock.addr"] optional,
    /// Bound path.
    UnixPath = ["unix_sock.path"] optional,
    /// The sockaddr of a bound name.
    UnixAddressName = ["unix_address.name"] optional,
    /// Executable being started.
    BprmFile = ["linux_binprm.file"] required,
    /// Name it was invoked by.
    BprmFilename = ["linux_binprm.filename"] required,
    /// First bytes of its file.
    BprmBuf = ["linux_binprm.buf"] optional,
    /// v1 controllers.
    CssSetSubsys = ["css_set.subsys"] required,
    /// Unified cgroup.
    CssSetDefault = ["css_set.dfl_cgrp"] required,
    /// Cgroup of a controller state.
    CssCgroup = ["cgroup_subsys_state.cgroup"] required,
    /// Parent controller state.
    CssParent = ["cgroup_subsys_state.parent"] required,
    /// Controller state of a cgroup itself.
    CgroupSelf = ["cgroup.self"] required,
    /// kernfs node.
    CgroupKn = ["cgroup.kn"] required,
    /// Hierarchy.
    CgroupRoot = ["cgroup.root"] required,
    /// Number of the hierarchy as in /proc/PID/cgroup.
    CgroupRootHierarchy = ["cgroup_root.hierarchy_id"] required,
    /// 64-bit id (a union before 5.5).
    KernfsId = ["kernfs_node.id"] required,
    /// Name of the cgroup's directory.
    KernfsName = ["kernfs_node.name"] required,
    /// First system call argument of a task.
    RegsFirstArg = ["pt_regs.di", "user_pt_regs.regs"] optional,
    /// Second (x86-64).
    RegsSecondArg = ["pt_regs.si"] optional,
    /// Third.
    RegsThirdArg = ["pt_regs.dx"] optional,
    /// Fourth.
    RegsFourthArg = ["pt_regs.r10"] optional,
    /// Fifth.
    RegsFifthArg = ["pt_regs.r8"] optional,
    /// Number of the running system call (x86-64).
    RegsNumber = ["pt_regs.orig_ax"] optional,
    /// The helper that knows where the registers are (5.15).
    HelperTaskRegs = ["enum bpf_func_id.BPF_FUNC_task_pt_regs"] optional,
    /// Without it: lowest address of a task's kernel stack, at the top of which they are,
    TaskStack = ["task_struct.stack"] optional,
    /// and their size.
    RegsSizeOf = ["sizeof pt_regs"] optional,
    /// How many times a task has started a program.
    TaskExecId = ["task_struct.self_exec_id"] optional,
    /// Namespaces of a task.
    TaskNsproxy = ["task_struct.nsproxy"] optional,
    /// Its mount namespace.
    NsproxyMnt = ["nsproxy.mnt_ns"] optional,
    /// Inode number of a mount namespace.
    MntInum = ["mnt_namespace.ns.inum"] optional,
    /// User namespace that credentials count in.
    CredUserNs = ["cred.user_ns"] optional,
    /// How deep it is nested.
    UserNsLevel = ["user_namespace.level"] optional,
    /// Inode number of a user namespace.
    UserInum = ["user_namespace.ns.inum"] optional,
    /// Index of the pids controller in css_set.subsys.
    SubsysPids = ["enum cgroup_subsys_id.pids_cgrp_id"] optional,
    /// Index of the memory controller.
    SubsysMemory = ["enum cgroup_subsys_id.memory_cgrp_id"] optional,
    /// Index of the cpu controller.
    SubsysCpu = ["enum cgroup_subsys_id.cpu_cgrp_id"] optional,
    /// The request in the record that io_uring makes of each it takes in (renamed in 6.4),
    RingTaken = ["trace_event_raw_io_uring_submit_req.req", "trace_event_raw_io_uring_submit_sqe.req"] door,
    /// and in the record of its completion (since 5.16),
    RingCompleted = ["trace_event_raw_io_uring_complete.req"] door,
    /// which also has its result.
    RingResult = ["trace_event_raw_io_uring_complete.res"] door,
    /// `IORING_OP_*` of a request.
    RequestOpcode = ["io_kiocb.opcode"] door,
    /// `REQ_F_*`, the lowest as `IOSQE_*`.
    RequestFlags = ["io_kiocb.flags"] door,
    /// What a request of that operation keeps (since 6.0).
    RequestCommand = ["io_kiocb.cmd"] door,
    /// The file it works on.
    RequestFile = ["io_kiocb.file"] door,
    /// Its ring.
    RequestRing = ["io_kiocb.ctx"] door,
    /// Of an open: the folder a relative path starts from.
    OpenFolder = ["io_open.dfd"] door,
    /// The path.
    OpenPath = ["io_open.filename"] door,
    /// `O_*`.
    OpenFlags = ["io_open.how.flags"] door,
    /// Place among the ring's own files, 0 for a descriptor.
    OpenSlot = ["io_open.file_slot"] door,
    /// Of a rename: folder and path before,
    RenameOldFolder = ["io_rename.old_dfd"] door,
    /// see above,
    RenameOldPath = ["io_rename.oldpath"] door,
    /// and after it.
    RenameNewFolder = ["io_rename.new_dfd"] door,
    /// See above.
    RenameNewPath = ["io_rename.newpath"] door,
    /// Of a link or symbolic link: folder and path of what is made.
    LinkNewFolder = ["io_link.new_dfd"] door,
    /// See above.
    LinkNewPath = ["io_link.newpath"] door,
    /// Of a removal.
    UnlinkFolder = ["io_unlink.dfd"] door,
    /// See above.
    UnlinkPath = ["io_unlink.filename"] door,
    /// Text of a path that the kernel has copied.
    PathText = ["filename.name"] door,
    /// A ring's own files, as pointers to what holds one (since 6.13),
    RingNodes = ["io_ring_ctx.file_table.data.nodes"] door,
    /// the file in that, with flags in its lowest bits,
    NodeFile = ["io_rsrc_node.file_ptr"] door,
    /// or as such words (before).
    RingFiles = ["io_ring_ctx.file_table.files"] door,
}

impl Field {
    /// What is lost on a kernel that lacks an optional field; empty for a required one, and for a door's.
    pub const fn without(self) -> &'static str {
        match self {
            Self::TaskRealCred => "telling a task's own credentials from those it acts with for the kernel",
            Self::FsPwd => "full paths of files named relative to a working directory",
            Self::MountMnt | Self::MountNamespace => "telling mounts of other namespaces apart",
            Self::TaskPtraced
            | Self::TaskPtraceEntry
            | Self::TaskThreadPid
            | Self::TaskPidLinks
            | Self::PidLevel
            | Self::PidTasks
            | Self::ProcInodePid
            | Self::ProcInodeVfs
            | Self::InodePrivate
            | Self::SiginfoCode
            | Self::BpfMapId
            | Self::BpfLinkId => "some attempts upon Bulkhead itself",
            Self::SkbSock | Self::SockNet | Self::NetInum | Self::SockSocket | Self::SocketAllocInode => {
                "quarantine of established connections"
            }
            Self::SockV6Daddr => "IPv6 addresses of peers",
            Self::SockPeerPid | Self::PidNumbers => "shells whose connection is another process's, over a socket file",
            Self::SockType => "telling streams from datagrams",
            Self::UnixPeer | Self::UnixAddr | Self::UnixPath | Self::UnixAddressName => "container runtime sockets",
            Self::RegsFirstArg
            | Self::RegsSecondArg
            | Self::RegsThirdArg
            | Self::RegsFourthArg
            | Self::RegsFifthArg
            | Self::HelperTaskRegs
            | Self::TaskStack
            | Self::RegsSizeOf => "what the system call tracepoints read from the arguments",
            Self::RegsNumber => "downloaded scripts that are run by the name of a symbolic link",
            Self::TaskExecId => "telling a program start that was judged already",
            Self::BprmBuf => "refusing programs that a baseline does not have: they are killed right after",
            Self::TaskNsproxy
            | Self::NsproxyMnt
            | Self::MntInum
            | Self::CredUserNs
            | Self::UserNsLevel
            | Self::UserInum => "joining the host's namespaces, mounts in a user namespace, tracing of neighbours",
            Self::SubsysPids | Self::SubsysMemory | Self::SubsysCpu => {
                "telling containers by this cgroup v1 controller"
            }
            _ => "",
        }
    }
}

/// Number of fields.
pub const COUNT: usize = FIELDS.len();

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (i, spec) in super::FIELDS.iter().enumerate() {
            assert_eq!(spec.field as usize, i);
        }
    }
}
