//! `cargo xtask check`: everything that can be said about the tree without running it. All steps run; the
//! failed ones are named at the end.

use crate::build::{self, Profile};
use crate::process::{capture, cargo, find, run};
use crate::setup::machine::DEBIAN_RUSTC;
use crate::setup::plan::Toolchain;
use crate::setup::{self, install};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Debian's clippy of the same compiler, from the package `rust-web-clippy`.
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";

/// Runs every step.
pub fn check() -> Result<()> {
    let steps: [(&str, fn() -> Result<()>); 5] = [
        ("formatting", formatting),
        ("clippy", clippy),
        ("clippy of the eBPF half", ebpf_clippy),
        ("dependencies and licences", dependencies),
        ("generated files", generated_files),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        if let Err(error) = step() {
            eprintln!("check: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    println!("check: all good");
    Ok(())
}

fn has_ebpf() -> bool {
    workspace::ebpf_dir().join("Cargo.toml").exists()
}

fn formatting() -> Result<()> {
    run(cargo()
        .current_dir(workspace::root())
        .args(["fmt", "--all", "--check"]))?;
    if has_ebpf() {
        run(cargo()
            .current_dir(workspace::ebpf_dir())
            .args(["fmt", "--check"]))?;
    }
    Ok(())
}

fn clippy() -> Result<()> {
    let arguments = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    run(cargo().current_dir(workspace::root()).args(arguments))
}

/// Clippy must be of the very compiler that builds the eBPF half: another cannot read its `core`.
fn ebpf_clippy() -> Result<()> {
    if !has_ebpf() {
        bail!("no eBPF crate in {}", workspace::ebpf_dir().display());
    }
    let toolchain = match setup::ready_toolchain() {
        Ok(toolchain) => toolchain,
        Err(error) => {
            println!("check: clippy of the eBPF half left out: {error:#}");
            return Ok(());
        }
    };
    let versions = workspace::versions()?;
    let mut command = build::inner_cargo(&toolchain);
    match &toolchain {
        Toolchain::Debian(_) if !Path::new(DEBIAN_CLIPPY).exists() => {
            println!(
                "check: clippy of the eBPF half left out: {DEBIAN_RUSTC} has none; `apt-get install rust-web-clippy`"
            );
            return Ok(());
        }
        // What `cargo clippy` does, without rustup's cargo-clippy, which would start rustup's driver.
        Toolchain::Debian(_) => command
            .env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY)
            .env(
                "CLIPPY_ARGS",
                "--deny__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
            )
            .args(["check", "--locked", "--release"])
            .args(build::target_flags(&versions)),
        Toolchain::Nightly(_) | Toolchain::Default(_) => command
            .args(["clippy", "--locked", "--release"])
            .args(build::target_flags(&versions))
            .args(["--", "--deny", "warnings"]),
    };
    run(&mut command)
}

fn dependencies() -> Result<()> {
    let version = workspace::versions()?.cargo_deny.version;
    let program = || find("cargo-deny");
    let present = program()
        .and_then(|path| capture(Command::new(path).arg("--version")).ok())
        .is_some_and(|said| said.trim() == format!("cargo-deny {version}"));
    if !present {
        install::from_crates("cargo-deny", &version)?;
    }
    let program = program().context("cargo-deny was installed but is not found")?;
    let root = workspace::root();
    let manifests = [
        Some(root.join("Cargo.toml")),
        has_ebpf().then(|| workspace::ebpf_dir().join("Cargo.toml")),
    ];
    for manifest in manifests.into_iter().flatten() {
        // Advisories are left to a machine that can fetch the database; they change without the tree.
        run(Command::new(&program)
            .current_dir(&root)
            .args(["--all-features", "--locked", "--manifest-path"])
            .arg(manifest)
            .args(["check", "--config"])
            .arg(root.join("deny.toml"))
            .args(["bans", "licenses", "sources"]))?;
    }
    Ok(())
}

/// The sample config, the reference of findings and the alerts' schema come from the daemon's own types.
fn generated_files() -> Result<()> {
    let daemon = build::daemon(Profile::Dev)?;
    run(Command::new(daemon)
        .current_dir(workspace::root())
        .args(["docs", "--check"]))
    .context("stale; run `cargo run --package monitor -- docs --write .`")
}
