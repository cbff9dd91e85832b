//! Plays one scenario: container, set-up, clock, run, findings, effect.

use super::alerts::{Feed, Owner};
use super::file::{Scenario, Served};
use super::host::HostRun;
use super::recorder::{Recorder, Recording};
use super::verdict::{Mode, Seen};
use crate::lab::container::{Container, Recipe};
use crate::lab::process::Finished;
use crate::lab::services::{Services, Session};
use crate::lab::{ATTACKER, ATTACKER_V6, Engine, images};
use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, statat};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest wait for a finding after an attack has ended.
const FINDING_WAIT: Duration = Duration::from_millis(1500);

/// How long after a benign run has ended a finding would still be counted.
const BENIGN_SETTLE: Duration = Duration::from_millis(700);

/// After the finding: time for a payload that was not stopped to show.
const EFFECT_SETTLE: Duration = Duration::from_millis(300);

/// In monitor mode nobody waits for a shell that was found to end.
const MONITOR_GRACE: Duration = Duration::from_millis(400);

/// Findings about `setup` arrive within this time after it.
const SETUP_SETTLE: Duration = Duration::from_millis(400);

/// Longest `setup`.
const SETUP_LIMIT: Duration = Duration::from_secs(60);

/// Granularity of waiting for the run's end (a finding wakes at once).
const STEP: Duration = Duration::from_millis(20);

/// What a play needs of its surroundings.
pub struct Stage<'a> {
    /// The engine.
    pub engine: &'a Arc<Engine>,
    /// The attacker's side.
    pub services: &'a Services,
    /// The monitor's alerts.
    pub feed: &'a Feed,
    /// Mode of the monitor.
    pub mode: Mode,
    /// What keeps a recording, if that is wanted.
    pub recorder: Option<&'a Recorder>,
}

/// What is left to take away after a play.
pub struct Remains {
    containers: Vec<Container>,
    addresses: Vec<IpAddr>,
    run: Option<JoinHandle<Result<Finished>>>,
    scratch: Option<PathBuf>,
    tag: String,
}

impl Remains {
    /// Takes everything away.
    pub fn remove(self, engine: &Engine, services: &Services) {
        services.sessions().close(&self.addresses);
        for container in &self.containers {
            if let Err(error) = engine.runtime().remove(container) {
                eprintln!("lab: {error:#}");
            }
        }
        if let Some(run) = self.run {
            let _ended_with_its_container = run.join();
        }
        if let Some(path) = self.scratch {
            let _gone = std::fs::remove_dir_all(path);
        }
        if !self.tag.is_empty() {
            engine.runtime().images().forget(&self.tag);
        }
    }
}

/// Plays `scenario` in a container made from `image`; `number` is unique in this run.
pub fn play(stage: &Stage<'_>, mut scenario: Scenario, image: &str, number: usize) -> (Seen, Remains) {
    let mut remains = Remains {
        containers: Vec::new(),
        addresses: Vec::new(),
        run: None,
        scratch: None,
        tag: scenario.tag_as.clone(),
    };
    let seen = act(stage, &mut scenario, image, number, &mut remains)
        .unwrap_or_else(|error| Seen { broken: Some(format!("{error:#}")), ..Seen::default() });
    (seen, remains)
}

/// What the scenario's container is made from.
pub fn recipe(scenario: &Scenario, image: &str) -> Recipe {
    Recipe {
        image: image.to_owned(),
        copy_as: scenario.tag_as.clone(),
        labels: scenario.labels(),
        engine_args: scenario.engine_args.clone(),
        entrypoint: scenario.entrypoint,
    }
}

fn act(stage: &Stage<'_>, scenario: &mut Scenario, image: &str, number: usize, remains: &mut Remains) -> Result<Seen> {
    let on_host = scenario.effect_on_host();
    if scenario.wants_scratch() {
        let path = scratch(stage.engine, number)?;
        remains.scratch = Some(path.clone());
        scenario.fill_scratch(&path);
    }
    let session = Arc::new(Session::new(served(stage.engine, scenario)?, scenario.shell.send.clone().into_bytes()));
    // What happens on the host, or in a container on the host's network, comes from the attacker's own
    // addresses.
    if scenario.is_on_host() {
        remains.addresses = vec![IpAddr::V4(ATTACKER), IpAddr::V6(ATTACKER_V6)];
        stage.services.open(&remains.addresses, &session);
    }
    if !scenario.beside.is_empty() {
        let neighbour = start(stage, scenario, image, &session, remains)?;
        exec_whole(stage, &neighbour, "beside", &scenario.beside)?;
    }
    let began = stage.feed.position();
    let whole = record(stage, scenario, remains, None)?;
    let container = start(stage, scenario, image, &session, remains)?;
    let alone = record(stage, scenario, remains, Some(&container))?;
    let mut owner = Owner { container: container.id.clone(), host_pid: None };
    let before_setup = stage.feed.position();
    set_up(stage, scenario, &container)?;
    let clock = stage.feed.position();
    let mut said = run(stage, scenario, &container, &owner, clock, remains)?;
    if !scenario.host_run.is_empty() {
        let host = HostRun::start(stage.engine, &scenario.host_run)?;
        owner.host_pid = Some(host.pid());
        await_findings(stage, scenario, &owner, clock, || host.has_ended());
        said.push_str(&host.end());
    }
    thread::sleep(stage.engine.patient(if scenario.is_benign() { BENIGN_SETTLE } else { EFFECT_SETTLE }));
    let mut alerts = stage.feed.owned(&owner, began, Some(before_setup));
    alerts.extend(stage.feed.owned(&owner, clock, None));
    whole.into_iter().chain(alone).try_for_each(Recording::finish)?;
    Ok(Seen {
        alerts,
        effect: effect(stage.engine, scenario, on_host, &container),
        bytes: session.received_bytes(),
        broken: None,
        said: one_line(&said),
    })
}

/// Are all containers recorded, rather than its own: where the scenario begins with the container, or has another?
pub fn is_recorded_whole(scenario: &Scenario) -> bool {
    scenario.entrypoint || !scenario.tag_as.is_empty() || !scenario.beside.is_empty()
}

/// Begins the recording that the scenario wants. What goes on on the host, or in its files, is not recorded: paths of
/// this machine would be in it.
fn record(
    stage: &Stage<'_>,
    scenario: &Scenario,
    remains: &Remains,
    container: Option<&Container>,
) -> Result<Option<Recording>> {
    let is_within = scenario.host_run.is_empty() && remains.scratch.is_none();
    let Some(recorder) = stage.recorder.filter(|_| is_within) else { return Ok(None) };
    if is_recorded_whole(scenario) != container.is_none() {
        return Ok(None);
    }
    let container = container.map(|container| container.id.as_str());
    recorder.begin(&scenario.id, container, stage.engine.interrupt()).map(Some)
}

/// A container of the scenario's, known to the attacker's services.
fn start(
    stage: &Stage<'_>,
    scenario: &Scenario,
    image: &str,
    session: &Arc<Session>,
    remains: &mut Remains,
) -> Result<Container> {
    let container = stage.engine.runtime().run(&recipe(scenario, image)).context("starting the container")?;
    remains.containers.push(container.clone());
    remains.addresses.extend(container.addresses.iter().copied());
    stage.services.open(&container.addresses, session);
    Ok(container)
}

/// A stand-in for the host's root file system, on the cache's own file system.
fn scratch(engine: &Engine, number: usize) -> Result<PathBuf> {
    let path = engine.scratch(&format!("host-{number}"))?;
    for folder in ["etc/cron.d", "root", "tmp", "var/spool/cron/crontabs", "var/run"] {
        std::fs::create_dir_all(path.join(folder)).context("filling the scratch folder")?;
    }
    std::fs::write(path.join("etc/crontab"), "").context("filling the scratch folder")?;
    Ok(path)
}

fn served(engine: &Engine, scenario: &Scenario) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (name, file) in &scenario.serve {
        let bytes = match file {
            Served::Text(text) => text.clone().into_bytes(),
            Served::Subject { subject } => std::fs::read(images::subject(engine, subject)?)?,
        };
        files.insert(name.trim_start_matches('/').to_owned(), bytes);
    }
    Ok(files)
}

fn set_up(stage: &Stage<'_>, scenario: &Scenario, container: &Container) -> Result<()> {
    if scenario.setup.trim().is_empty() {
        return Ok(());
    }
    exec_whole(stage, container, "setup", &scenario.setup)?;
    thread::sleep(stage.engine.patient(SETUP_SETTLE));
    Ok(())
}

/// Runs a script that is not judged, to its end.
fn exec_whole(stage: &Stage<'_>, container: &Container, name: &str, script: &str) -> Result<()> {
    let finished = stage.engine.runtime().exec(container, "root", script, stage.engine.patient(SETUP_LIMIT))?;
    if !finished.success() {
        bail!("{name} failed ({:?}): {}", finished.code, finished.tail());
    }
    Ok(())
}

/// Runs `run` and waits for what is to be found; returns what it said.
fn run(
    stage: &Stage<'_>,
    scenario: &Scenario,
    container: &Container,
    owner: &Owner,
    clock: usize,
    remains: &mut Remains,
) -> Result<String> {
    let (engine, container) = (Arc::clone(stage.engine), container.clone());
    let (user, text) = (scenario.user.clone(), scenario.run.clone());
    let limit = stage.engine.patient(Duration::from_secs(scenario.timeout_s));
    let handle = thread::spawn(move || {
        if text.is_empty() {
            return Ok(Finished::default());
        }
        engine.runtime().exec(&container, &user, &text, limit)
    });
    // With a part on the host still to come, the finding may be made there.
    if scenario.host_run.is_empty() {
        await_findings(stage, scenario, owner, clock, || handle.is_finished());
    } else {
        while !handle.is_finished() {
            thread::sleep(STEP);
        }
    }
    if !handle.is_finished() {
        remains.run = Some(handle);
        return Ok(String::new());
    }
    match handle.join() {
        Ok(finished) => {
            let finished = finished?;
            Ok(match finished.code {
                Some(0) => finished.tail(),
                Some(code) => format!("exit code {code} {}", finished.tail()),
                None => format!("still running after {} s {}", scenario.timeout_s, finished.tail()),
            })
        }
        Err(_panicked) => bail!("the thread that runs the scenario panicked"),
    }
}

/// Waits until nothing more is to be expected: an attack until it was found (and, where it is to be
/// stopped, has ended), a benign run to its end.
fn await_findings(stage: &Stage<'_>, scenario: &Scenario, owner: &Owner, clock: usize, ended: impl Fn() -> bool) {
    let mut ended_at: Option<Instant> = None;
    let mut found_at: Option<Instant> = None;
    while !stage.engine.interrupt().is_set() {
        let position = stage.feed.position();
        let now = Instant::now();
        if ended_at.is_none() && ended() {
            ended_at = Some(now);
        }
        let found = || {
            let alerts = stage.feed.owned(owner, clock, None);
            alerts.iter().any(|alert| scenario.expect.contains(&alert.kind))
        };
        if found_at.is_none() && !scenario.is_benign() && found() {
            found_at = Some(now);
        }
        let waited = |since: Option<Instant>, limit| since.is_some_and(|at| now.duration_since(at) >= limit);
        let enough = match (found_at, ended_at) {
            (_, Some(_)) if scenario.is_benign() => true,
            (Some(_), Some(_)) => true,
            (Some(_), None) => stage.mode == Mode::Monitor && waited(found_at, stage.engine.patient(MONITOR_GRACE)),
            (None, Some(_)) => waited(ended_at, stage.engine.patient(FINDING_WAIT)),
            (None, None) => false,
        };
        if enough {
            return;
        }
        stage.feed.wait(position, STEP);
    }
}

fn effect(engine: &Engine, scenario: &Scenario, on_host: bool, container: &Container) -> Option<bool> {
    if scenario.effect.is_empty() {
        return None;
    }
    Some(if on_host { exists_on_host(&scenario.effect) } else { engine.runtime().exists(container, &scenario.effect) })
}

/// Whether `path` exists on the host, a last link not followed.
fn exists_on_host(path: &str) -> bool {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(300));
    line
}
