//! Is what baselines in `protect` forbid still stopped? For each that is in the kernel, from time to time a process of
//! our own connects and starts a program that it does not have, in a cgroup that is held to it.

use super::{Pipeline, facts};
use crate::baseline::compile::{connects, edges};
use crate::canary::{Outcome as Came, Perch, Try};
use crate::event::{ContainerKey, HOST, ProcessKey};
use crate::finding::{Detection, FindingKind, Outcome};
use crate::kernel::clock::boot_ns;
use monitor_common::header::Reason;
use monitor_common::policy::{POLICY_CONFIRMED, POLICY_WATCHED, Policy};
use monitor_common::profile::{ANY, BOUND_CONNECTS, BOUND_EXECS, Bound, ENTERED, path};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::PoisonError;

/// Cgroups of ours whose last events may still be on their way.
const FORMER: usize = 8;

/// What a canary does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Connect,
    Exec,
}

impl Part {
    const ALL: [Self; 2] = [Self::Connect, Self::Exec];

    const fn bit(self) -> u32 {
        match self {
            Self::Connect => BOUND_CONNECTS,
            Self::Exec => BOUND_EXECS,
        }
    }

    const fn kind(self) -> FindingKind {
        match self {
            Self::Connect => FindingKind::BaselineConnect,
            Self::Exec => FindingKind::BaselineExec,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Connect => "a connection",
            Self::Exec => "a program start",
        }
    }
}

/// How it stands with one part of one baseline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// When it was seen to be stopped last, ns since boot.
    verified_ns: Option<u64>,
    /// It was not, at the last try.
    failed: bool,
    /// Why it was not tried.
    untried: Option<String>,
}

/// For `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct View {
    /// The baseline.
    pub name: String,
    /// Since when both parts that can be tried are known to be stopped, seconds; of the older one.
    pub verified_age_seconds: Option<u64>,
    /// `stopped`, `NOT STOPPED` or why it is not tried.
    pub program_starts: String,
    /// The same.
    pub connections: String,
}

/// A try that goes on. Dropped in this order: the process, then its cgroup.
struct Current {
    name: String,
    part: Part,
    going_on: Try,
    perch: Perch,
}

/// See the module.
pub struct Canaries {
    /// Where their cgroups are made; why there is no such place.
    home: Result<PathBuf, String>,
    standings: BTreeMap<(String, Part), Standing>,
    /// Number of the profile that was tried last, and when.
    tried: BTreeMap<String, (u32, u64)>,
    due: VecDeque<(String, Part)>,
    current: Option<Current>,
    former: VecDeque<ContainerKey>,
}

impl Canaries {
    /// With a place for their cgroups.
    pub fn new(home: Result<PathBuf, String>) -> Self {
        let (standings, tried) = (BTreeMap::new(), BTreeMap::new());
        Self { home, standings, tried, due: VecDeque::new(), current: None, former: VecDeque::new() }
    }

    /// Is the cgroup one of ours? What happens there is nobody's business.
    pub fn is_own(&self, container: ContainerKey) -> bool {
        self.former.contains(&container)
    }

    fn views(&self, now_ns: u64) -> Vec<View> {
        let view = |name: &String| {
            let of = |part| self.standings.get(&(name.clone(), part)).cloned().unwrap_or_default();
            let parts = Part::ALL.map(of);
            let age = |standing: &Standing| Some(now_ns.saturating_sub(standing.verified_ns?) / 1_000_000_000);
            let tried = parts.iter().filter(|standing| standing.untried.is_none());
            let ages: Option<Vec<u64>> = tried.map(age).collect();
            let [connections, program_starts] = parts.each_ref().map(words);
            let verified_age_seconds = ages.and_then(|ages| ages.into_iter().max());
            View { name: name.clone(), verified_age_seconds, program_starts, connections }
        };
        self.tried.keys().map(view).collect()
    }
}

fn words(standing: &Standing) -> String {
    match standing {
        Standing { failed: true, .. } => "NOT STOPPED".into(),
        Standing { untried: Some(why), .. } => format!("not tried: {why}"),
        Standing { verified_ns: Some(_), .. } => "stopped".into(),
        _ => "not tried yet".into(),
    }
}

impl Pipeline {
    /// Once a second: one step.
    pub(super) fn canary_step(&mut self) {
        let now_ns = boot_ns();
        if let Some(mut current) = self.canaries.current.take() {
            match current.going_on.outcome() {
                None => self.canaries.current = Some(current),
                Some(came) => {
                    self.maps.release(current.perch.id);
                    self.maps.forget(current.perch.id);
                    let (name, part) = (current.name.clone(), current.part);
                    drop(current);
                    self.came(name, part, came, now_ns);
                }
            }
        }
        if self.canaries.current.is_none() {
            self.plan(now_ns);
            while let Some((name, part)) = self.canaries.due.pop_front() {
                match self.begin(&name, part) {
                    Ok(current) => {
                        self.canaries.current = Some(current);
                        break;
                    }
                    Err(why) => self.came(name, part, Came::Untried(why), now_ns),
                }
            }
        }
        let views = self.canaries.views(now_ns);
        *self.counts.canaries.lock().unwrap_or_else(PoisonError::into_inner) = views;
    }

    /// Puts those in line that are new, changed, or were tried long enough ago.
    fn plan(&mut self, now_ns: u64) {
        let every_ns = self.compiled.canary_ns;
        if every_ns == 0 {
            self.canaries.tried.clear();
            return;
        }
        let (profiles, canaries) = (&self.profiles, &mut self.canaries);
        canaries.tried.retain(|name, _| profiles.contains_key(name));
        canaries.standings.retain(|(name, _), _| profiles.contains_key(name));
        for (name, compiled) in profiles {
            let Some((number, _)) = compiled.number else { continue };
            let last = canaries.tried.get(name);
            if last.is_none_or(|(before, at)| *before != number || now_ns.saturating_sub(*at) >= every_ns) {
                canaries.tried.insert(name.clone(), (number, now_ns));
                canaries.due.extend(Part::ALL.map(|part| (name.clone(), part)));
            }
        }
    }

    /// Starts a try, in a cgroup that is held to this part of the baseline.
    fn begin(&mut self, name: &str, part: Part) -> Result<Current, String> {
        let compiled = self.profiles.get(name).ok_or("it is gone")?;
        let (profile, holds) =
            compiled.number.filter(|(_, holds)| holds & part.bit() != 0).ok_or("not in the kernel")?;
        if !self.compiled.rules.action(part.kind()).is_reflex() {
            return Err(format!("the action for {} is another", part.kind().name()));
        }
        let baseline = compiled.of.baseline.clone();
        let all = "the baseline expects everything that could be tried";
        if part == Part::Exec && may_start(&edges(&baseline, self.baselines.drift_lock()).unwrap_or_default()) {
            return Err(all.to_owned());
        }
        let home = self.canaries.home.as_ref().map_err(Clone::clone)?;
        let perch = Perch::make(home).map_err(|error| format!("no cgroup in {}: {error}", home.display()))?;
        let enforce = 1 << Reason::BaselineExec as u32 | 1 << Reason::BaselineConnect as u32;
        self.maps.set_policy(perch.id, &Policy { root: perch.id, enforce, flags: POLICY_WATCHED | POLICY_CONFIRMED });
        self.maps.bind(perch.id, Bound { profile, init: 0, holds: part.bit() & holds });
        self.canaries.former.push_back(perch.id);
        if self.canaries.former.len() > FORMER {
            self.canaries.former.pop_front();
        }
        let going_on = match part {
            Part::Exec => Some(Try::exec(&perch)),
            Part::Connect => {
                let rows = connects(&baseline).unwrap_or_default();
                Try::connect(&perch, |to| rows.pass(None, to.ip(), to.port(), 6))
            }
        };
        match going_on {
            Some(going_on) => Ok(Current { name: name.to_owned(), part, going_on, perch }),
            None => {
                self.maps.release(perch.id);
                self.maps.forget(perch.id);
                Err(all.to_owned())
            }
        }
    }

    fn came(&mut self, name: String, part: Part, came: Came, now_ns: u64) {
        let standing = self.canaries.standings.entry((name.clone(), part)).or_default();
        let before = std::mem::replace(
            standing,
            Standing { verified_ns: standing.verified_ns, failed: came == Came::Happened, untried: None },
        );
        match came {
            Came::Stopped => {
                standing.verified_ns = Some(now_ns);
                if before.failed {
                    tracing::info!(baseline = name, "{} that it forbids is stopped again", part.words());
                }
            }
            Came::Untried(why) => {
                if before.untried.as_ref() != Some(&why) {
                    tracing::info!(
                        baseline = name,
                        why,
                        "whether {} that it forbids is stopped is not tried",
                        part.words()
                    );
                }
                standing.untried = Some(why);
            }
            Came::Happened if before.failed => {}
            Came::Happened => self.not_stopped(&name, part),
        }
    }

    fn not_stopped(&mut self, name: &str, part: Part) {
        let event = facts::standing_for(HOST, std::process::id(), boot_ns());
        let culprit = ProcessKey { tgid: std::process::id(), start_ns: 0 };
        let words = part.words();
        let message =
            format!("the kernel half does not hold to the baseline {name}: {words} that it forbids was not stopped");
        let detail = "Bulkhead's own process, in a cgroup of its own that is held to the baseline, did it".to_owned();
        let detection = Detection::new(FindingKind::Tamper, culprit, message).with(event.id, "canary", 0, detail);
        self.report(&event, detection, Outcome::Observed);
    }
}

/// May the canary be a program that is expected to be started from outside?
fn may_start(edges: &[monitor_common::profile::EdgeKey]) -> bool {
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let own = path(&own.to_string_lossy());
    edges.iter().any(|edge| (edge.parent == ENTERED || edge.parent == ANY) && (edge.exe == ANY || edge.exe == own))
}
