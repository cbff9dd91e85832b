//! `cargo xtask build`: the eBPF object with its own toolchain, then the daemon that embeds it.

use crate::process::{cargo, run};
use crate::setup;
use crate::setup::machine::DEBIAN_RUSTC;
use crate::setup::plan::Toolchain;
use crate::workspace::{self, Versions};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the eBPF crate's binary.
const EBPF_BINARY: &str = "bulkhead";

/// How the userland half is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Unoptimised, quick to build.
    Dev,
    /// What is shipped and measured.
    Release,
}

/// Builds the object and the daemon; returns the daemon's path.
pub fn all(profile: Profile) -> Result<PathBuf> {
    object(&setup::ready_toolchain()?)?;
    daemon(profile)
}

/// Builds the eBPF object into its place. The file is rewritten only when its content changed, so that
/// the daemon is not built anew for nothing.
pub fn object(toolchain: &Toolchain) -> Result<PathBuf> {
    let versions = workspace::versions()?;
    let ebpf_dir = workspace::ebpf_dir();
    if !ebpf_dir.join("Cargo.toml").exists() {
        bail!("no eBPF crate in {}", ebpf_dir.display());
    }
    run(inner_cargo(toolchain)
        .args(["build", "--locked", "--release"])
        .args(target_flags(&versions)))
    .context("build the eBPF half")?;
    let built = ebpf_dir
        .join("target")
        .join(&versions.ebpf.target)
        .join("release")
        .join(EBPF_BINARY);
    let object = workspace::bpf_object();
    install(&built, &object)?;
    Ok(object)
}

/// Builds the daemon around whatever object is in place; returns its path.
pub fn daemon(profile: Profile) -> Result<PathBuf> {
    let mut command = cargo();
    command.current_dir(workspace::root()).args([
        "build",
        "--locked",
        "--package",
        "monitor",
        "--bin",
        "bulkhead",
    ]);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    run(&mut command).context("build the daemon")?;
    Ok(workspace::target_dir().join(folder).join("bulkhead"))
}

/// Flags that select the BPF target and build `core` for it.
pub fn target_flags(versions: &Versions) -> [String; 4] {
    ["--target", &versions.ebpf.target, "-Z", "build-std=core"].map(str::to_owned)
}

/// A cargo for the eBPF workspace. Unstable flags are switched on for this one process only: through
/// the whole build they would change what build scripts that probe for nightly do.
pub fn inner_cargo(toolchain: &Toolchain) -> Command {
    let mut command = match toolchain {
        Toolchain::Nightly(_) => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]);
            command
        }
        Toolchain::Default(_) | Toolchain::Debian(_) => cargo(),
    };
    // What the outer cargo and the user set for the host's compiler does not hold for this one.
    let foreign = [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_BOOTSTRAP",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ];
    for variable in foreign {
        command.env_remove(variable);
    }
    match toolchain {
        Toolchain::Nightly(_) => {}
        Toolchain::Default(_) => {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        Toolchain::Debian(_) => {
            command
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTC", DEBIAN_RUSTC);
        }
    }
    command
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
        .env("CARGO_TARGET_DIR", workspace::ebpf_dir().join("target"))
        .current_dir(workspace::ebpf_dir());
    if let Some(path) = path_with_linker() {
        command.env("PATH", path);
    }
    command
}

/// `bpf_target_arch` selects aya's register layout, debug information becomes the object's BTF, which
/// `--btf` keeps.
fn rustflags() -> String {
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    [arch.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f")
}

/// rustc starts `bpf-linker` by name; under sudo, cargo's folder is often not on `PATH`.
fn path_with_linker() -> Option<std::ffi::OsString> {
    let linker = crate::process::find("bpf-linker")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(linker.parent().map(Path::to_path_buf));
    std::env::join_paths(folders).ok()
}

fn install(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("read {}", built.display()))?;
    if fs::read(object).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = object.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // Written aside and renamed: a build of the daemon never embeds half an object.
    let partial = object.with_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, object))
        .with_context(|| format!("write {}", object.display()))
}
