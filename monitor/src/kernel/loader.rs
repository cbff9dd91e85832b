//! Loads the programs, attaches each by the best door this kernel opens, and owns their maps.

use super::btf::{self, Btf, BtfError};
use super::hooks::{Door, Fact, HOOKS, Hook, Power};
use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya::programs::links::CgroupAttachMode;
use aya::programs::{
    BtfTracePoint, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, FEntry, FExit, Lsm, Program, ProgramError,
    TracePoint,
};
use aya::{Ebpf, EbpfLoader};
use monitor_common::field::{Field, MISSING};
use monitor_common::policy::Policy;
use monitor_common::state::{Config, Fingerprint, InodeKey, LossKey};
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Wraps a plain type so that aya accepts it as map key or value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Raw<T>(pub T);

// SAFETY: bytemuck::Pod guarantees a fixed layout without padding in which every bit pattern is valid.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

/// Why the kernel half is not running.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The daemon was built without its kernel half.
    #[error("this daemon was built without its kernel half: build it with `cargo xtask build`")]
    NoObject,
    /// Type information is missing or lacks something.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya's own reading of it failed.
    #[error("read kernel type information: {0}")]
    AyaBtf(#[from] aya::BtfError),
    /// The object or its maps were refused.
    #[error("load the eBPF object: {0}")]
    Object(#[source] Box<aya::EbpfError>),
    /// A hook that nothing works without was refused.
    #[error("hook {program} ({door}) is needed for {fact:?} and this kernel refuses it: {why}")]
    Hook {
        /// Program name.
        program: &'static str,
        /// Its door.
        door: &'static str,
        /// What it is for.
        fact: Fact,
        /// The kernel's answer.
        why: String,
    },
    /// The cgroup v2 root could not be opened.
    #[error("open cgroup {path}: {source}")]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A map is not as the daemon expects it.
    #[error("map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: MapError,
    },
}

impl LoadError {
    /// Is the kernel (rather than the caller's rights or the build) to blame?
    pub fn is_kernel_too_old(&self) -> bool {
        matches!(self, Self::Btf(_) | Self::AyaBtf(_) | Self::Hook { .. })
    }
}

/// What became of one hook.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Program name.
    pub program: &'static str,
    /// What it tells.
    pub fact: Fact,
    /// Kind of door.
    pub door: &'static str,
    /// What it hangs on.
    pub target: String,
    /// How far it can act.
    pub power: Power,
    /// `active`, `not_needed` (a better door is open) or `refused`.
    pub state: State,
    /// For `refused`: the kernel's answer; for `active`: empty.
    pub why: String,
    /// What is lost if nothing else tells of it.
    pub without: &'static str,
    /// Instructions the verifier walked; 0 if the program is not loaded or the kernel (before
    /// 5.16) does not tell.
    pub verified: u32,
}

/// State of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attached.
    Active,
    /// A better door of the same fact is open.
    NotNeeded,
    /// The kernel said no.
    Refused,
}

/// The ladder as it stands on this host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ladder {
    /// Every hook of the table, in its order.
    pub steps: Vec<Step>,
    /// Kernel fields this kernel lacks, with what reads them empty.
    pub missing_fields: Vec<String>,
}

impl Ladder {
    /// In a sentence: by which door each fact comes in and how far it can act there, and what was
    /// refused.
    pub fn summary(&self) -> String {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let mut doors: Vec<String> = Vec::new();
        let mut refused: Vec<&str> = Vec::new();
        for step in &self.steps {
            let fact = word(serde_json::to_value(step.fact).unwrap_or_default());
            let power = word(serde_json::to_value(step.power).unwrap_or_default());
            let line = format!("{fact} by {} ({power})", step.door);
            match step.state {
                State::Active if !doors.contains(&line) => doors.push(line),
                State::Refused => refused.push(step.program),
                State::Active | State::NotNeeded => {}
            }
        }
        let mut text = doors.join(", ");
        if !refused.is_empty() {
            text = format!("{text}; refused by this kernel: {}", refused.join(", "));
        }
        text
    }

    /// Facts nothing tells of. (What cannot be refused is told of by others.)
    pub fn blind(&self) -> Vec<Fact> {
        let mut blind: Vec<Fact> = self
            .steps
            .iter()
            .map(|step| step.fact)
            .filter(|fact| *fact != Fact::Refusal)
            .filter(|fact| !self.steps.iter().any(|step| step.fact == *fact && step.state == State::Active))
            .collect();
        blind.dedup();
        blind
    }
}

/// What loading needs to know.
pub struct Options<'a> {
    /// The eBPF object.
    pub object: &'a [u8],
    /// `hierarchy_id` containers are told by; 0 = unified.
    pub hierarchy: u32,
    /// v1 controller of that hierarchy; empty = unified.
    pub controller: &'a str,
    /// A mount of the cgroup v2 root.
    pub cgroup_root: &'a Path,
    /// Run-time configuration.
    pub config: Config,
}

/// The loaded kernel half.
pub struct Kernel {
    // Dropping it detaches every program.
    _ebpf: Ebpf,
    ladder: Ladder,
    maps: Maps,
}

/// Maps the daemon writes and reads.
pub struct Maps {
    containers: HashMap<MapData, u64, Raw<Policy>>,
    config: Array<MapData, Raw<Config>>,
    classes: HashMap<MapData, u32, u32>,
    fingerprints: HashMap<MapData, Raw<Fingerprint>, u32>,
    sensitive: HashMap<MapData, u64, u32>,
    runtime_sockets: HashMap<MapData, Raw<InodeKey>, u32>,
    socket_names: HashMap<MapData, u32, u32>,
    descriptor_names: HashMap<MapData, u32, u32>,
    tasks: HashMap<MapData, u32, Raw<monitor_common::state::Task>>,
    sockets: HashMap<MapData, u64, Raw<monitor_common::state::Socket>>,
    loss: HashMap<MapData, Raw<LossKey>, u64>,
}

/// The two rings.
pub struct Rings {
    /// Ordinary records.
    pub events: RingBuf<MapData>,
    /// Records with a reason.
    pub verdicts: RingBuf<MapData>,
}

impl Kernel {
    /// Loads and attaches everything.
    ///
    /// # Errors
    /// When a required hook is refused, type information is missing, or the object does not load.
    pub fn load(options: &Options<'_>) -> Result<(Self, Rings), LoadError> {
        if options.object.is_empty() {
            return Err(LoadError::NoObject);
        }
        let resolved = Btf::read(Path::new(btf::VMLINUX))?.fields()?;
        let aya_btf = aya::Btf::from_sys_fs()?;
        let controller = controller_index(options.controller, &resolved.offsets);
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&aya_btf))
            .verifier_log_level(aya::VerifierLogLevel::STATS)
            .override_global("OFFSETS", &resolved.offsets[..], true)
            .override_global("HIERARCHY", &options.hierarchy, true)
            .override_global("CONTROLLER", &controller, true)
            .load(options.object)
            .map_err(|source| LoadError::Object(Box::new(source)))?;
        // Maps are filled before the first program runs.
        let rings = Rings { events: ring(&mut ebpf, "EVENTS")?, verdicts: ring(&mut ebpf, "VERDICTS")? };
        let mut maps = Maps::take(&mut ebpf)?;
        maps.set_config(&options.config);
        let cgroup = File::open(options.cgroup_root)
            .map_err(|source| LoadError::Cgroup { path: options.cgroup_root.into(), source })?;
        let steps = attach_all(&mut ebpf, &aya_btf, &cgroup)?;
        let ladder = Ladder { steps, missing_fields: resolved.missing };
        Ok((Self { _ebpf: ebpf, ladder, maps }, rings))
    }

    /// The ladder as it was climbed.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// Takes the programs and the maps apart: programs stay attached as long as the first lives.
    pub fn split(self) -> (Ebpf, Ladder, Maps) {
        (self._ebpf, self.ladder, self.maps)
    }
}

fn controller_index(controller: &str, offsets: &[u32]) -> u32 {
    let field = match controller {
        "pids" => Field::SubsysPids,
        "memory" => Field::SubsysMemory,
        "cpu" => Field::SubsysCpu,
        _ => return MISSING,
    };
    offsets[field as usize]
}

fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, LoadError> {
    RingBuf::try_from(take(ebpf, name)?).map_err(|source| LoadError::Map { name, source })
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or_else(|| LoadError::Map { name, source: MapError::InvalidName { name: name.into() } })
}

fn table<K: aya::Pod, V: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<HashMap<MapData, K, V>, LoadError> {
    HashMap::try_from(take(ebpf, name)?).map_err(|source| LoadError::Map { name, source })
}

/// Loads the hooks in table order; of one fact only the best rank that works stays.
fn attach_all(ebpf: &mut Ebpf, btf: &aya::Btf, cgroup: &File) -> Result<Vec<Step>, LoadError> {
    let mut steps: Vec<Step> = Vec::with_capacity(HOOKS.len());
    for hook in HOOKS {
        let better = HOOKS
            .iter()
            .zip(&steps)
            .any(|(other, step)| other.fact == hook.fact && other.rank < hook.rank && step.state == State::Active);
        let (state, why) = if better {
            (State::NotNeeded, String::new())
        } else {
            match attach(ebpf, btf, cgroup, hook) {
                Ok(()) => (State::Active, String::new()),
                Err(why) => (State::Refused, why),
            }
        };
        if hook.required && state == State::Refused {
            return Err(LoadError::Hook { program: hook.program, door: hook.door.name(), fact: hook.fact, why });
        }
        steps.push(Step {
            program: hook.program,
            fact: hook.fact,
            door: hook.door.name(),
            target: hook.door.target(),
            power: hook.power,
            state,
            why,
            without: hook.without,
            verified: verified(ebpf, hook.program),
        });
    }
    Ok(steps)
}

fn verified(ebpf: &Ebpf, program: &str) -> u32 {
    ebpf.program(program)
        .and_then(|program| program.info().ok())
        .and_then(|info| info.verified_instruction_count())
        .unwrap_or(0)
}

fn attach(ebpf: &mut Ebpf, btf: &aya::Btf, cgroup: &File, hook: &Hook) -> Result<(), String> {
    let program = ebpf.program_mut(hook.program).ok_or("the object has no such program")?;
    match hook.door {
        Door::Lsm(name) => {
            lsm_is_active()?;
            let program: &mut Lsm = cast(program)?;
            program.load(name, btf).map_err(explain)?;
            program.attach().map_err(explain)?;
        }
        Door::BtfTracepoint(name) => {
            let program: &mut BtfTracePoint = cast(program)?;
            program.load(name, btf).map_err(explain)?;
            program.attach().map_err(explain)?;
        }
        Door::Fentry(name) => {
            let program: &mut FEntry = cast(program)?;
            program.load(name, btf).map_err(explain)?;
            program.attach().map_err(explain)?;
        }
        Door::Fexit(name) => {
            let program: &mut FExit = cast(program)?;
            program.load(name, btf).map_err(explain)?;
            program.attach().map_err(explain)?;
        }
        Door::CgroupSockAddr => {
            let program: &mut CgroupSockAddr = cast(program)?;
            program.load().map_err(explain)?;
            program.attach(cgroup, CgroupAttachMode::Single).map_err(explain)?;
        }
        Door::CgroupSkb(ingress) => {
            let program: &mut CgroupSkb = cast(program)?;
            let kind = if ingress { CgroupSkbAttachType::Ingress } else { CgroupSkbAttachType::Egress };
            program.load().map_err(explain)?;
            program.attach(cgroup, kind, CgroupAttachMode::Single).map_err(explain)?;
        }
        Door::Syscall(names) => {
            let program: &mut TracePoint = cast(program)?;
            program.load().map_err(explain)?;
            let mut attached = 0;
            let mut why = String::new();
            for name in names {
                // An architecture may lack the older system calls.
                match program.attach("syscalls", name) {
                    Ok(_) => attached += 1,
                    Err(error) => why = explain(error),
                }
            }
            if attached == 0 {
                return Err(why);
            }
        }
    }
    Ok(())
}

fn cast<'a, T>(program: &'a mut Program) -> Result<&'a mut T, String>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    program.try_into().map_err(explain)
}

/// BPF LSM programs load and attach, and never run, unless `bpf` is among the active modules.
fn lsm_is_active() -> Result<(), String> {
    match std::fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(list) if list.trim().split(',').any(|name| name == "bpf") => Ok(()),
        Ok(list) => Err(format!(
            "`bpf` is not among the active security modules ({}): add it to the lsm= boot parameter",
            list.trim()
        )),
        // Without securityfs the load itself has to tell.
        Err(_) => Ok(()),
    }
}

/// The kernel's answer with the verifier's last words.
fn explain(error: ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = &error {
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(6)..].join(" | ");
        return if tail.is_empty() { format!("load: {io_error}") } else { format!("load: {io_error}: {tail}") };
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

impl Maps {
    fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let config =
            Array::try_from(take(ebpf, "CONFIG")?).map_err(|source| LoadError::Map { name: "CONFIG", source })?;
        Ok(Self {
            containers: table(ebpf, "CONTAINERS")?,
            config,
            classes: table(ebpf, "CLASSES")?,
            fingerprints: table(ebpf, "FINGERPRINTS")?,
            sensitive: table(ebpf, "SENSITIVE")?,
            runtime_sockets: table(ebpf, "RUNTIME_SOCKETS")?,
            socket_names: table(ebpf, "SOCKET_NAMES")?,
            descriptor_names: table(ebpf, "DESCRIPTOR_NAMES")?,
            tasks: table(ebpf, "TASKS")?,
            sockets: table(ebpf, "SOCKETS")?,
            loss: table(ebpf, "LOSS")?,
        })
    }

    /// Sets the run-time configuration.
    pub fn set_config(&mut self, config: &Config) {
        note("CONFIG", self.config.set(0, Raw(*config), 0));
    }

    /// Sets a container's policy (also of a nested cgroup: `policy.root` names the outermost).
    pub fn set_policy(&mut self, cgroup: u64, policy: &Policy) {
        note("CONTAINERS", self.containers.insert(cgroup, Raw(*policy), 0));
    }

    /// The policy the programs see.
    pub fn policy(&self, cgroup: u64) -> Option<Policy> {
        self.containers.get(&cgroup, 0).ok().map(|raw| raw.0)
    }

    /// Forgets a cgroup: it is not a container after all, or gone.
    pub fn forget(&mut self, cgroup: u64) {
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

    /// Adds a process from before the programs were there.
    pub fn add_task(&mut self, tgid: u32, task: &monitor_common::state::Task) {
        // Never over a newer entry that the programs made themselves.
        const BPF_NOEXIST: u64 = 1;
        let _ = self.tasks.insert(tgid, Raw(*task), BPF_NOEXIST);
    }

    /// Adds an outbound socket from before the programs were there.
    pub fn add_socket(&mut self, cookie: u64, socket: &monitor_common::state::Socket) {
        let _ = self.sockets.insert(cookie, Raw(*socket), 1);
    }

    /// Records lost in the kernel so far, by container and kind.
    pub fn losses(&self) -> Vec<(LossKey, u64)> {
        self.loss.iter().filter_map(Result::ok).map(|(key, count)| (key.0, count)).collect()
    }
}

/// A map write can fail only when the map is full: worth a line, not the end.
fn note(map: &'static str, result: Result<(), MapError>) {
    if let Err(error) = result {
        tracing::warn!(map, %error, "write to a kernel map failed");
    }
}
