//! Loads the programs and attaches each by the best door this kernel opens; or takes over what a
//! daemon before this one has left attached.

use super::btf::{self, Btf, BtfError, Resolved};
use super::hooks::{Door, Fact, HOOKS, Hook};
use super::ladder::{Ladder, State, Step};
use super::ledger::{Handover, Ledger};
use super::links::{self, Keeper, Programs};
use super::maps::{Maps, Rings, Source};
use super::missed::Missed;
use super::pins::{self, Folder, PinError, Pins};
use aya::maps::MapError;
use aya::programs::links::CgroupAttachMode;
use aya::programs::{
    BtfTracePoint, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, FEntry, FExit, Lsm, Program, ProgramError,
    TracePoint,
};
use aya::{Ebpf, EbpfLoader};
use monitor_common::field::{Field, MISSING};
use monitor_common::state::Config;
use std::fs::File;
use std::path::{Path, PathBuf};

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
    /// Something cannot be pinned or unpinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl LoadError {
    /// Is the kernel (rather than the caller's rights or the build) to blame?
    pub fn is_kernel_too_old(&self) -> bool {
        matches!(self, Self::Btf(_) | Self::AyaBtf(_) | Self::Hook { .. })
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
    /// Kinds of doors ([`Door::name`]) not to use.
    pub avoid: &'a [&'static str],
    /// Where links and maps are pinned; without it they end with the process.
    pub pins: Option<&'a Pins>,
}

/// What of a former daemon's was there, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was there.
    Fresh,
    /// The same programs: they were taken over as they are, attached all the time.
    Adopted,
    /// Other programs: they were replaced, and so many of their maps were kept.
    Replaced {
        /// Maps kept, with what they know.
        kept: usize,
    },
    /// Programs with other layouts: they were replaced, and what their maps knew (taint) is lost.
    Incompatible,
}

/// The loaded kernel half.
pub struct Kernel {
    // Dropping it detaches every program that is not pinned.
    programs: Programs,
    ladder: Ladder,
    maps: Maps,
    origin: Origin,
}

impl Kernel {
    /// Loads and attaches everything, or takes it over.
    ///
    /// # Errors
    /// When a required hook is refused, type information is missing, or the object does not load.
    pub fn load(options: &Options<'_>) -> Result<(Self, Rings), LoadError> {
        if options.object.is_empty() {
            return Err(LoadError::NoObject);
        }
        let resolved = Btf::read(Path::new(btf::VMLINUX))?.fields()?;
        let (mut kernel, rings) = match options.pins {
            None => {
                let (kernel, rings, _) = build(options, resolved, None, None)?;
                (kernel, rings)
            }
            Some(pins) => pinned(options, resolved, pins)?,
        };
        let mut handover = kernel.maps.ledger.handover();
        handover.lives += 1;
        kernel.maps.ledger.set_handover(&handover);
        Ok((kernel, rings))
    }

    /// The ladder as it was climbed.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// What was there before.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Takes the programs and the maps apart: programs stay attached as long as the first lives, and
    /// beyond if they are pinned.
    pub fn split(mut self) -> (Programs, Ladder, Maps) {
        self.maps.missed = Missed::since_now(self.programs.take_guarded());
        (self.programs, self.ladder, self.maps)
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

/// With pins: the same version is adopted; otherwise a new one is made beside the old one, and the
/// old one removed once the new one is whole.
fn pinned(options: &Options<'_>, resolved: Resolved, pins: &Pins) -> Result<(Kernel, Rings), LoadError> {
    let version = version(options, &resolved);
    let mut there = pins.versions();
    if there.contains(&version) {
        match adopt(&pins.folder(&version), options, &resolved) {
            Ok(adopted) => {
                for old in there.iter().filter(|name| **name != version) {
                    pins.remove(old)?;
                }
                return Ok(adopted);
            }
            Err(why) => tracing::warn!(why, "the pinned programs are not whole and are replaced"),
        }
        let aside = format!("{version}-old");
        pins.remove(&aside)?;
        pins.rename(&version, &aside)?;
        there = pins.versions();
    }
    let former = there.iter().rev().find(|name| name.starts_with(&pins::abi_prefix())).map(|name| pins.folder(name));
    let unfinished = pins.unfinished()?;
    let built = build(options, resolved, former.as_ref(), Some(&unfinished));
    // After a failure, what is there already stays as it is.
    let (mut kernel, rings, kept) = built.inspect_err(|_| drop(pins.discard()))?;
    pins.finish(&version)?;
    for old in &there {
        pins.remove(old)?;
    }
    kernel.origin = match (former, there.is_empty()) {
        (Some(_), _) => Origin::Replaced { kept },
        (None, true) => Origin::Fresh,
        (None, false) => Origin::Incompatible,
    };
    Ok((kernel, rings))
}

fn version(options: &Options<'_>, resolved: &Resolved) -> String {
    let table = format!("{HOOKS:?}{:?}", options.avoid);
    let hierarchy = options.hierarchy.to_le_bytes();
    let offsets: Vec<u8> = resolved.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
    pins::version(&[options.object, &offsets, &hierarchy, options.controller.as_bytes(), table.as_bytes()])
}

/// Takes over what is attached already. The error says what is missing.
fn adopt(folder: &Folder, options: &Options<'_>, resolved: &Resolved) -> Result<(Kernel, Rings), String> {
    let ledger = Ledger::pinned(&folder.maps()).ok_or("the ledger is missing")?;
    let (programs, steps) = links::adopt(&folder.links(), &ledger.handover(), resolved.preempts)?;
    let maps = folder.maps();
    let mut source = Source::Pinned(&maps);
    let rings = Rings::open(&mut source).map_err(|error| error.to_string())?;
    let mut maps = Maps::open(&mut source, ledger).map_err(|error| error.to_string())?;
    maps.set_config(&options.config);
    let ladder = Ladder { steps, missing_fields: resolved.missing.clone() };
    Ok((Kernel { programs, ladder, maps, origin: Origin::Adopted }, rings))
}

/// Loads and attaches; maps of `former` whose definition is the same are used again; everything is
/// pinned in `folder`. Tells also how many maps were kept.
fn build(
    options: &Options<'_>,
    resolved: Resolved,
    former: Option<&Folder>,
    folder: Option<&Folder>,
) -> Result<(Kernel, Rings, usize), LoadError> {
    let aya_btf = aya::Btf::from_sys_fs()?;
    let controller = controller_index(options.controller, &resolved.offsets);
    let kept = former.map(|former| links::reusable(options.object, &former.maps())).unwrap_or_default();
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&aya_btf))
        .verifier_log_level(aya::VerifierLogLevel::STATS)
        .override_global("OFFSETS", &resolved.offsets[..], true)
        .override_global("HIERARCHY", &options.hierarchy, true)
        .override_global("CONTROLLER", &controller, true);
    for (name, path) in &kept {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader.load(options.object).map_err(|source| LoadError::Object(Box::new(source)))?;
    let mut ledger = former.and_then(|former| Ledger::pinned(&former.maps()));
    let failed = |source| LoadError::Map { name: "HANDOVER", source };
    if ledger.is_none() {
        ledger = Some(Ledger::create().map_err(failed)?);
    }
    if let Some(folder) = folder {
        links::pin_maps(&ebpf, &folder.maps()).map_err(|source| LoadError::Map { name: "maps", source })?;
        ledger = ledger.map(|ledger| ledger.pin(&folder.maps())).transpose().map_err(failed)?;
    }
    let Some(ledger) = ledger else { return Err(failed(MapError::OutOfBounds { index: 0, max_entries: 0 })) };
    // Maps are filled before the first program runs.
    let mut source = Source::Loaded(&mut ebpf);
    let rings = Rings::open(&mut source)?;
    let mut maps = Maps::open(&mut source, ledger)?;
    maps.set_config(&options.config);
    let cgroup = File::open(options.cgroup_root)
        .map_err(|source| LoadError::Cgroup { path: options.cgroup_root.into(), source })?;
    let mut keeper = Keeper::new(folder.map(Folder::links));
    let steps = attach_all(&mut ebpf, &aya_btf, &cgroup, options.avoid, &resolved, &mut keeper)?;
    let mut handover = Handover { links: [0; 4], ..maps.ledger.handover() };
    let programs = keeper.finish(ebpf, &mut handover);
    maps.ledger.set_handover(&handover);
    let ladder = Ladder { steps, missing_fields: resolved.missing };
    Ok((Kernel { programs, ladder, maps, origin: Origin::Fresh }, rings, kept.len()))
}

/// Loads the hooks, then attaches them in table order; of one fact only the best rank that works
/// stays. All are loaded before the first is attached: verification takes seconds, and for as long as
/// former programs run beside these, events are told twice.
fn attach_all(
    ebpf: &mut Ebpf,
    btf: &aya::Btf,
    cgroup: &File,
    avoid: &[&'static str],
    resolved: &Resolved,
    keeper: &mut Keeper,
) -> Result<Vec<Step>, LoadError> {
    let preempts = resolved.preempts;
    let load = |ebpf: &mut Ebpf, hook: &Hook| {
        if avoid.contains(&hook.door.name()) {
            return Err("left out by kernel.avoid in the config".to_owned());
        }
        match resolved.lacks(hook.door.needs()) {
            Some(field) => Err(format!("this kernel has no {field}")),
            None => load(ebpf, btf, hook),
        }
    };
    let mut loaded: Vec<Option<Result<(), String>>> = Vec::with_capacity(HOOKS.len());
    for hook in HOOKS {
        let better =
            !hook.door.suits(preempts) || better(hook, |index| matches!(loaded.get(index), Some(Some(Ok(())))));
        loaded.push((!better).then(|| load(ebpf, hook)));
    }
    let mut steps: Vec<Step> = Vec::with_capacity(HOOKS.len());
    for (hook, loaded) in HOOKS.iter().zip(loaded) {
        let better = !hook.door.suits(preempts)
            || better(hook, |index| steps.get(index).is_some_and(|step| step.state == State::Active));
        let (state, why) = if better {
            // What could not be had anyway is known without a try.
            let lacking = resolved.lacks(hook.door.needs()).map(|field| format!("this kernel has no {field}"));
            (State::NotNeeded, lacking.unwrap_or_default())
        } else {
            let loaded = loaded.unwrap_or_else(|| load(ebpf, hook));
            match loaded.and_then(|()| attach(ebpf, cgroup, hook, keeper)) {
                Ok(()) => (State::Active, String::new()),
                Err(why) => (State::Refused, why),
            }
        };
        if hook.required && state == State::Refused {
            return Err(LoadError::Hook { program: hook.program, door: hook.door.name(), fact: hook.fact, why });
        }
        steps.push(Step::new(hook, state, why, verified(ebpf, hook.program)));
    }
    Ok(steps)
}

/// Is a better door of the same fact open? `open` is asked by position in the table.
fn better(hook: &Hook, open: impl Fn(usize) -> bool) -> bool {
    let mut others = HOOKS.iter().enumerate();
    others.any(|(index, other)| other.fact == hook.fact && other.rank < hook.rank && open(index))
}

fn verified(ebpf: &Ebpf, program: &str) -> u32 {
    ebpf.program(program)
        .and_then(|program| program.info().ok())
        .and_then(|info| info.verified_instruction_count())
        .unwrap_or(0)
}

fn load(ebpf: &mut Ebpf, btf: &aya::Btf, hook: &Hook) -> Result<(), String> {
    let program = ebpf.program_mut(hook.program).ok_or("the object has no such program")?;
    match hook.door {
        Door::Lsm(name) => {
            lsm_is_active()?;
            cast::<Lsm>(program)?.load(name, btf)
        }
        Door::BtfTracepoint(name) => cast::<BtfTracePoint>(program)?.load(name, btf),
        Door::Fentry(name) => cast::<FEntry>(program)?.load(name, btf),
        Door::Fexit(name) => cast::<FExit>(program)?.load(name, btf),
        Door::CgroupSockAddr => cast::<CgroupSockAddr>(program)?.load(),
        Door::CgroupSkb(_) => cast::<CgroupSkb>(program)?.load(),
        Door::Tracepoint(..) | Door::Syscall(_) | Door::Ring(..) => cast::<TracePoint>(program)?.load(),
    }
    .map_err(explain)
}

/// Attaches a loaded program; its links go to the keeper, which pins them.
fn attach(ebpf: &mut Ebpf, cgroup: &File, hook: &Hook, keeper: &mut Keeper) -> Result<(), String> {
    let program = ebpf.program_mut(hook.program).ok_or("the object has no such program")?;
    match hook.door {
        Door::Lsm(_) => {
            let program: &mut Lsm = cast(program)?;
            let id = program.attach().map_err(explain)?;
            keeper.keep(hook, 0, || program.take_link(id))
        }
        Door::BtfTracepoint(_) => {
            let program: &mut BtfTracePoint = cast(program)?;
            let id = program.attach().map_err(explain)?;
            keeper.keep(hook, 0, || program.take_link(id))
        }
        Door::Fentry(_) => {
            let program: &mut FEntry = cast(program)?;
            let id = program.attach().map_err(explain)?;
            keeper.keep(hook, 0, || program.take_link(id))
        }
        Door::Fexit(_) => {
            let program: &mut FExit = cast(program)?;
            let id = program.attach().map_err(explain)?;
            keeper.keep(hook, 0, || program.take_link(id))
        }
        Door::CgroupSockAddr => {
            let program: &mut CgroupSockAddr = cast(program)?;
            let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(explain)?;
            keeper.keep(hook, 0, || program.take_link(id))
        }
        Door::CgroupSkb(ingress) => {
            let program: &mut CgroupSkb = cast(program)?;
            let kind = if ingress { CgroupSkbAttachType::Ingress } else { CgroupSkbAttachType::Egress };
            let id = program.attach(cgroup, kind, CgroupAttachMode::Single).map_err(explain)?;
            keeper.keep(hook, 0, || program.take_link(id))
        }
        Door::Tracepoint(category, name) => attach_tracepoints(cast(program)?, hook, category, &[name], keeper),
        Door::Syscall(names) => attach_tracepoints(cast(program)?, hook, "syscalls", names, keeper),
        Door::Ring(names, _) => attach_tracepoints(cast(program)?, hook, "io_uring", names, keeper),
    }
}

fn attach_tracepoints(
    program: &mut TracePoint,
    hook: &Hook,
    category: &str,
    names: &[&str],
    keeper: &mut Keeper,
) -> Result<(), String> {
    let (mut attached, mut why) = (0, String::new());
    for (index, name) in names.iter().enumerate() {
        // An architecture may lack the older system calls.
        match program.attach(category, name) {
            Ok(id) => {
                attached += 1;
                if keeper.keep(hook, index, || program.take_link(id)).is_err() {
                    // Before 5.15 such a link is no BPF link: it stays the program's own.
                    program.attach(category, name).map_err(explain)?;
                    keeper.stays(hook);
                }
            }
            Err(error) => why = explain(error),
        }
    }
    if attached == 0 { Err(why) } else { Ok(()) }
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
