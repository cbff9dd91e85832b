//! `bulkhead check`: the ladder on this host. Loads and attaches each program to hear the kernel's
//! answer, for a moment and for the whole host, with nothing enforced; leaves nothing behind.

use super::{CheckArgs, CliError, CliResult, Exit, Printed, print, run};
use crate::container::hierarchy;
use crate::kernel::hooks::Power;
use crate::kernel::ladder::{Ladder, State};
use crate::kernel::loader::{Kernel, Options};
use crate::kernel::{btf, mounts, object};
use monitor_common::state::Config;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Prints the ladder.
pub fn main(args: &CheckArgs) -> CliResult {
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::new(Exit::Privilege, unprivileged()));
    }
    super::log::start(crate::config::Level::Error);
    mounts::tracefs().map_err(|error| CliError::failure(error.to_string()))?;
    let watched = hierarchy::detect().map_err(|error| CliError::new(Exit::Kernel, error.to_string()))?;
    let (root, private) = hierarchy::unified_or_private(Path::new("/run/bulkhead/check-cgroup2"))
        .map_err(|error| CliError::new(Exit::Kernel, error.to_string()))?;
    let started = std::time::Instant::now();
    let (kernel, _rings) = Kernel::load(&Options {
        object: object::BYTES,
        hierarchy: watched.id,
        controller: &watched.controller,
        cgroup_root: &root,
        // Host processes are not watched, nothing is enforced: the programs see and do nothing.
        config: Config { self_tgid: std::process::id(), ..Config::default() },
        avoid: &[],
        pins: None,
    })
    .map_err(run::load_error)?;
    let took = started.elapsed();
    let text = if args.json { json(kernel.ladder(), &watched, took)? } else { table(kernel.ladder(), &watched) };
    drop(kernel);
    drop(private);
    let (Printed::Yes | Printed::ReaderGone) = print(&text)?;
    Ok(Exit::Ok)
}

/// What can be said without root.
fn unprivileged() -> String {
    let type_information =
        if Path::new(btf::VMLINUX).exists() { "present" } else { "missing (CONFIG_DEBUG_INFO_BTF=y is needed)" };
    format!(
        "check loads eBPF programs to hear the kernel's answer, which needs root: run it with sudo \
         (kernel {}, type information {type_information})",
        rustix::system::uname().release().to_string_lossy()
    )
}

fn json(ladder: &Ladder, watched: &hierarchy::Hierarchy, took: Duration) -> Result<String, CliError> {
    let value = serde_json::json!({
        "kernel": rustix::system::uname().release().to_string_lossy(),
        "cgroup": { "mount": watched.mount, "controller": watched.controller, "hierarchy": watched.id },
        "ladder": ladder,
        "blind": ladder.blind(),
        // Opening the object, and loading and attaching every program.
        "load_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    let text = serde_json::to_string(&value).map_err(|error| CliError::failure(error.to_string()))?;
    Ok(text + "\n")
}

fn table(ladder: &Ladder, watched: &hierarchy::Hierarchy) -> String {
    let mut text = format!(
        "kernel {}; containers are told by the {} cgroup hierarchy at {}\n\n",
        rustix::system::uname().release().to_string_lossy(),
        if watched.controller.is_empty() { "unified" } else { &watched.controller },
        watched.mount.display()
    );
    let _ =
        writeln!(text, "{:<13} {:<20} {:<10} {:<8} {:<10} attached to", "fact", "program", "state", "can", "verified");
    for step in &ladder.steps {
        let state = match step.state {
            State::Active => "active",
            State::NotNeeded => "not needed",
            State::Refused => "refused",
        };
        let power = match step.power {
            Power::Deny => "deny",
            Power::Kill => "kill",
            Power::Observe => "observe",
        };
        let fact = serde_json::to_value(step.fact).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let _ = writeln!(
            text,
            "{fact:<13} {:<20} {state:<10} {power:<8} {:<10} {}",
            step.program, step.verified, step.target
        );
        if step.state == State::NotNeeded && !step.why.is_empty() {
            let _ = writeln!(text, "{:<13} not to be had either: {}", "", step.why);
        }
        if step.state == State::Refused {
            let _ = writeln!(text, "{:<13} refused: {}", "", step.why);
            let told = ladder.steps.iter().any(|other| other.fact == step.fact && other.state == State::Active);
            if !told {
                let _ = writeln!(text, "{:<13} without it: {}", "", step.without);
            }
        }
    }
    if !ladder.missing_fields.is_empty() {
        let _ = writeln!(text, "\nthis kernel lacks: {}", ladder.missing_fields.join(", "));
    }
    let _ = writeln!(text, "\n{}", advice(ladder));
    text
}

/// What to do for a better rung.
fn advice(ladder: &Ladder) -> &'static str {
    let lsm = ladder.steps.iter().any(|step| step.door == "lsm" && step.state == State::Active);
    if lsm {
        "BPF LSM is active: what is denied never happens."
    } else {
        "BPF LSM is not available: opens are stopped by a kill before the call returns instead of a denial. \
         A kernel with CONFIG_BPF_LSM=y and `bpf` in its lsm= boot parameter gives the better rung."
    }
}
