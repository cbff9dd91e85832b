//! Acting on a detection or an order: what is due by mode and config, and the guard rails that hold whatever
//! the config says. The kernel half may have acted already; the daemon then finishes the job.
//!
//! Actions reach processes inside a monitored container only. The host, its init, the container
//! runtime, kubelet and Bulkhead itself are all outside of every container's cgroup, so the test
//! that each target's cgroup still is the container's keeps them out by construction rather than
//! by their names, which anyone may take.

pub mod exceptions;
pub mod freezer;
pub mod held;
pub mod kill;
pub mod kill_set;
pub mod network;
pub mod order;
pub mod policy;
pub mod reflex;

use crate::container::Registry;
use crate::container::registry::Container;
use crate::event::{Event, HOST, ProcessKey, Rung, Verdict};
use crate::finding::{Action, Detection, EnforcedBy, Outcome};
use crate::response::{Deed, Done, Report};
pub use held::Held;
use kill::KillError;
use kill_set::Hunt;
use policy::{Mode, Rules};
pub use reflex::Reflex;

/// How many processes one detection names at most. What descends from them is found by its line.
const MAX_TARGETS: usize = 256;

/// Asks the engine to stop a container, by its runtime id; the answer comes later.
pub type Stop = Box<dyn Fn(&Container) -> Result<(), String> + Send>;

/// What a response is made with.
pub struct Means<'a> {
    /// What is to be done.
    pub rules: &'a Rules,
    /// Who is who.
    pub registry: &'a Registry,
    /// The kernel half.
    pub reflex: &'a mut dyn Reflex,
    /// What is done already.
    pub held: &'a mut Held,
    /// The engine, if one is configured.
    pub stop: Option<&'a Stop>,
}

/// What was done about a detection.
#[derive(Debug)]
pub struct Acted {
    /// For the finding.
    pub outcome: Outcome,
    /// For the record.
    pub reports: Vec<Report>,
    /// A kill to be gone on with once the finding is told: newborn members die in the kernel meanwhile.
    pub hunt: Option<Hunt>,
}

impl From<Outcome> for Acted {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, reports: Vec::new(), hunt: None }
    }
}

/// Acts on `detection`, made of `event`. `descendants` are the culprit's and accomplices'
/// processes that live now, as the caller's process tree has them; they are killed last.
pub fn act(means: &mut Means<'_>, event: &Event, detection: &Detection, descendants: &[ProcessKey]) -> Acted {
    let by_kernel = kernel_outcome(event);
    let rules = means.rules;
    let action = rules.action(detection.kind);
    let due = action != Action::Alert && !detection.alert_only;
    if event.container == HOST {
        let refuse = due && rules.host_enforce && by_kernel == Outcome::Observed;
        return if refuse { refused("nothing is ever done to the host's own processes") } else { by_kernel }.into();
    }
    let Some(container) = means.registry.get(event.container) else {
        // Protect may have been meant; without its record the targets cannot be checked.
        let missed = due && rules.default_mode == Mode::Protect && by_kernel == Outcome::Observed;
        return if missed { refused("the container is not known any more") } else { by_kernel }.into();
    };
    if !due || !may_act(rules, &container) {
        return by_kernel.into();
    }
    match action {
        Action::Alert => by_kernel.into(),
        // EPERM has settled what `deny` asks for; `kill` wants the culprit as well.
        Action::Deny if matches!(by_kernel, Outcome::Denied { .. }) => by_kernel.into(),
        Action::Deny | Action::Kill => finish(means, &container, by_kernel, detection, descendants),
        Action::Freeze | Action::Quarantine | Action::Stop => contain(means, &container, by_kernel, action),
    }
}

/// Is anything to be done to this container's processes?
pub fn may_act(rules: &Rules, container: &Container) -> bool {
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

/// Does to the whole container what is configured; what is done already is not done again.
fn contain(means: &mut Means<'_>, container: &Container, by_kernel: Outcome, action: Action) -> Acted {
    let (held, registry) = (&mut *means.held, means.registry);
    let (already, outcome) = match action {
        Action::Quarantine => (held.is_quarantined(container.key), Outcome::Quarantined),
        Action::Freeze => (held.is_frozen(container.key), Outcome::Frozen),
        _ => (held.is_stopping(container.key), Outcome::Stopping),
    };
    if already {
        return outcome.into();
    }
    let deed = match action {
        Action::Quarantine => Deed::Quarantine,
        Action::Freeze => Deed::Freeze,
        _ => Deed::Stop,
    };
    let report = match order::allowed(means.rules, registry, container, deed) {
        Err(error) => Report { deed, result: Err(error.to_string()), took_us: 0 },
        Ok(()) => match deed {
            Deed::Quarantine => held.quarantine(means.reflex, registry, means.rules, container),
            Deed::Freeze => held.freeze(registry, container),
            _ => ask_to_stop(means.stop, container),
        },
    };
    match (&report.result, by_kernel) {
        // That a container is being stopped is told when it is.
        (Ok(_), Outcome::Observed) if deed == Deed::Stop => outcome.into(),
        (Ok(_), Outcome::Observed) => Acted { outcome, reports: vec![report], hunt: None },
        (Err(why), Outcome::Observed) => {
            Acted { outcome: Outcome::Refused { why: why.clone() }, reports: vec![report], hunt: None }
        }
        (_, by_kernel) => Acted { outcome: by_kernel, reports: vec![report], hunt: None },
    }
}

fn ask_to_stop(stop: Option<&Stop>, container: &Container) -> Report {
    Report::of(Deed::Stop, || match stop {
        Some(stop) => stop(container).map(|()| Done::default()),
        None => Err("no container engine is configured ([engine] docker = false)".into()),
    })
}

/// Kills culprit, accomplices and descendants, in this order, and adds to what the kernel did. Whoever is
/// born into the culprit's or a descendant's line meanwhile dies in the kernel.
fn finish(
    means: &mut Means<'_>,
    container: &Container,
    by_kernel: Outcome,
    detection: &Detection,
    descendants: &[ProcessKey],
) -> Acted {
    let targets: Vec<ProcessKey> = std::iter::once(&detection.culprit)
        .chain(&detection.accomplices)
        .chain(descendants)
        .take(MAX_TARGETS)
        .enumerate()
        // Somebody else's init goes down with its whole container: only if it is the culprit.
        .filter(|(index, target)| *index == 0 || !kill::is_container_init(target.tgid))
        .map(|(_, target)| *target)
        .collect();
    let mut hunt = Hunt::start(means.reflex, container.key, &targets);
    let mut why: Option<KillError> = None;
    for target in targets {
        if let Err(error) = hunt.kill(target, means.registry) {
            tracing::debug!(pid = target.tgid, %error, "not killed");
            // The culprit's reason is the one to be told.
            why.get_or_insert(error);
        }
    }
    if means.held.may_hunt(container.key) {
        hunt.look(&*means.reflex, means.registry);
        if hunt.killed().is_empty() && by_kernel == Outcome::Observed {
            // A culprit that lives for one fork at a time may be between two of its processes.
            hunt.run(&*means.reflex, means.registry);
        }
    }
    if let Outcome::Killed { processes, .. } = &by_kernel {
        hunt.by_kernel(processes);
    }
    let by_kernel = match by_kernel {
        Outcome::Observed if hunt.killed().is_empty() && hunt.born(&*means.reflex) > 0 => {
            Outcome::Killed { by: EnforcedBy::Signal, processes: Vec::new() }
        }
        other => other,
    };
    Acted { outcome: settled(by_kernel, hunt.killed().to_vec(), why), reports: Vec::new(), hunt: Some(hunt) }
}

/// The outcome of a kill.
fn settled(by_kernel: Outcome, mut killed: Vec<u32>, why: Option<KillError>) -> Outcome {
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
pub(crate) mod testing;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
