//! The maps that the daemon shares with the programs: taken from a freshly loaded object, or from
//! where a daemon before this one has pinned them.

use super::ledger::Ledger;
use super::loader::LoadError;
use super::missed::Missed;
use super::profiles::Profiles;
use super::shared::Shared;
use aya::Ebpf;
use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError, PerCpuArray, RingBuf};
use monitor_common::header::Reason;
use monitor_common::own::OwnKey;
use monitor_common::policy::{POLICY_BOUND, Policy};
use monitor_common::profile::Bound;
use monitor_common::state::{Config, CutKey, Doomed, Fingerprint, Held, InodeKey, LossKey, Task};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::AtomicU32;

/// Wraps a plain type so that aya accepts it as map key or value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Raw<T>(pub T);

// SAFETY: bytemuck::Pod guarantees a fixed layout without padding in which every bit pattern is valid.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

/// Maps the daemon writes and reads.
pub struct Maps {
    containers: HashMap<MapData, u64, Raw<Policy>>,
    config: Array<MapData, Raw<Config>>,
    /// What the config map holds.
    pub(super) current: Config,
    classes: HashMap<MapData, u32, u32>,
    fingerprints: HashMap<MapData, Raw<Fingerprint>, u32>,
    sensitive: HashMap<MapData, u64, u32>,
    runtime_sockets: HashMap<MapData, Raw<InodeKey>, u32>,
    socket_names: HashMap<MapData, u32, u32>,
    descriptor_names: HashMap<MapData, u32, u32>,
    host_mounts: Array<MapData, u64>,
    pub(super) tasks: HashMap<MapData, u32, Raw<Task>>,
    sockets: HashMap<MapData, u64, Raw<monitor_common::state::Socket>>,
    loss: HashMap<MapData, Raw<LossKey>, u64>,
    held: HashMap<MapData, u64, Raw<Held>>,
    sequence: PerCpuArray<MapData, u64>,
    lost: PerCpuArray<MapData, u64>,
    pub(super) quarantine: HashMap<MapData, Raw<CutKey>, u64>,
    pub(super) doomed: HashMap<MapData, u32, Raw<Doomed>>,
    own: HashMap<MapData, Raw<OwnKey>, u64>,
    /// Entries of `sensitive` that no configuration names.
    own_names: BTreeSet<u64>,
    /// What containers are held to.
    pub profiles: Profiles,
    /// What the kernel left out.
    pub missed: Missed,
    /// What this daemon leaves to the next.
    pub ledger: Ledger,
}

/// The two rings.
pub struct Rings {
    /// Ordinary records.
    pub events: RingBuf<MapData>,
    /// Records with a reason.
    pub verdicts: RingBuf<MapData>,
    /// Not 0: the reader looks by itself, or is on its way, and need not be woken.
    pub looks: Shared<AtomicU32>,
}

/// A second hold on what the programs know of processes, for another thread.
pub struct Marks(HashMap<MapData, u32, Raw<Task>>);

impl Marks {
    /// What the programs know of a process.
    pub fn task(&self, tgid: u32) -> Option<Task> {
        self.0.get(&tgid, 0).ok().map(|raw| raw.0)
    }
}

/// Where maps come from.
pub enum Source<'a> {
    /// An object that was loaded just now.
    Loaded(&'a mut Ebpf),
    /// Pins in this folder.
    Pinned(&'a Path),
}

impl Source<'_> {
    fn map(&mut self, name: &'static str) -> Result<Map, LoadError> {
        let failed = |source| LoadError::Map { name, source };
        match self {
            Self::Loaded(ebpf) => {
                ebpf.take_map(name).ok_or_else(|| failed(MapError::InvalidName { name: name.into() }))
            }
            Self::Pinned(folder) => MapData::from_pin(folder.join(name)).and_then(Map::from_map_data).map_err(failed),
        }
    }

    pub(super) fn of<T: TryFrom<Map, Error = MapError>>(&mut self, name: &'static str) -> Result<T, LoadError> {
        T::try_from(self.map(name)?).map_err(|source| LoadError::Map { name, source })
    }
}

impl Rings {
    /// Takes both.
    ///
    /// # Errors
    /// One is not there or no ring.
    pub fn open(source: &mut Source<'_>) -> Result<Self, LoadError> {
        const LOOKS: &str = "READER_LOOKS";
        let looks = Shared::of(source.of(LOOKS)?)
            .map_err(|error| LoadError::Map { name: LOOKS, source: MapError::IoError(error) })?;
        Ok(Self { events: source.of("EVENTS")?, verdicts: source.of("VERDICTS")?, looks })
    }
}

impl Maps {
    /// Takes all of them.
    ///
    /// # Errors
    /// One is not there or of another layout.
    pub fn open(source: &mut Source<'_>, ledger: Ledger) -> Result<Self, LoadError> {
        let config: Array<MapData, Raw<Config>> = source.of("CONFIG")?;
        // What was in force stays in force until it is known for what.
        let responses = config.get(&0, 0).map_or(0, |Raw(config)| config.responses);
        // What a daemon before this one was told this one does not know. Without the old seed nothing is like it.
        let seed = RandomState::new().hash_one(std::process::id());
        Ok(Self {
            containers: source.of("CONTAINERS")?,
            config,
            current: Config { responses, seed, ..Config::default() },
            classes: source.of("CLASSES")?,
            fingerprints: source.of("FINGERPRINTS")?,
            sensitive: source.of("SENSITIVE")?,
            runtime_sockets: source.of("RUNTIME_SOCKETS")?,
            socket_names: source.of("SOCKET_NAMES")?,
            descriptor_names: source.of("DESCRIPTOR_NAMES")?,
            host_mounts: source.of("HOST_MOUNTS")?,
            tasks: source.of("TASKS")?,
            sockets: source.of("SOCKETS")?,
            loss: source.of("LOSS")?,
            held: source.of("HELD")?,
            sequence: source.of("SEQUENCE")?,
            lost: source.of("LOST")?,
            quarantine: source.of("QUARANTINE")?,
            doomed: source.of("DOOMED")?,
            own: source.of("OWN")?,
            profiles: Profiles::open(source)?,
            own_names: BTreeSet::new(),
            missed: Missed::default(),
            ledger,
        })
    }

    /// Sets the run-time configuration; responses in force stay, and what is held back.
    pub fn set_config(&mut self, config: &Config) {
        let Config { responses, holds_back, seed, .. } = self.current;
        self.current = Config { responses, holds_back, seed, ..*config };
        note("CONFIG", self.config.set(0, Raw(self.current), 0));
    }

    /// Tells the programs that the daemon is alive; `now_ns` is the time since boot.
    pub fn beat(&mut self, now_ns: u64) {
        self.set_config(&Config { heartbeat_ns: now_ns, ..self.current });
    }

    /// May what baselines expect be counted instead of told?
    pub fn hold_back(&mut self, is_on: bool) {
        if self.current.holds_back != u32::from(is_on) {
            self.current.holds_back = u32::from(is_on);
            note("CONFIG", self.config.set(0, Raw(self.current), 0));
        }
    }

    /// What was counted instead of told so far, by container.
    pub fn held(&self) -> Vec<(u64, Held)> {
        self.held.iter().filter_map(Result::ok).map(|(container, Raw(held))| (container, held)).collect()
    }

    /// Sets a container's policy (also of a nested cgroup: `policy.root` names the outermost).
    pub fn set_policy(&mut self, cgroup: u64, policy: &Policy) {
        let bound = if self.profiles.is_bound(policy.root) { POLICY_BOUND } else { 0 };
        let policy = Policy { flags: policy.flags & !POLICY_BOUND | bound, ..*policy };
        note("CONTAINERS", self.containers.insert(cgroup, Raw(policy), 0));
    }

    /// Holds a container to a baseline. Its policy says so as well, so that others pay nothing for it.
    pub fn bind(&mut self, container: u64, bound: Bound) {
        self.profiles.bind(container, bound);
        self.renew_policy(container);
    }

    /// A container is held to none any more, or is gone.
    pub fn release(&mut self, container: u64) {
        self.profiles.release(container);
        self.renew_policy(container);
    }

    fn renew_policy(&mut self, container: u64) {
        if let Some(policy) = self.policy(container) {
            self.set_policy(container, &policy);
        }
    }

    /// The policy the programs see.
    pub fn policy(&self, cgroup: u64) -> Option<Policy> {
        self.containers.get(&cgroup, 0).ok().map(|raw| raw.0)
    }

    /// Forgets a cgroup: it is not a container after all, or gone.
    pub fn forget(&mut self, cgroup: u64) {
        let _ = self.held.remove(&cgroup);
        let _ = self.containers.remove(&cgroup);
    }

    /// Cgroups the programs take for containers.
    pub fn containers(&self) -> Vec<(u64, Policy)> {
        self.containers.iter().filter_map(Result::ok).map(|(key, raw)| (key, raw.0)).collect()
    }

    /// Sets the class of a program name ([`monitor_common::hash::program`]).
    pub fn set_class(&mut self, name: u32, bits: u32) {
        note("CLASSES", self.classes.insert(name, bits, 0));
    }

    /// Sets the class of a program's content.
    pub fn set_fingerprint(&mut self, print: &Fingerprint, bits: u32) {
        note("FINGERPRINTS", self.fingerprints.insert(Raw(*print), bits, 0));
    }

    /// Marks a file name as sensitive; `key` by [`monitor_common::hash::path_key`].
    pub fn set_sensitive(&mut self, key: u64, reason: u32) {
        note("SENSITIVE", self.sensitive.insert(key, reason, 0));
    }

    /// Marks a socket file as a container runtime's.
    pub fn set_runtime_socket(&mut self, key: InodeKey) {
        note("RUNTIME_SOCKETS", self.runtime_sockets.insert(Raw(key), 1, 0));
    }

    /// Marks a socket name as one a runtime uses.
    pub fn set_socket_name(&mut self, name: u32) {
        note("SOCKET_NAMES", self.socket_names.insert(name, 1, 0));
    }

    /// Tells the programs what `/dev/fd/N` hashes to.
    pub fn set_descriptor_names(&mut self) {
        for fd in 0..256 {
            let name = monitor_common::hash::name(fd.to_string().as_bytes());
            note("DESCRIPTOR_NAMES", self.descriptor_names.insert(name, 1, 0));
        }
    }

    /// A hold on what the programs know of processes.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn marks(&self) -> Result<Marks, MapError> {
        let descriptor = self.tasks.map().fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
        Ok(Marks(Map::from_map_data(MapData::from_fd(descriptor)?)?.try_into()?))
    }

    /// Tells the programs which mount namespace is the host's, by inode number.
    pub fn set_host_mounts(&mut self, number: u64) {
        note("HOST_MOUNTS", self.host_mounts.set(0, number, 0));
    }

    /// Adds a process from before the programs were there.
    pub fn add_task(&mut self, tgid: u32, task: &Task) {
        // Never over a newer entry that the programs made themselves.
        const BPF_NOEXIST: u64 = 1;
        let _ = self.tasks.insert(tgid, Raw(*task), BPF_NOEXIST);
    }

    /// Adds an outbound socket from before the programs were there.
    pub fn add_socket(&mut self, cookie: u64, socket: &monitor_common::state::Socket) {
        let _ = self.sockets.insert(cookie, Raw(*socket), 1);
    }

    /// Forgets classes and sensitive names that are not among these.
    pub fn keep_names(&mut self, classes: &HashSet<u32>, sensitive: &HashSet<u64>) {
        let old: Vec<u32> = self.classes.keys().filter_map(Result::ok).filter(|key| !classes.contains(key)).collect();
        old.iter().for_each(|key| drop(self.classes.remove(key)));
        let old: Vec<u64> = self
            .sensitive
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !sensitive.contains(key) && !self.own_names.contains(key))
            .collect();
        old.iter().for_each(|key| drop(self.sensitive.remove(key)));
    }

    /// Says what is Bulkhead's own; what was said before and is not among it is forgotten. `names` are those of
    /// pins ([`monitor_common::hash::path_key`]).
    pub fn set_own(&mut self, own: &BTreeMap<OwnKey, u64>, names: &BTreeSet<u64>) {
        let known: Vec<OwnKey> = self.own.keys().filter_map(Result::ok).map(|raw| raw.0).collect();
        for key in known.iter().filter(|key| !own.contains_key(key)) {
            let _ = self.own.remove(&Raw(*key));
        }
        for (key, value) in own {
            note("OWN", self.own.insert(Raw(*key), *value, 0));
        }
        for old in self.own_names.difference(names) {
            let _ = self.sensitive.remove(old);
        }
        for name in names {
            note("SENSITIVE", self.sensitive.insert(name, Reason::Tamper as u32, 0));
        }
        self.own_names.clone_from(names);
    }

    /// Records begun so far, by CPU.
    pub fn begun(&self) -> Vec<u64> {
        self.sequence.get(&0, 0).map(|values| values.to_vec()).unwrap_or_default()
    }

    /// Records that found their ring full, all CPUs.
    pub fn ring_full(&self) -> u64 {
        self.lost.get(&0, 0).map(|values| values.iter().sum()).unwrap_or(0)
    }

    /// Records lost in the kernel so far, by container and kind.
    pub fn losses(&self) -> Vec<(LossKey, u64)> {
        self.loss.iter().filter_map(Result::ok).map(|(key, count)| (key.0, count)).collect()
    }
}

/// A map write can fail only when the map is full: worth a line, not the end.
pub(super) fn note(map: &'static str, result: Result<(), MapError>) {
    if let Err(error) = result {
        tracing::warn!(map, %error, "write to a kernel map failed");
    }
}
