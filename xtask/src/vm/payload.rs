//! What a guest is given besides its kernel and disk: the daemon, the privileged tests, the sources that
//! one of them reads, and its job.

use super::cpio::Archive;
use super::kernel::Kernel;
use super::matrix::Boot;
use crate::process::capture;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's static busybox, the first program of a guest.
const BUSYBOX: &str = "/usr/bin/busybox";

/// The programs under test.
pub struct Payload {
    archive: Vec<u8>,
}

impl Payload {
    /// Packs the daemon and further programs (name and file), without their debugging symbols, and files as
    /// they are.
    pub fn pack(
        daemon: &Path,
        programs: &[(String, PathBuf)],
        files: &[(String, PathBuf)],
        scratch: &Path,
    ) -> Result<Self> {
        let mut archive = Archive::default();
        archive.console();
        archive.file("init", 0o755, include_bytes!("guest/initramfs.sh"));
        archive.copy("bin/busybox", 0o755, Path::new(BUSYBOX)).context("Debian package busybox-static")?;
        archive.file("payload/run.sh", 0o755, include_bytes!("guest/run.sh"));
        archive.copy("payload/bulkhead", 0o755, &stripped(daemon, scratch)?)?;
        for (name, program) in programs {
            archive.copy(&format!("payload/{name}"), 0o755, &stripped(program, scratch)?)?;
        }
        for (name, file) in files {
            archive.copy(&format!("payload/{name}"), 0o755, file)?;
        }
        // Where the tests look for the prototypes that the programs rely on.
        archive.file("payload/tests/privileged/Cargo.toml", 0o644, b"");
        let probes = workspace::ebpf_dir().join("src/probes");
        for entry in fs::read_dir(&probes).with_context(|| format!("list {}", probes.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name().filter(|_| path.is_file()) else { continue };
            archive.copy(&format!("payload/monitor-ebpf/src/probes/{}", name.to_string_lossy()), 0o644, &path)?;
        }
        Ok(Self { archive: archive.finish() })
    }

    /// Writes the initramfs of one boot and returns its path.
    pub fn initramfs(&self, boot: &Boot, kernel: &Kernel, job: &str, folder: &Path) -> Result<PathBuf> {
        let mut own = Archive::default();
        kernel.add_modules(&mut own)?;
        own.file("payload/job", 0o644, format!("layout={}\njob() {{\n{job}}}\n", boot.layout).as_bytes());
        let path = folder.join("initramfs");
        let bytes = [self.archive.as_slice(), &own.finish()].concat();
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

fn stripped(program: &Path, scratch: &Path) -> Result<PathBuf> {
    let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
    let copy = scratch.join(name);
    capture(Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program))
        .with_context(|| format!("strip {}", program.display()))?;
    Ok(copy)
}

/// Compiles the privileged tests, optimised as the daemon is, since an emulated processor is slow; returns the program.
pub fn build_tests() -> Result<PathBuf> {
    let mut command = crate::process::cargo();
    let arguments = ["test", "--locked", "--release", "--package", "privileged", "--no-run"];
    command.current_dir(workspace::root()).args(arguments);
    crate::process::run(&mut command).context("compile the privileged tests")?;
    let messages = capture(command.args(["--quiet", "--message-format=json"]))?;
    let found = crate::test::artefacts::parse(&messages)?;
    match found.into_iter().find(|binary| binary.name == crate::test::artefacts::PRIVILEGED) {
        Some(binary) => Ok(binary.executable),
        None => bail!("cargo reports no program of the privileged tests"),
    }
}
