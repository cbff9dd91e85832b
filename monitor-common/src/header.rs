//! The header every record starts with.

use bytemuck::{Pod, Zeroable};

/// First bytes of every record on either ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Header {
    /// [`crate::ABI_VERSION`] of the programs that wrote the record.
    pub abi: u16,
    /// A [`Kind`] as integer.
    pub kind: u16,
    /// Length of the whole record in bytes, this header included.
    pub len: u32,
    /// Sequence number on this CPU; counts records of both rings, and records that found the ring
    /// full, so that a gap is a loss.
    pub seq: u64,
    /// Nanoseconds since boot (`CLOCK_BOOTTIME`), taken when the handler was entered.
    pub time_ns: u64,
    /// Thread group id in the initial pid namespace: what user space calls the pid.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// `start_boottime` of the thread group leader, ns: with `tgid` the process key.
    pub start_ns: u64,
    /// Id of the container's cgroup in the watched hierarchy, [`crate::state::HOST`] for the host.
    pub container: u64,
    /// CPU the record was written on.
    pub cpu: u32,
    /// Real uid of the task, in the initial user namespace.
    pub uid: u32,
    /// What the kernel half did: a [`Verdict`] as integer.
    pub verdict: u8,
    /// Why (or why it would have): a [`Reason`] as integer.
    pub reason: u8,
    /// On which rung: a [`Rung`] as integer.
    pub rung: u8,
    /// Zero.
    pub reserved: u8,
    /// Thread group id of the other task a verdict is about (the network end of a pipe), or 0.
    pub peer_tgid: u32,
}
const _: () = assert!(size_of::<Header>() == 64);

macro_rules! code {
    ($(#[$m:meta])* $name:ident : $repr:ty { $($(#[$vm:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$m])*
        #[repr($repr)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub enum $name { $($(#[$vm])* $variant = $value),+ }
        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
        impl TryFrom<$repr> for $name {
            type Error = $repr;
            fn try_from(value: $repr) -> Result<Self, $repr> {
                match value { $($value => Ok(Self::$variant),)+ other => Err(other) }
            }
        }
    };
}

pub(crate) use code;

code! {
    /// What a record tells.
    Kind: u16 {
        /// A program was started: [`crate::exec::Exec`].
        Exec = 1,
        /// A process was made: [`crate::exec::Fork`].
        Fork = 2,
        /// The last thread of a process ended: [`crate::exec::Exit`].
        Exit = 3,
        /// An inet socket connects, sends its first datagram, or listens: [`crate::net::Connect`].
        Connect = 4,
        /// An interesting file was opened: [`crate::file::Open`].
        Open = 5,
        /// First payload bytes of a connection: [`crate::net::Payload`].
        Payload = 6,
        /// A cgroup that looks like a container's came or went: [`crate::state::CgroupChange`].
        Cgroup = 7,
        /// A descriptor 0, 1 or 2 became an inet socket: [`crate::exec::Moved`].
        Moved = 8,
        /// An AF_UNIX connect to a watched socket: [`crate::net::UnixConnect`].
        UnixConnect = 9,
        /// An attempt upon Bulkhead itself: [`crate::own::Tamper`].
        Tamper = 10,
        /// A system call that reaches for what lies outside of the container: [`crate::reach::Reach`].
        Reach = 11,
        /// An AF_UNIX connect to another process of the same container: [`crate::net::UnixPeer`].
        UnixPeer = 12,
        /// A process runs a program that was told of another one ([`crate::exec::Again`]).
        Again = 13,
    }
}

code! {
    /// What the kernel half did about the act.
    Verdict: u8 {
        /// Nothing: the act went on.
        Observed = 0,
        /// The act was refused with EPERM.
        Denied = 1,
        /// The task was sent SIGKILL before it returned to user space.
        Killed = 2,
    }
}

code! {
    /// Structural facts the kernel half decides on. Also the bit numbers of
    /// [`crate::policy::Policy::enforce`].
    Reason: u8 {
        /// Nothing special.
        None = 0,
        /// A shell or interpreter talks to an outbound socket.
        ReverseShell = 1,
        /// Program text or an executable that came from the network.
        DownloadExec = 2,
        /// A write to an `authorized_keys` file.
        PersistenceSshKey = 3,
        /// A write to a crontab.
        PersistenceCron = 4,
        /// A write to another start-up file.
        PersistenceOther = 5,
        /// A connect to the kubelet.
        KubeletAccess = 6,
        /// A connect to the cloud metadata service.
        MetadataAccess = 7,
        /// A connect to a container runtime's socket.
        DockerSocket = 8,
        /// An executable without a file behind it.
        FilelessExec = 9,
        /// An attempt upon Bulkhead itself.
        Tamper = 10,
        /// A way out of the container: the host's namespaces, or a file that makes the kernel run a program there.
        Escape = 11,
        /// A file that judgement wants to know of; never acted on in the kernel.
        Watched = 12,
        /// A program start that the container's baseline does not have.
        BaselineExec = 13,
        /// A connection that the container's baseline does not have.
        BaselineConnect = 14,
    }
}

code! {
    /// Which mechanism enforced a verdict.
    Rung: u8 {
        /// None.
        None = 0,
        /// A BPF LSM hook answered EPERM.
        Lsm = 1,
        /// A cgroup program refused the operation.
        Cgroup = 2,
        /// `bpf_send_signal(SIGKILL)` on the acting task.
        Signal = 3,
    }
}
