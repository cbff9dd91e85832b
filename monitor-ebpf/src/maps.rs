//! Maps that more than one room uses; a map with one owner sits beside its owner.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use monitor_common::field;
use monitor_common::policy::Policy;
use monitor_common::profile::Bound;
use monitor_common::state::{Config, CutKey, Doomed, InodeKey, LossKey, Pipe, Socket, Taint, Task};

/// Offsets of [`field::FIELDS`], written by the daemon before load and frozen.
#[unsafe(no_mangle)]
static OFFSETS: [u32; field::COUNT] = [field::MISSING; field::COUNT];

/// `cgroup_root.hierarchy_id` of the hierarchy containers are told by (0 = unified).
#[unsafe(no_mangle)]
static HIERARCHY: u32 = 0;

/// Index into `css_set.subsys` of a controller of that hierarchy; `MISSING` = unified.
#[unsafe(no_mangle)]
static CONTROLLER: u32 = field::MISSING;

/// Size of [`EVENTS`], bytes. Mapped twice into the daemon, so it counts double there.
pub const EVENTS_BYTES: usize = 2 << 20;
/// Size of [`VERDICTS`], bytes.
pub const VERDICTS_BYTES: usize = 512 << 10;

/// Ordinary records.
#[btf_map]
pub static EVENTS: RingBuf<(), EVENTS_BYTES> = RingBuf::new();

/// Records with a reason, which a flood of ordinary ones must not crowd out.
#[btf_map]
pub static VERDICTS: RingBuf<(), VERDICTS_BYTES> = RingBuf::new();

/// Containers by cgroup id; nested cgroups have their own entry with the same `root`.
#[btf_map]
pub static CONTAINERS: HashMap<u64, Policy, 16384> = HashMap::new();

/// Every process of a container, and host processes started since the monitor was.
#[btf_map]
pub static TASKS: HashMap<u32, Task, 65536> = HashMap::new();

/// Pipes and FIFOs with a known reader or writer.
#[btf_map]
pub static PIPES: LruHashMap<InodeKey, Pipe, 16384> = LruHashMap::new();

/// Files whose bytes came from the network.
#[btf_map]
pub static INODES: LruHashMap<InodeKey, Taint, 32768> = LruHashMap::new();

/// Outbound inet sockets by cookie.
#[btf_map]
pub static SOCKETS: LruHashMap<u64, Socket, 32768> = LruHashMap::new();

/// What tells that a packet belongs to a quarantined container: its container.
#[btf_map]
pub static QUARANTINE: HashMap<CutKey, u64, 16384> = HashMap::new();

/// Containers that are held to a baseline.
#[btf_map]
pub static PROFILES: HashMap<u64, Bound, 4096> = HashMap::new();

/// Sets of processes that are being killed: by the lineage id of the outermost.
#[btf_map]
pub static DOOMED: HashMap<u32, Doomed, 1024> = HashMap::new();

/// What may change while the programs run.
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Never written: a new entry starts as a copy of these.
#[btf_map]
pub static ZERO_TASK: Array<Task, 1> = Array::new();

/// See [`ZERO_TASK`].
#[btf_map]
pub static ZERO_PIPE: Array<Pipe, 1> = Array::new();

/// Next sequence number of this CPU.
#[btf_map]
pub static SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Records of this CPU that found no room in their ring: exact, where `LOSS` tells whose they were.
#[btf_map]
pub static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Records that found no room in their ring.
#[btf_map]
pub static LOSS: LruHashMap<LossKey, u64, 4096> = LruHashMap::new();

/// Offset of a kernel field, `None` if this kernel lacks it.
#[inline(always)]
pub fn offset(field: field::Field) -> Option<usize> {
    // SAFETY: in bounds by construction of the table. Volatile, because the daemon rewrites the
    // value after compilation; the verifier sees a constant, since the map is frozen.
    let value = unsafe { core::ptr::read_volatile(&raw const OFFSETS[field as usize]) };
    if value == field::MISSING { None } else { Some(value as usize) }
}

/// The watched hierarchy's id.
#[inline(always)]
pub fn hierarchy() -> u32 {
    // SAFETY: as in `offset`.
    unsafe { core::ptr::read_volatile(&raw const HIERARCHY) }
}

/// The watched hierarchy's controller, `None` for the unified one.
#[inline(always)]
pub fn controller() -> Option<usize> {
    // SAFETY: as in `offset`.
    let value = unsafe { core::ptr::read_volatile(&raw const CONTROLLER) };
    if value == field::MISSING { None } else { Some(value as usize) }
}

/// What may change while the programs run.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}
