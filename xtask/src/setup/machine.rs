//! What this machine has: compilers with their library source, the linker, packages.

use crate::process::{capture, find};
use crate::workspace::Versions;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's compiler, whatever rustup puts before it on `PATH`.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler and whether its standard library's source lies beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// As `rustc -vV` gives it.
    pub release: String,
    /// Major version of its LLVM.
    pub llvm: u32,
    /// Whether `core` can be compiled from source with it.
    pub has_source: bool,
}

/// Facts a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// rustup's nightly.
    pub nightly: Option<Compiler>,
    /// The compiler that `rustc` on `PATH` starts.
    pub default: Option<Compiler>,
    /// The one Debian installs.
    pub debian: Option<Compiler>,
    /// Version of the bpf-linker found, if it runs.
    pub bpf_linker: Option<String>,
    /// Whether packages are managed by apt.
    pub has_apt: bool,
    /// Debian packages known to be installed, of those anybody asked about.
    pub packages: BTreeSet<String>,
    /// Programs found, of those anybody asked about.
    pub programs: BTreeSet<String>,
}

impl Machine {
    /// Looks around. What cannot be found out counts as absent.
    pub fn look(versions: &Versions) -> Self {
        let packages = super::plan::asked_packages(versions);
        Self {
            nightly: find("rustup").and_then(|rustup| {
                compiler(|| {
                    let mut command = Command::new(&rustup);
                    command.args(["run", "nightly", "rustc"]);
                    command
                })
            }),
            default: compiler(|| Command::new("rustc")),
            debian: Path::new(DEBIAN_RUSTC).exists().then(|| compiler(|| Command::new(DEBIAN_RUSTC))).flatten(),
            bpf_linker: bpf_linker_version(),
            has_apt: find("apt-get").is_some(),
            packages: packages.into_iter().filter(|name| package_installed(name)).collect(),
            programs: super::plan::asked_programs().filter(|name| find(name).is_some()).map(str::to_owned).collect(),
        }
    }
}

fn compiler(start: impl Fn() -> Command) -> Option<Compiler> {
    // Asked from the root folder, so that a rust-toolchain file of some project does not answer.
    let ask = |argument: &[&str]| capture(start().args(argument).current_dir("/")).ok();
    let (release, llvm) = parse_version(&ask(&["-vV"])?)?;
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    Some(Compiler { release, llvm, has_source: source.exists() })
}

/// Release and LLVM's major version from the output of `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?.trim().to_owned();
    let llvm = field("LLVM version: ")?.split('.').next()?.trim().parse().ok()?;
    Some((release, llvm))
}

/// A linker whose LLVM library is gone does not start, and so counts as absent.
fn bpf_linker_version() -> Option<String> {
    let said = capture(Command::new(find("bpf-linker")?).arg("--version")).ok()?;
    Some(said.trim().strip_prefix("bpf-linker ")?.to_owned())
}

fn package_installed(name: &str) -> bool {
    capture(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", name]))
        .is_ok_and(|status| status.trim() == "installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rustc_version() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("release: 1.96.0\n"), None);
        assert_eq!(parse_version(""), None);
    }
}
