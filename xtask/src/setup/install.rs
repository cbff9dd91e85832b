//! Carries out what was decided, without asking anything.

use super::plan::{Step, llvm_prefix};
use crate::process::{capture, cargo, run};
use anyhow::{Context, Result};
use std::process::Command;

/// Seconds to wait for another package manager to finish (unattended-upgrades on a fresh machine).
const LOCK_WAIT: &str = "DPkg::Lock::Timeout=300";

/// Installs one thing.
pub fn carry_out(step: &Step) -> Result<()> {
    match step {
        Step::Packages(names) => packages(names),
        Step::BpfLinker { version, llvm } => bpf_linker(version, *llvm),
    }
}

/// Installs a program from crates.io at exactly this version.
pub fn from_crates(name: &str, version: &str) -> Result<()> {
    run(cargo_install(name, version).args(["--force"]))
}

/// Installs Debian packages; refuses where others would have to go.
pub fn packages(names: &[String]) -> Result<()> {
    // Lists that do not know a package, or none at all (a fresh image), are fetched; current ones are
    // used as they are, so that a machine behind a mirror that is down can still install.
    if !all_known(names) {
        run(&mut apt(&["update"]))?;
    }
    let install = || {
        let mut command = apt(&["install", "--yes", "--no-install-recommends", "--no-remove"]);
        command.args(names);
        command
    };
    // A list that has aged names files that the mirror no longer has: refresh once and try again.
    run(&mut install()).or_else(|_| {
        run(&mut apt(&["update"]))?;
        run(&mut install())
    })
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", LOCK_WAIT]).args(arguments);
    command
}

fn all_known(names: &[String]) -> bool {
    names.iter().all(|name| {
        capture(Command::new("apt-cache").args(["show", "--no-all-versions", name]))
            .is_ok_and(|text| !text.trim().is_empty())
    })
}

fn bpf_linker(version: &str, llvm: u32) -> Result<()> {
    // Without LLVM_PREFIX its build script takes the first llvm-config on PATH, of whatever version.
    let feature = format!("llvm-{llvm}");
    run(cargo_install("bpf-linker", version).env("LLVM_PREFIX", llvm_prefix(llvm)).args([
        "--force",
        "--no-default-features",
        "--features",
        &feature,
    ]))
    .context("compile bpf-linker")
}

fn cargo_install(name: &str, version: &str) -> Command {
    let mut command = cargo();
    // These belong to the build of this workspace; a tool is built in a folder of its own.
    for variable in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command.args(["install", name, "--locked", "--version", version]);
    command
}
