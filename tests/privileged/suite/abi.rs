//! The two halves agree on every layout, and the kernel with the hooks on every prototype.

use anyhow::{Context, Result, bail, ensure};
use monitor::kernel::btf::{Btf, VMLINUX};
use monitor::kernel::object;
use object_file::Object as _;
use object_file::ObjectSection as _;
use std::fs;
use std::mem::offset_of;
use std::path::Path;

/// A struct as this half sees it: name, size, members with their offsets.
struct Layout {
    name: &'static str,
    size: usize,
    members: Vec<(&'static str, usize)>,
}

macro_rules! layouts {
    ($($module:ident::$name:ident { $($member:ident),+ $(,)? })+) => {
        vec![$(Layout {
            name: stringify!($name),
            size: size_of::<monitor_common::$module::$name>(),
            members: vec![$((stringify!($member), offset_of!(monitor_common::$module::$name, $member))),+],
        }),+]
    };
}

fn layouts() -> Vec<Layout> {
    layouts! {
        header::Header { abi, kind, len, seq, time_ns, tgid, tid, start_ns, container, cpu, uid, verdict, reason, rung, reserved, peer_tgid }
        exec::Stdio { kind, dev, ino, peer }
        exec::Exec {
            header, parent_tgid, flags, parent_start_ns, task_flags, form, exe, fingerprint, stdio, origin, comm,
            filename, args_total, args_len, args_tail, args_area, shape
        }
        exec::Again { header, parent_tgid, task_flags, parent_start_ns, shape, stdin, stdout }
        exec::Fork { header, parent_tgid, reserved, parent_start_ns, comm }
        exec::Exit { header, code, reserved }
        exec::Moved { header, stdio, task_flags, fd }
        file::FileRef { ino, dev, mode, size, flags, magic, depth, reserved, names }
        file::Open { header, file, origin, sensitive, task_flags }
        net::Peer { addr, port, family, protocol, reserved }
        net::Connect { header, peer, cookie, op, task_flags, sink_tgid, reserved, comm }
        net::Payload { header, peer, cookie, inbound, index, len, segment, data }
        net::UnixConnect { header, ino, dev, known, name, reserved }
        net::UnixPeer { header }
        own::OwnKey { id, kind, dev }
        own::Tamper { header, object, attempt, detail, task_flags, reserved }
        reach::Reach { header, what, task_flags, number, level, failed, source, target }
        policy::Policy { root, enforce, flags }
        profile::EdgeKey { parent, exe, profile, user, layer, form }
        profile::Bound { profile, init, holds }
        profile::PortKey { profile, protocol, port }
        profile::Destination { profile, ports, exe, family, addr }
        state::InodeKey { ino, dev, generation }
        state::Origin { tgid, hops, start_ns, peer, time_ns }
        state::Taint { origin, container, generation, reserved }
        state::Task {
            start_ns, container, flags, parent_tgid, stdin, stdout, fifo_out, writes, write_next, script, origin, last_open,
            lineage, depth, exec_id, unix_peer, exe, shape, parent_start_ns, children, untold, reserved
        }
        state::Pipe { reader, writer, shell, tainted, barrier, down, origin }
        state::Socket { tgid, sent, received, start_ns, container, peer, uid, sent_to, received_to, reserved }
        state::Fingerprint { size, code, data }
        state::CgroupChange { header, parent, gone, hierarchy, path }
        state::LossKey { container, kind, reserved }
        state::CutKey { id, kind, reserved }
        state::Doomed { container, born }
        state::Config { default_enforce, watch_host, self_tgid, responses, release, holds_back, heartbeat_ns, limit_ns, seed }
        state::Held { execs, forks, exits }
    }
}

/// Every struct both halves share lies in the object as it lies in the daemon.
pub fn abi_matches_object_btf() -> Result<()> {
    let elf = object_file::File::parse(object::BYTES).context("parse the object")?;
    let section = elf.section_by_name(".BTF").context("the object has no .BTF section")?;
    let btf = Btf::parse(section.data().context("read .BTF")?.to_vec(), Path::new("bulkhead.bpf.o"))?;
    let mut differences = Vec::new();
    for ours in layouts() {
        let Some((size, theirs)) = btf.layout(ours.name) else {
            differences.push(format!("{} is not in the object", ours.name));
            continue;
        };
        if size as usize != ours.size {
            differences.push(format!("{} has {size} bytes in the object and {} here", ours.name, ours.size));
        }
        let mut members: Vec<_> =
            ours.members.iter().map(|(name, offset)| ((*name).to_owned(), *offset as u32)).collect();
        let mut theirs = theirs;
        members.sort();
        theirs.sort();
        if members != theirs {
            differences.push(format!("{}: {theirs:?} in the object, {members:?} here", ours.name));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// How the source names what a program is attached to, and where the kernel's own prototype of it is found.
const ATTRIBUTES: [(&str, Place); 4] = [
    ("#[btf_tracepoint(function = \"", Place::Tracepoint),
    ("#[lsm(hook = \"", Place::Lsm),
    ("#[fentry(function = \"", Place::Function),
    ("#[fexit(function = \"", Place::Function),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Tracepoint,
    /// The function that BPF LSM programs hang on; what it returns so far follows its parameters, so
    /// their number counts.
    Lsm,
    Function,
}

impl Place {
    fn prototype(self, kernel: &Btf, name: &str) -> Option<Vec<String>> {
        match self {
            Self::Tracepoint => kernel.tracepoint(name),
            Self::Lsm => kernel.function(&format!("bpf_lsm_{name}")),
            Self::Function => kernel.function(name),
        }
    }
}

/// The `match-proto:` line of every hook says what this kernel hands over.
pub fn hook_prototypes_match_kernel() -> Result<()> {
    let kernel = Btf::read(Path::new(VMLINUX))?;
    // In a guest the sources lie elsewhere than where this was compiled.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let folder = Path::new(&manifest).join("../../monitor-ebpf/src/probes");
    let mut checked = 0;
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let source = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut claim = None;
        for line in source.lines() {
            if let Some(text) = line.trim().strip_prefix("/// match-proto: ") {
                claim = Some(prototype(text)?);
            } else if let Some((hook, place)) = attachment(line) {
                let Some((name, claimed)) = claim.take() else {
                    // What is told by the saved registers (`__x64_sys_…`) has no parameters of its own.
                    ensure!(hook.starts_with("__x64_sys_"), "{hook} has no match-proto: line");
                    continue;
                };
                ensure!(name == hook, "the match-proto: line above {hook} is about {name}");
                match place.prototype(&kernel, hook) {
                    Some(found) => {
                        compare(hook, place, &claimed, &found)?;
                        checked += 1;
                    }
                    // Tracepoints are needed; for the rest there is a door that every kernel has.
                    None => ensure!(place != Place::Tracepoint, "this kernel has no tracepoint {hook}"),
                }
            }
        }
    }
    ensure!(checked >= 10, "only {checked} hooks were checked: is the marker still written so?");
    Ok(())
}

fn attachment(line: &str) -> Option<(&str, Place)> {
    let line = line.trim();
    ATTRIBUTES.iter().find_map(|(start, place)| Some((line.strip_prefix(start)?.split('"').next()?, *place)))
}

/// Newer kernels append parameters (6.17 told `sched_process_exit` of the group); what a program does not
/// ask for does not matter to it, unless it counts them.
fn compare(hook: &str, place: Place, claimed: &[String], found: &[String]) -> Result<()> {
    // `...`: the program does not count them.
    let (claimed, open) = match claimed.split_last() {
        Some((last, front)) if last == "..." => (front, true),
        _ => (claimed, place != Place::Lsm),
    };
    let good = if open { found.starts_with(claimed) } else { found == claimed };
    ensure!(good, "{hook} gets {found:?} from this kernel, not {claimed:?}");
    Ok(())
}

/// `name(const struct a *b, int c)` as name and types without qualifiers and parameter names.
fn prototype(text: &str) -> Result<(&str, Vec<String>)> {
    let Some((name, rest)) = text.trim().split_once('(') else { bail!("not a prototype: {text}") };
    let parameters = rest.trim_end_matches(')').split(',').map(|parameter| {
        if parameter.trim() == "..." {
            return "...".into();
        }
        let words: Vec<&str> = parameter.split_whitespace().filter(|word| *word != "const").collect();
        let (last, front) = words.split_last().unwrap_or((&"", &[]));
        let stars = last.chars().filter(|c| *c == '*').collect::<String>();
        // As the kernel's compiler writes it into the type information.
        let front = front.join(" ").replace("unsigned long", "long unsigned int");
        format!("{front} {stars}").trim().to_owned()
    });
    Ok((name, parameters.collect()))
}
