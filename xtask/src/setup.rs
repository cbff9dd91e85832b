//! `cargo xtask setup`: finds out which eBPF toolchain this machine can have, and installs what is missing.
//! Looking ([`machine`]) and deciding ([`plan`]) are apart from doing ([`install`]), so that the decisions
//! can be tested for machines other than this one.

pub mod install;
pub mod machine;
pub mod plan;

use crate::process::{Failure, is_root};
use crate::workspace;
use anyhow::{Context, Result, bail};
use machine::Machine;
use plan::{Plan, Toolchain};

/// What the machine is to be made ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Building both halves.
    Build,
    /// Building, and the tests that need containers.
    Test,
}

/// Makes the machine ready and says what was done; does nothing where nothing is missing.
pub fn run(purpose: Purpose) -> Result<Toolchain> {
    let versions = workspace::versions()?;
    let machine = Machine::look(&versions);
    let plan = plan::decide(&machine, &versions, purpose)?;
    if plan.steps.is_empty() {
        eprintln!(
            "setup: eBPF toolchain: {}; nothing to install",
            plan.toolchain
        );
        return Ok(plan.toolchain);
    }
    eprintln!("setup: eBPF toolchain: {}", plan.toolchain);
    refuse_without_root(&plan)?;
    for step in &plan.steps {
        eprintln!("setup: installing {step}");
        install::carry_out(step).with_context(|| format!("install {step}"))?;
    }
    confirm(purpose)
}

/// The toolchain of a machine that is ready to build, or what stands in the way.
pub fn ready_toolchain() -> Result<Toolchain> {
    let versions = workspace::versions()?;
    let plan = plan::decide(&Machine::look(&versions), &versions, Purpose::Build)?;
    if !plan.steps.is_empty() {
        let missing: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        bail!(
            "the eBPF half cannot be built here yet; missing: {}; run `cargo xtask setup`",
            missing.join("; ")
        );
    }
    Ok(plan.toolchain)
}

fn refuse_without_root(plan: &Plan) -> Result<()> {
    let needs_root: Vec<String> = plan
        .steps
        .iter()
        .filter(|step| step.needs_root())
        .map(plan::Step::command_line)
        .collect();
    if needs_root.is_empty() || is_root() {
        return Ok(());
    }
    let commands: String = needs_root
        .iter()
        .map(|line| format!("\n  sudo {line}"))
        .collect();
    Err(Failure::privilege(format!(
        "installing packages needs root. Run\n  sudo apt-get update{commands}\n  cargo xtask setup"
    )))
}

/// Looks again after the installation: a package that installed but does not fit is found here rather
/// than in the middle of a build.
fn confirm(purpose: Purpose) -> Result<Toolchain> {
    let versions = workspace::versions()?;
    let plan = plan::decide(&Machine::look(&versions), &versions, purpose)?;
    if plan.steps.is_empty() {
        eprintln!("setup: done");
        return Ok(plan.toolchain);
    }
    let missing: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    bail!(
        "still missing after the installation: {}",
        missing.join("; ")
    )
}
