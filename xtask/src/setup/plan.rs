//! What to install, decided from what is there. Pure.

use super::Purpose;
use super::machine::{Compiler, Machine};
use crate::workspace::Versions;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::fmt;

/// A compiler that can build `core` for the BPF target, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's nightly with `rust-src`: what the eBPF world uses.
    Nightly(String),
    /// The default compiler with `rust-src`, told to accept unstable flags for this one build.
    Default(String),
    /// Debian's `rustc-web` with `rust-web-src`, the same way, under rustup's cargo.
    Debian(String),
}

impl fmt::Display for Toolchain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly(release) => write!(formatter, "rustup nightly ({release}) with rust-src"),
            Self::Default(release) => write!(formatter, "rustc {release} with rust-src"),
            Self::Debian(release) => write!(formatter, "Debian's rustc-web ({release}) with rust-web-src"),
        }
    }
}

/// One thing to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Debian packages.
    Packages(Vec<String>),
    /// bpf-linker from crates.io, built against Debian's LLVM.
    BpfLinker {
        /// Version.
        version: String,
        /// LLVM's major version.
        llvm: u32,
    },
}

impl Step {
    /// Whether only root can do it.
    pub fn needs_root(&self) -> bool {
        matches!(self, Self::Packages(_))
    }

    /// As one would type it.
    pub fn command_line(&self) -> String {
        match self {
            Self::Packages(names) => format!("apt-get install --no-install-recommends {}", names.join(" ")),
            Self::BpfLinker { version, llvm } => format!(
                "LLVM_PREFIX={} cargo install bpf-linker --locked --version {version} \
                 --no-default-features --features llvm-{llvm}",
                llvm_prefix(*llvm)
            ),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(names) => write!(formatter, "Debian packages {}", names.join(", ")),
            Self::BpfLinker { version, llvm } => {
                write!(formatter, "bpf-linker {version} with LLVM {llvm} (compiled here, some minutes)")
            }
        }
    }
}

/// The compiler to use and what is missing for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Compiler for the eBPF half.
    pub toolchain: Toolchain,
    /// In order.
    pub steps: Vec<Step>,
}

/// Where Debian puts an LLVM.
pub fn llvm_prefix(llvm: u32) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

/// What the tests' containers are made with: program looked for, package that holds it. An engine from
/// another source (docker-ce) is as good, so programs count, not packages.
const TEST_PROGRAMS: &[(&str, &str)] = &[
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("debootstrap", "debootstrap"),
    ("ip", "iproute2"),
    // For the guests of `cargo xtask vm`, which sees to QEMU itself: their disk, their kernels' modules.
    ("mke2fs", "e2fsprogs"),
    ("xz", "xz-utils"),
];

/// Only the package tells whether busybox is the static one, which runs in an otherwise empty image.
const TEST_PACKAGE: &str = "busybox-static";

/// Programs [`decide`] wants to know about.
pub fn asked_programs() -> impl Iterator<Item = &'static str> {
    TEST_PROGRAMS.iter().map(|(program, _)| *program).chain(["c++"])
}

/// Packages [`decide`] wants to know about.
pub fn asked_packages(versions: &Versions) -> Vec<String> {
    let mut names = llvm_packages(versions.bpf_linker.llvm);
    names.extend(versions.ebpf.debian_compiler.iter().cloned());
    names.push(TEST_PACKAGE.to_owned());
    names
}

fn llvm_packages(llvm: u32) -> Vec<String> {
    vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "zlib1g-dev".to_owned(), "libzstd-dev".to_owned()]
}

/// Decides what this machine needs. An error says why it cannot be made ready.
pub fn decide(machine: &Machine, versions: &Versions, purpose: Purpose) -> Result<Plan> {
    let llvm = versions.bpf_linker.llvm;
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let toolchain = match present_toolchain(machine, llvm) {
        Some(toolchain) => toolchain,
        None => {
            if !machine.has_apt {
                bail!(
                    "no Rust compiler with LLVM {llvm} and its library source, and no apt to install Debian's: \
                     run `rustup toolchain install nightly --profile minimal --component rust-src` \
                     (a nightly whose `rustc -vV` says LLVM {llvm})"
                );
            }
            wanted.extend(missing(machine, &versions.ebpf.debian_compiler));
            if wanted.is_empty() {
                bail!("{}", misfit(machine.debian.as_ref(), llvm));
            }
            Toolchain::Debian("to be installed".to_owned())
        }
    };
    let has_linker = machine.bpf_linker.as_deref() == Some(&versions.bpf_linker.version);
    if !has_linker && machine.has_apt {
        wanted.extend(missing(machine, &llvm_packages(llvm)));
        wanted.extend((!machine.programs.contains("c++")).then(|| "g++".to_owned()));
    }
    if purpose == Purpose::Test {
        wanted.extend(missing_for_tests(machine)?);
    }
    let mut steps = Vec::new();
    if !wanted.is_empty() {
        steps.push(Step::Packages(wanted.into_iter().collect()));
    }
    if !has_linker {
        steps.push(Step::BpfLinker { version: versions.bpf_linker.version.clone(), llvm });
    }
    Ok(Plan { toolchain, steps })
}

fn present_toolchain(machine: &Machine, llvm: u32) -> Option<Toolchain> {
    let fits = |compiler: &&Compiler| compiler.has_source && compiler.llvm == llvm;
    let release = |compiler: &Option<Compiler>| compiler.as_ref().filter(fits).map(|compiler| compiler.release.clone());
    (release(&machine.nightly).map(Toolchain::Nightly))
        .or_else(|| release(&machine.default).map(Toolchain::Default))
        .or_else(|| release(&machine.debian).map(Toolchain::Debian))
}

fn missing(machine: &Machine, packages: &[String]) -> Vec<String> {
    packages.iter().filter(|name| !machine.packages.contains(*name)).cloned().collect()
}

fn missing_for_tests(machine: &Machine) -> Result<Vec<String>> {
    let mut wanted: Vec<String> = TEST_PROGRAMS
        .iter()
        .filter(|(program, _)| !machine.programs.contains(*program))
        .map(|(_, package)| (*package).to_owned())
        .collect();
    if !machine.has_apt {
        if wanted.is_empty() {
            return Ok(wanted);
        }
        bail!("the container tests need {}, and there is no apt to install them", wanted.join(", "));
    }
    wanted.extend(missing(machine, &[TEST_PACKAGE.to_owned()]));
    Ok(wanted)
}

fn misfit(debian: Option<&Compiler>, llvm: u32) -> String {
    match debian {
        Some(compiler) => format!(
            "Debian's rustc {} has LLVM {}, the pinned bpf-linker has {llvm}: bump bpf_linker.llvm in \
             xtask/versions.toml, or install the nightly of that LLVM with rust-src",
            compiler.release, compiler.llvm
        ),
        None => "Debian's compiler packages are installed, but /usr/bin/rustc does not run".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::workspace::versions;

    fn compiler(llvm: u32, has_source: bool) -> Option<Compiler> {
        Some(Compiler { release: format!("1.{llvm}"), llvm, has_source })
    }

    /// A machine that lacks nothing and builds with Debian's compiler.
    fn complete() -> Machine {
        let versions = versions().unwrap();
        Machine {
            nightly: None,
            default: compiler(22, false),
            debian: compiler(22, true),
            bpf_linker: Some(versions.bpf_linker.version.clone()),
            has_apt: true,
            packages: asked_packages(&versions).into_iter().collect(),
            programs: asked_programs().map(str::to_owned).collect(),
        }
    }

    fn decide_for(machine: &Machine, purpose: Purpose) -> Result<Plan> {
        decide(machine, &versions().unwrap(), purpose)
    }

    #[test]
    fn a_complete_machine_needs_nothing() {
        let plan = decide_for(&complete(), Purpose::Test).unwrap();
        assert_eq!(plan.toolchain, Toolchain::Debian("1.22".to_owned()));
        assert_eq!(plan.steps, []);
    }

    #[test]
    fn a_fresh_debian_gets_compiler_linker_and_engine() {
        let machine = Machine { default: compiler(22, false), has_apt: true, ..Machine::default() };
        let plan = decide_for(&machine, Purpose::Test).unwrap();
        let [Step::Packages(names), Step::BpfLinker { version, llvm: 22 }] = &plan.steps[..] else {
            panic!("{:?}", plan.steps);
        };
        for name in ["rustc-web", "rust-web-src", "llvm-22-dev", "libpolly-22-dev", "docker.io", "g++"] {
            assert!(names.iter().any(|found| found == name), "{name} not in {names:?}");
        }
        assert_eq!(names.iter().filter(|name| *name == "docker.io").count(), 1);
        assert_eq!(*version, versions().unwrap().bpf_linker.version);
    }

    #[test]
    fn building_does_not_need_an_engine() {
        let machine = Machine { programs: BTreeSet::from(["c++".to_owned()]), ..complete() };
        assert_eq!(decide_for(&machine, Purpose::Build).unwrap().steps, []);
        assert_eq!(decide_for(&machine, Purpose::Test).unwrap().steps.len(), 1);
    }

    #[test]
    fn nightly_with_source_comes_first_without_source_not_at_all() {
        let with = Machine { nightly: compiler(22, true), ..complete() };
        assert!(matches!(decide_for(&with, Purpose::Build).unwrap().toolchain, Toolchain::Nightly(_)));
        let without = Machine { nightly: compiler(22, false), ..complete() };
        assert!(matches!(decide_for(&without, Purpose::Build).unwrap().toolchain, Toolchain::Debian(_)));
    }

    #[test]
    fn a_compiler_of_another_llvm_does_not_count() {
        let machine = Machine { nightly: compiler(23, true), default: compiler(22, true), ..complete() };
        assert!(matches!(decide_for(&machine, Purpose::Build).unwrap().toolchain, Toolchain::Default(_)));
    }

    #[test]
    fn a_debian_compiler_that_moved_on_is_an_error_that_says_so() {
        let machine = Machine { debian: compiler(23, true), ..complete() };
        let error = decide_for(&machine, Purpose::Build).unwrap_err().to_string();
        assert!(error.contains("LLVM 23") && error.contains("versions.toml"), "{error}");
    }

    #[test]
    fn another_linker_version_is_replaced_without_packages_it_has() {
        let machine = Machine { bpf_linker: Some("0.10.4".to_owned()), ..complete() };
        let steps = decide_for(&machine, Purpose::Build).unwrap().steps;
        assert!(matches!(&steps[..], [Step::BpfLinker { .. }]), "{steps:?}");
    }

    #[test]
    fn without_apt_the_error_names_the_rustup_command() {
        let machine = Machine { default: compiler(22, false), ..Machine::default() };
        let error = decide_for(&machine, Purpose::Build).unwrap_err().to_string();
        assert!(error.contains("rustup toolchain install nightly"), "{error}");
    }

    #[test]
    fn steps_read_as_one_would_type_them() {
        let packages = Step::Packages(vec!["rustc-web".to_owned(), "docker.io".to_owned()]);
        assert!(packages.needs_root());
        assert_eq!(packages.command_line(), "apt-get install --no-install-recommends rustc-web docker.io");
        let linker = Step::BpfLinker { version: "0.13.0".to_owned(), llvm: 22 };
        assert!(!linker.needs_root(), "cargo install writes to the user's own folder");
        let expected = "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --locked --version 0.13.0 \
                        --no-default-features --features llvm-22";
        assert_eq!(linker.command_line(), expected);
    }
}
