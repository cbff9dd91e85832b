//! Where things lie in this repository, and the pinned versions.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's output folder for the userland half.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR").filter(|path| !path.is_empty()) {
        Some(path) => root().join(path),
        None => root().join("target"),
    }
}

/// The eBPF half's folder: a workspace of its own.
pub fn ebpf_dir() -> PathBuf {
    root().join("monitor-ebpf")
}

/// The built eBPF object, where the daemon's build script looks for it.
pub fn bpf_object() -> PathBuf {
    root().join("target/bpf/bulkhead.bpf.o")
}

/// The sample configuration, which is also what `cargo xtask run` uses.
pub fn config() -> PathBuf {
    root().join("config/bulkhead.toml")
}

/// What `xtask/versions.toml` pins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The linker that turns the compiler's bitcode into a BPF object.
    pub bpf_linker: BpfLinker,
    /// The licence and dependency checker.
    pub cargo_deny: Pin,
    /// How the eBPF half is compiled.
    pub ebpf: Ebpf,
    /// Exact versions of the aya family, as in the manifests.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test compares them with the manifests")
    )]
    pub crates: BTreeMap<String, String>,
}

/// A tool's version.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// As on crates.io.
    pub version: String,
}

/// bpf-linker's version and the LLVM it is built against.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpfLinker {
    /// As on crates.io.
    pub version: String,
    /// LLVM's major version.
    pub llvm: u32,
}

/// The eBPF half's target and fallback compiler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ebpf {
    /// Target triple.
    pub target: String,
    /// Debian packages that hold a compiler and its library source.
    pub debian_compiler: Vec<String>,
}

/// The pinned versions, read from the file compiled in.
pub fn versions() -> Result<Versions> {
    toml::from_str(include_str!("../versions.toml")).context("parse xtask/versions.toml")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn requirement(table: &toml::Value, name: &str) -> Option<String> {
        let entry = table.get(name)?;
        let text = entry.as_str().or_else(|| entry.get("version")?.as_str())?;
        Some(text.to_owned())
    }

    #[test]
    fn manifests_require_what_is_pinned_here() {
        let pins = versions().unwrap().crates;
        let read = |path: PathBuf| -> Option<toml::Value> {
            Some(toml::from_str(&std::fs::read_to_string(path).ok()?).unwrap())
        };
        let workspace = read(root().join("Cargo.toml")).unwrap();
        let mut tables = vec![workspace["workspace"]["dependencies"].clone()];
        let ebpf = read(ebpf_dir().join("Cargo.toml"));
        tables.extend(ebpf.and_then(|manifest| manifest.get("dependencies").cloned()));
        let mut seen = 0;
        for (name, version) in &pins {
            for found in tables.iter().filter_map(|table| requirement(table, name)) {
                assert_eq!(found, format!("={version}"), "{name}");
                seen += 1;
            }
        }
        assert!(seen >= 3, "no manifest names the pinned crates any more");
    }
}
