//! `cargo xtask baselines`: real services under real load, from the first act that is learned to attacks that are stopped.
//!
//! 1. Without the monitor: every attack must come to something, or to stop it would be no feat.
//! 2. The monitor learns what fresh containers do from their start on.
//! 3. `learn` → `monitor`; a recording of fresh containers under load; `monitor` → `protect` with that recording.
//! 4. Fresh containers again under the same load: nothing may be told of, let alone stopped.
//! 5. The attacks, by programs of the image's own that the service's process starts, and by itself, the load going on:
//!    each has to be stopped, and the services have to answer throughout.

mod monitor;
mod service;
mod stage;

use crate::build::{self, Profile};
use crate::lab::Engine;
use crate::lab::house::Terms;
use crate::lab::process::Interrupt;
use crate::lab::runtime::Kind;
use crate::process::{Failure, is_root};
use anyhow::{Context, Result, anyhow, bail};
use monitor::{Monitor, Row};
use serde_json::{Value, json};
use service::{ATTACKS, Attack};
use stage::{Actor, Pulse, Stage};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Alerts of one process tree and kind within ten seconds are one: rounds of attacks are further apart, however late one comes.
const ROUND: Duration = Duration::from_secs(16);
/// How long an alert may take on a loaded machine.
const ALERT_LIMIT: Duration = Duration::from_secs(5);
/// For the services to start while it is recorded.
const STARTING: Duration = Duration::from_secs(20);
/// Load on top of the attacks' own time, so that it never ends before them.
const LONGER: Duration = Duration::from_secs(20);

/// How long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Seconds of load that is learned.
    #[arg(long, value_name = "SECONDS", default_value_t = 45, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    learn_s: u64,
    /// Seconds of load that is recorded, in `monitor`.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    record_s: u64,
    /// Seconds of load that is held to the baselines.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    hold_s: u64,
    /// With `[baseline] drift = "learned"` instead of `"deny"`.
    #[arg(long)]
    no_drift_lock: bool,
    /// Also write the result as one JSON object to this file.
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// The monitor to test, instead of the one built here.
    #[arg(long, value_name = "PATH")]
    monitor: Option<PathBuf>,
}

/// An attack and what became of it.
struct Judged {
    service: &'static str,
    attack: Attack,
    alert: Option<Row>,
    effect: bool,
    took: Duration,
}

/// Everything there is to say in the end.
#[derive(Default)]
struct Outcome {
    idle: Vec<String>,
    early: Vec<Row>,
    held: Vec<Row>,
    /// Baselines of which the monitor itself says that they are not enforced.
    unenforced: Vec<String>,
    deviating: u64,
    conforming: u64,
    cpu: Duration,
    attacks: Vec<Judged>,
    asked: u64,
    missed: u64,
}

/// Plays all of it and prints the table; the status tells whether all was well.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !is_root() {
        return Err(Failure::privilege("this starts an engine and a monitor of its own: run it as root"));
    }
    let interrupt = Interrupt::install()?;
    let binary = match &options.monitor {
        Some(path) => path.clone(),
        None => build::all(Profile::Release)?,
    };
    let engine = Engine::start(Kind::Docker, Terms::default(), &interrupt)?;
    let stage = Stage::set(&engine)?;
    let mut result = Outcome::default();
    say("without the monitor: the attacks");
    let actors = stage.enter()?;
    result.idle = stage.rehearse(&actors)?;
    stage.leave(actors)?;
    let monitor = Monitor::start(&engine, &binary, stage.images(), !options.no_drift_lock)?;
    learn(&stage, &monitor, options, &mut result)?;
    let actors = stage.enter()?;
    hold(&stage, &monitor, &actors, options, &mut result)?;
    attack(&stage, &monitor, &actors, &mut result)?;
    monitor.stop()?;
    report(&result, options)
}

fn say(what: &str) {
    eprintln!("baselines: {what}");
}

fn learn(stage: &Stage<'_>, monitor: &Monitor, options: &Options, result: &mut Outcome) -> Result<()> {
    say("learning");
    let actors = stage.enter()?;
    stage.load(&actors, Duration::from_secs(options.learn_s))?;
    monitor.settle();
    let names = monitor.names()?;
    if names.len() != actors.len() {
        bail!("{} services and these baselines: {}", actors.len(), names.join(", "));
    }
    names.iter().try_for_each(|name| monitor.promote(name, None))?;
    stage.leave(actors)?;
    say("recording");
    let time = STARTING + Duration::from_secs(options.record_s);
    let began = Instant::now();
    let (mut recorder, recording) = monitor.record(time)?;
    // From their start on: a server that is up does little that baselines are about.
    let actors = stage.enter()?;
    stage.load(&actors, time.saturating_sub(began.elapsed()))?;
    let status = recorder.wait().context("waiting for the recording")?;
    if !status.success() {
        bail!("bulkhead record ended with {status}");
    }
    result.early = of_services(monitor.rows()?, &actors);
    names.iter().try_for_each(|name| monitor.promote(name, Some(&recording)))?;
    stage.leave(actors)
}

fn hold(stage: &Stage<'_>, monitor: &Monitor, actors: &[Actor], options: &Options, result: &mut Outcome) -> Result<()> {
    say("holding");
    let pulse = Pulse::start(stage.engine, actors)?;
    let before = monitor.cpu()?;
    stage.load(actors, Duration::from_secs(options.hold_s))?;
    result.cpu = monitor.cpu()?.saturating_sub(before);
    thread::sleep(Duration::from_secs(2));
    result.held = of_services(monitor.rows()?, actors);
    result.unenforced = monitor.unenforced()?;
    result.deviating = monitor.number("/baselines/deviating")?;
    result.conforming = monitor.number("/baselines/conforming")?;
    (result.asked, result.missed) = pulse.counts();
    Ok(())
}

fn attack(stage: &Stage<'_>, monitor: &Monitor, actors: &[Actor], result: &mut Outcome) -> Result<()> {
    say("attacks");
    let rounds = u32::try_from(ATTACKS.len())?;
    let pulse = Pulse::start(stage.engine, actors)?;
    thread::scope(|scope| -> Result<()> {
        let working = scope.spawn(|| stage.load(actors, ROUND * rounds + LONGER));
        for attack in ATTACKS {
            let began = Instant::now();
            let judged = thread::scope(|scope| -> Result<Vec<Judged>> {
                let one = |actor| judge(stage, monitor, actor, attack);
                let all: Vec<_> = actors.iter().map(|actor| scope.spawn(move || one(actor))).collect();
                all.into_iter().map(|one| one.join().map_err(|_| anyhow!("an attack panicked"))?).collect()
            })?;
            result.attacks.extend(judged);
            thread::sleep(ROUND.saturating_sub(began.elapsed()));
        }
        working.join().map_err(|_| anyhow!("the load panicked"))?
    })?;
    let (asked, missed) = pulse.counts();
    result.asked += asked;
    result.missed += missed;
    Ok(())
}

fn judge(stage: &Stage<'_>, monitor: &Monitor, actor: &Actor, attack: Attack) -> Result<Judged> {
    let mine = |rows: Vec<Row>| {
        let is_mine = |row: &Row| row.container == actor.container.id && row.action == attack.kind();
        rows.into_iter().filter(is_mine).collect::<Vec<_>>()
    };
    let (accepted, known) = (stage.accepted(), mine(monitor.rows()?).len());
    let began = Instant::now();
    stage.attack(actor, attack)?;
    let took = began.elapsed();
    let deadline = Instant::now() + ALERT_LIMIT;
    let alert = loop {
        let alert = mine(monitor.rows()?).into_iter().nth(known);
        if alert.is_some() || Instant::now() > deadline {
            break alert;
        }
        thread::sleep(Duration::from_millis(50));
    };
    // What was not stopped would show by now.
    thread::sleep(Duration::from_secs(1));
    Ok(Judged { service: actor.service.name, attack, alert, effect: stage.has_effect(actor, attack, accepted), took })
}

fn of_services(rows: Vec<Row>, actors: &[Actor]) -> Vec<Row> {
    rows.into_iter().filter(|row| actors.iter().any(|actor| actor.container.id == row.container)).collect()
}

impl Judged {
    fn is_stopped(&self) -> bool {
        let acted = self.alert.as_ref().is_some_and(|row| {
            matches!((row.outcome.as_str(), row.by.as_str()), ("denied", "lsm" | "cgroup") | ("killed", "signal"))
        });
        acted && !self.effect
    }

    fn line(&self) -> String {
        let (outcome, by) = self.alert.as_ref().map_or(("-", "-"), |row| (&row.outcome, &row.by));
        let effect = if self.effect { "YES" } else { "no" };
        let verdict = if self.is_stopped() { "stopped" } else { "NOT STOPPED" };
        let name = self.attack.name();
        format!("{:<10}{name:<15}{outcome:<10}{by:<8}{effect:<8}{verdict}", self.service)
    }
}

impl Outcome {
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if !self.idle.is_empty() {
            failures.push(format!("attacks that come to nothing anyway: {}", self.idle.join(", ")));
        }
        let rows = |rows: &[Row]| {
            let lines: Vec<String> =
                rows.iter().map(|row| format!("\n  {} {} {}", &row.action, row.outcome, row.message)).collect();
            lines.concat()
        };
        if !self.early.is_empty() {
            failures.push(format!("{} findings before the promotion:{}", self.early.len(), rows(&self.early)));
        }
        if !self.held.is_empty() || self.deviating > 0 {
            let count = self.held.len();
            failures.push(format!(
                "{count} findings and {} deviations under load:{}",
                self.deviating,
                rows(&self.held)
            ));
        }
        if !self.unenforced.is_empty() {
            failures.push(format!("the monitor's own tries were not stopped: {}", self.unenforced.join(", ")));
        }
        if self.conforming == 0 {
            failures.push("nothing was compared".to_owned());
        }
        let through = self.attacks.iter().filter(|judged| !judged.is_stopped()).count();
        if through > 0 || self.attacks.is_empty() {
            failures.push(format!("{through} of {} attacks were not stopped", self.attacks.len()));
        }
        if self.missed > 0 {
            failures.push(format!("{} of {} questions were not answered", self.missed, self.asked));
        }
        failures
    }

    fn json(&self) -> Value {
        let attack = |judged: &Judged| {
            json!({
                "service": judged.service, "attack": judged.attack.name(), "stopped": judged.is_stopped(),
                "outcome": judged.alert.as_ref().map(|row| &row.outcome),
                "rung": judged.alert.as_ref().map(|row| &row.by),
                "effect": judged.effect, "took_ms": u64::try_from(judged.took.as_millis()).unwrap_or(u64::MAX),
            })
        };
        json!({
            "deviations": self.deviating, "findings": self.held.len(), "conforming": self.conforming,
            "daemon_cpu_ms": u64::try_from(self.cpu.as_millis()).unwrap_or(u64::MAX),
            "asked": self.asked, "missed": self.missed, "failures": self.failures(),
            "attacks": self.attacks.iter().map(attack).collect::<Vec<_>>(),
        })
    }
}

fn report(result: &Outcome, options: &Options) -> Result<ExitCode> {
    println!("{:<10}{:<15}{:<10}{:<8}{:<8}", "service", "attack", "outcome", "rung", "effect");
    result.attacks.iter().for_each(|judged| println!("{}", judged.line()));
    let share = result.cpu.as_secs_f64() / Duration::from_secs(options.hold_s).as_secs_f64() * 100.0;
    println!(
        "under load: {} deviations, {} conforming acts, the monitor used {share:.1} % of a processor",
        result.deviating, result.conforming
    );
    println!("the services were asked {} times and did not answer {} times", result.asked, result.missed);
    if let Some(path) = &options.json {
        fs::write(path, format!("{}\n", result.json())).with_context(|| format!("write {}", path.display()))?;
    }
    let failures = result.failures();
    failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    let stopped = result.attacks.iter().filter(|judged| judged.is_stopped()).count();
    println!("{stopped} of {} attacks stopped, {} failures", result.attacks.len(), failures.len());
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
