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
    fs::copy(object, embedded).map(drop).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("eBPF object {}: {error}", object.display()),
        )
    })
}

fn variable(name: &str) -> io::Result<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other(format!("cargo did not set {name}")))
}
