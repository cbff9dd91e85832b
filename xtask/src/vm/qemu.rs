//! QEMU: the machine's own, or Debian's, installed if that fits with what is there, else unpacked into the cache. A
//! machine that has a newer part of QEMU (its disk tools from backports, say) refuses the rest of this release's.

use crate::lab::process::{self, Interrupt};
use crate::process::{find, is_root, run};
use crate::setup::install;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// QEMU's program for this machine's architecture.
const PROGRAM: &str = "qemu-system-x86_64";
/// The Debian package that has it. Those that belong to it have names that begin alike and are unpacked with it; what else
/// it depends on is installed.
const PACKAGE: &str = "qemu-system-x86";
const OWN: &str = "qemu-";
/// Where seabios puts the firmware.
const FIRMWARE: &str = "/usr/share/seabios";
/// Two packages of some 10 MB.
const LIMIT: Duration = Duration::from_secs(600);

/// A QEMU that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    program: PathBuf,
    /// Root of the unpacked packages; `None` for an installed one.
    unpacked: Option<PathBuf>,
}

impl Qemu {
    /// Finds one, or gets one and says how.
    pub fn ready(cache: &Path, interrupt: &Interrupt) -> Result<Self> {
        let folder = cache.join("qemu");
        if let Some(there) = Self::there(&folder) {
            return Ok(there);
        }
        if find("apt-get").is_none() || !is_root() {
            bail!("{PROGRAM} is missing: `apt-get install --no-install-recommends {PACKAGE}`");
        }
        eprintln!("vm: installing {PACKAGE}");
        if let Err(error) = install::packages(&[PACKAGE.to_owned()]) {
            eprintln!("vm: {error:#}; unpacking it into {} instead", folder.display());
            unpack(&folder, interrupt).with_context(|| format!("unpack {PACKAGE}"))?;
        }
        Self::there(&folder).with_context(|| format!("{PACKAGE} has no {PROGRAM}"))
    }

    fn there(folder: &Path) -> Option<Self> {
        let unpacked = folder.join("usr/bin").join(PROGRAM);
        match find(PROGRAM) {
            Some(program) => Some(Self { program, unpacked: None }),
            None if unpacked.exists() => Some(Self { program: unpacked, unpacked: Some(folder.to_owned()) }),
            None => None,
        }
    }

    /// A command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.unpacked {
            // Data and modules are looked for where the package would have put them.
            command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
            command.arg("-L").arg(root.join("usr/share/qemu")).args(["-L", FIRMWARE]);
        }
        command
    }
}

fn unpack(folder: &Path, interrupt: &Interrupt) -> Result<()> {
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces"]);
    let depends = process::must(depends.arg(PACKAGE), LIMIT, interrupt)?;
    let (own, others) = divide(&depends);
    install::packages(&others)?;
    let part = folder.with_extension("part");
    let _absent = fs::remove_dir_all(&part);
    fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    let mut download = Command::new("apt-get");
    download.args(["-o", "APT::Sandbox::User=root", "download", PACKAGE]).args(&own).current_dir(&part);
    process::must(&mut download, LIMIT, interrupt)?;
    for entry in fs::read_dir(&part)?.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "deb")) {
        run(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&part))?;
        fs::remove_file(entry.path())?;
    }
    // Renamed when complete: an interrupted download leaves no half program behind.
    fs::rename(&part, folder).with_context(|| format!("keep {}", folder.display()))
}

/// What the package depends on: parts of QEMU, and others.
fn divide(depends: &str) -> (Vec<String>, Vec<String>) {
    let names = depends.lines().filter_map(|line| line.trim_start().strip_prefix("Depends: "));
    names.map(str::to_owned).partition(|name| name.starts_with(OWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_parts_are_told_from_libraries() {
        let depends = "qemu-system-x86\n  Depends: libaio1\n  Depends: qemu-system-common\n  Depends: seabios\n";
        let (own, others) = divide(depends);
        assert_eq!(own, ["qemu-system-common"]);
        assert_eq!(others, ["libaio1", "seabios"]);
    }

    #[test]
    fn an_unpacked_one_is_told_where_its_files_are() {
        let qemu = Qemu { program: "/c/usr/bin/q".into(), unpacked: Some("/c".into()) };
        let command = qemu.command();
        let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(arguments, ["-L", "/c/usr/share/qemu", "-L", FIRMWARE]);
        let installed = Qemu { program: "/usr/bin/q".into(), unpacked: None };
        assert_eq!(installed.command().get_args().count(), 0);
    }
}
