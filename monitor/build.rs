//! Hands the built eBPF object to the daemon, which embeds it:
//! `aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bulkhead.bpf.o"))`.
//!
//! The object is built by `cargo xtask build`, never from here: it needs a toolchain of its own, and
//! `cargo check` and `cargo test` must work on a machine without it. Where there is no object, an empty
//! one is embedded and the daemon says at start that it has no kernel half.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Environment variable naming the object; the default is `target/bpf/bulkhead.bpf.o` in the workspace.
const OBJECT_VARIABLE: &str = "BULKHEAD_BPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = variable("OUT_DIR")?;
    let embedded = out_dir.join("bulkhead.bpf.o");
    match env::var_os(OBJECT_VARIABLE).filter(|path| !path.is_empty()) {
        // A path somebody asked for must exist: silently building a blind daemon would be worse.
        Some(path) => embed(Path::new(&path), &embedded),
        None => embed_default(&variable("CARGO_MANIFEST_DIR")?, &embedded),
    }
}

fn embed_default(manifest_dir: &Path, embedded: &Path) -> io::Result<()> {
    let folder = manifest_dir.join("../target/bpf");
    let object = folder.join("bulkhead.bpf.o");
    if object.exists() {
        return embed(&object, embedded);
    }
    // Cargo takes a watched path that does not exist for changed, and would rebuild the daemon every
    // time. An empty folder is something to watch: its time stamp changes when the object arrives.
    fs::create_dir_all(&folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    fs::write(embedded, [])
}

fn embed(object: &Path, embedded: &Path) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", object.display());
    let named = |error: io::Error| io::Error::new(error.kind(), format!("eBPF object {}: {error}", object.display()));
    let bytes = fs::read(object).map_err(named)?;
    fs::write(embedded, without_dwarf(&bytes).as_ref().unwrap_or(&bytes))
}

/// Length of the header of an ELF file, and of a section, both of 64 bit.
const HEADER: usize = 64;

/// The object without what only debuggers read (DWARF), four fifths of it; types (BTF) stay. The sections are left empty
/// rather than out, so that no section's number changes. `None`: it is no such object, or cut off.
fn without_dwarf(object: &[u8]) -> Option<Vec<u8>> {
    let short = |at: usize| Some(usize::from(u16::from_le_bytes(*object.get(at..)?.first_chunk()?)));
    let long = |from: &[u8], at: usize| usize::try_from(u64::from_le_bytes(*from.get(at..)?.first_chunk()?)).ok();
    let (table, count, names) = (long(object, 0x28)?, short(0x3c)?, short(0x3e)?);
    // Relocatable, 64 bit, little endian: no program header tells where anything is.
    if !object.starts_with(b"\x7fELF\x02\x01") || short(0x10)? != 1 || short(0x38)? != 0 || short(0x3a)? != HEADER {
        return None;
    }
    let section = |number: usize| object.get(table + number * HEADER..)?.get(..HEADER);
    let names = object.get(long(section(names)?, 0x18)?..)?;
    let mut pruned = object.get(..HEADER)?.to_vec();
    let mut headers = Vec::new();
    for number in 0..count {
        let mut header = section(number)?.to_vec();
        let name = names.get(u32::from_le_bytes(*header.first_chunk()?) as usize..)?;
        let (kind, start, size) = (header[4], long(&header, 0x18)?, long(&header, 0x20)?);
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            // All but its name: a section of no kind (SHT_NULL).
            header[4..].fill(0);
        } else if kind != 0 && kind != 8 {
            // But for those that take no place in the file (SHT_NOBITS).
            pruned.resize(pruned.len().next_multiple_of(long(&header, 0x30)?.max(1)), 0);
            header[0x18..0x20].copy_from_slice(&(pruned.len() as u64).to_le_bytes());
            pruned.extend_from_slice(object.get(start..start.checked_add(size)?)?);
        }
        headers.extend(header);
    }
    pruned.resize(pruned.len().next_multiple_of(8), 0);
    let table = pruned.len() as u64;
    pruned[0x28..0x30].copy_from_slice(&table.to_le_bytes());
    pruned.extend(headers);
    Some(pruned)
}

fn variable(name: &str) -> io::Result<PathBuf> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(format!("cargo did not set {name}")))
}
