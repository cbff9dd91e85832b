//! Acting on a detection: what is due by mode and config, and the guard rails that hold whatever
//! the config says. The kernel half may have acted already; the daemon then finishes the job.
//!
//! Actions reach processes inside a monitored container only. The host, its init, the container
//! runtime, kubelet and Bulkhead itself are all outside of every container's cgroup, so the test
//! that each target's cgroup still is the container's keeps them out by construction rather than
//! by their names, which anyone may take.

pub mod kill;
pub mod policy;

use crate::container::Registry;
use crate::container::registry::Container;
use crate::event::{Event, HOST, ProcessKey, Rung, Verdict};
use crate::finding::{Action, Detection, EnforcedBy, Outcome};
use kill::KillError;
use policy::{Mode, Rules};

/// How many processes one detection may take with it. A fork bomb's descendants are beyond it;
/// what is left is found by its own events.
const MAX_TARGETS: usize = 256;

/// Acts on `detection`, made of `event`. `descendants` are the culprit's and accomplices'
/// processes that live now, as the caller's process tree has them; they are killed last.
pub fn act(
    rules: &Rules,
    registry: &Registry,
    event: &Event,
    detection: &Detection,
    descendants: &[ProcessKey],
) -> Outcome {
    let by_kernel = kernel_outcome(event);
    let action = rules.action(detection.kind);
    let due = action != Action::Alert && !detection.alert_only;
    if event.container == HOST {
        let refuse = due && rules.host_enforce && by_kernel == Outcome::Observed;
        return if refuse { refused("nothing is ever done to the host's own processes") } else { by_kernel };
    }
    let Some(container) = registry.get(event.container) else {
        // Protect may have been meant; without its record the targets cannot be checked.
        let missed = due && rules.default_mode == Mode::Protect && by_kernel == Outcome::Observed;
        return if missed { refused("the container is not known any more") } else { by_kernel };
    };
    if !due || !may_act(rules, &container) {
        return by_kernel;
    }
    // EPERM has settled what `deny` asks for; `kill` wants the culprit as well.
    if action == Action::Deny && matches!(by_kernel, Outcome::Denied { .. }) {
        return by_kernel;
    }
    finish(registry, &container, by_kernel, detection, descendants)
}

/// Is anything to be done to this container's processes?
fn may_act(rules: &Rules, container: &Container) -> bool {
    rules.mode(container) == Mode::Protect && rules.in_scope(container) == Some(true)
}

fn refused(why: &str) -> Outcome {
    Outcome::Refused { why: why.to_owned() }
}

/// What the kernel half did, in the words of a finding.
pub fn kernel_outcome(event: &Event) -> Outcome {
    let by = match event.rung {
        Rung::Lsm => EnforcedBy::Lsm,
        Rung::Cgroup => EnforcedBy::Cgroup,
        Rung::Signal | Rung::None => EnforcedBy::Signal,
    };
    match event.verdict {
        Verdict::Observed => Outcome::Observed,
        Verdict::Denied => Outcome::Denied { by },
        Verdict::Killed => Outcome::Killed { by, processes: vec![event.process.tgid] },
    }
}

/// Kills culprit, accomplices and descendants, in this order, and adds to what the kernel did.
fn finish(
    registry: &Registry,
    container: &Container,
    by_kernel: Outcome,
    detection: &Detection,
    descendants: &[ProcessKey],
) -> Outcome {
    let mut killed: Vec<u32> = Vec::new();
    let mut why: Option<KillError> = None;
    let targets = std::iter::once(&detection.culprit).chain(&detection.accomplices).chain(descendants);
    for (index, target) in targets.take(MAX_TARGETS).enumerate() {
        if killed.contains(&target.tgid) {
            continue;
        }
        // Somebody else's init goes down with its whole container: only if it is the culprit.
        let culprit = index == 0;
        if !culprit && kill::is_container_init(target.tgid) {
            continue;
        }
        match kill::kill(*target, container.key, registry) {
            Ok(()) => killed.push(target.tgid),
            Err(error) => {
                tracing::debug!(pid = target.tgid, %error, "not killed");
                // The culprit's reason is the one to be told.
                if why.is_none() {
                    why = Some(error);
                }
            }
        }
    }
    match by_kernel {
        Outcome::Killed { by, mut processes } => {
            killed.retain(|pid| !processes.contains(pid));
            processes.extend(killed);
            Outcome::Killed { by, processes }
        }
        // What was refused never happened: that is what is told, also if the culprit then was killed.
        denied @ Outcome::Denied { .. } => denied,
        other if killed.is_empty() => match (other, why) {
            (Outcome::Observed, Some(error)) => Outcome::Refused { why: error.to_string() },
            (other, _) => other,
        },
        _ => Outcome::Killed { by: EnforcedBy::Pidfd, processes: killed },
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
