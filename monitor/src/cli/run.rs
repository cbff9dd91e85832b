//! `bulkhead run`: configuration → log → load and attach → drop capabilities → drain → ready.

use super::{CliError, CliResult, Exit, RunArgs, require_root};
use crate::canary;
use crate::config::Loaded;
use crate::container::docker::{self, Notice as EngineNotice};
use crate::container::{Registry, hierarchy};
use crate::control::{Answers, Hub, Server};
use crate::incident::log::last_alerts;
use crate::kernel::ladder::Ladder;
use crate::kernel::links::Programs;
use crate::kernel::loader::{Kernel, LoadError, Options, Origin};
use crate::kernel::maps::Rings;
use crate::kernel::pins::Pins;
use crate::kernel::ring::{self, Backlog, Counts as DrainCounts, Drain};
use crate::kernel::{mounts, object};
use crate::output::{Events, Notice, Output};
use crate::pipeline::{
    Account, Compiled, Counts, Flow, Gate, Incidents, Input, Parts, Pipeline, ResponseSettings, fill_maps, gate,
    stop_report,
};
use crate::respond::Stop;
use crate::respond::held::View;
use crate::startup::own::{self, Own};
use nix::sys::signal::{SigSet, Signal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often losses are looked at and the watchdog is told.
const TICK: Duration = Duration::from_secs(1);
/// How soon it is looked whether what was judged is written, while it may not be.
const SETTLE: Duration = Duration::from_millis(5);
/// How long output may take to be written at the end.
const PATIENCE: Duration = Duration::from_secs(3);
/// What a container that is stopped for a finding gets between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// Containers that may be stopping at a time.
const STOPS: usize = 8;
/// How much of the alert file is read again at the start, bytes: some thousand alerts.
const RECALLED: u64 = 4 << 20;
/// Where a cgroup v2 root is mounted for us alone when the host has none.
const PRIVATE_CGROUP2: &str = "/run/bulkhead/cgroup2";

/// Runs until SIGTERM or SIGINT.
pub fn main(args: &RunArgs) -> CliResult {
    let mut loaded = args.config.load()?;
    if args.no_pins {
        loaded.config.pins.root = PathBuf::new();
    }
    let compiled = Compiled::new(&loaded).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    require_root("run")?;
    super::log::start(loaded.config.log.level);
    // Before any thread is started: all of them inherit the mask, and one of them waits.
    let signals = block_signals()?;
    let pins = super::handover::pins(&loaded)?;
    own::spare_from_oom();
    let mut prepared = prepare(&compiled, pins)?;
    prepared.own =
        Own::collect(prepared.pins.as_ref(), own_files(&loaded, args.config.path()), &loaded.config.control.socket);
    let dropped = crate::privileges::drop_after_attach().map_err(|error| CliError::failure(error.to_string()))?;
    tracing::info!(kept = ?dropped.kept, "capabilities dropped");
    let fresh = prepared.kernel.origin() == Origin::Fresh;
    let running = start(&loaded, compiled, prepared, args.config.path(), signals).inspect_err(|_| {
        // A start that fails leaves nothing behind that was not there before.
        if fresh {
            super::handover::remove(&loaded.config.pins.root);
        }
    })?;
    running.serve();
    Ok(Exit::Ok)
}

fn block_signals() -> Result<SigSet, CliError> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().map_err(|error| CliError::failure(format!("block signals: {error}")))?;
    Ok(set)
}

/// The kernel half, loaded and attached.
struct Prepared {
    kernel: Kernel,
    rings: Rings,
    registry: Registry,
    cgroup_root: PathBuf,
    _cgroup2: Option<hierarchy::PrivateMount>,
    pins: Option<Pins>,
    own: Own,
    canary_home: Result<PathBuf, String>,
}

/// The daemon's own files: program, configuration, outputs.
fn own_files(loaded: &Loaded, config: Option<PathBuf>) -> Vec<PathBuf> {
    let output = &loaded.config.output;
    let known = [config, output.file.clone(), output.events.clone(), std::env::current_exe().ok()];
    known.into_iter().flatten().collect()
}

fn prepare(compiled: &Compiled, pins: Option<Pins>) -> Result<Prepared, CliError> {
    mounts::tracefs()
        .unwrap_or_else(|error| tracing::warn!(%error, "no tracefs: system call tracepoints are out of reach"));
    let watched = hierarchy::detect().map_err(|error| CliError::new(Exit::Kernel, error.to_string()))?;
    let (root, private) = hierarchy::unified_or_private(Path::new(PRIVATE_CGROUP2))
        .map_err(|error| CliError::new(Exit::Kernel, error.to_string()))?;
    let (kernel, rings) = Kernel::load(&Options {
        object: object::BYTES,
        hierarchy: watched.id,
        controller: &watched.controller,
        cgroup_root: &root,
        config: compiled.kernel_config(),
        avoid: &compiled.avoid,
        pins: pins.as_ref(),
    })
    .map_err(load_error)?;
    let no_home = |error| format!("no place for a cgroup: {error}");
    let canary_home = match compiled.canary_ns {
        0 => Err("it was switched off when the daemon started".to_owned()),
        _ => canary::home(&watched).map_err(no_home),
    };
    Ok(Prepared {
        kernel,
        rings,
        canary_home,
        registry: Registry::new(watched),
        cgroup_root: root,
        _cgroup2: private,
        pins,
        own: Own::default(),
    })
}

/// The exit status that goes with a failed load.
pub fn load_error(error: LoadError) -> CliError {
    let exit = if error.is_kernel_too_old() { Exit::Kernel } else { Exit::Failure };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = inner.source();
    }
    CliError::new(exit, format!("{text} (see `bulkhead check`)"))
}

/// Everything that runs; dropped in this order.
struct Running {
    inputs: Receiver<Input>,
    pipeline: Pipeline,
    _control: Option<Server>,
    _engine: Option<docker::Engine>,
    drain: Drain,
    programs: Programs,
    _cgroup2: Option<hierarchy::PrivateMount>,
    // Gives up the lock, when everything else is done.
    pins: Option<Pins>,
}

fn start(
    loaded: &Loaded,
    compiled: Compiled,
    prepared: Prepared,
    config: Option<PathBuf>,
    signals: SigSet,
) -> Result<Running, CliError> {
    let (sender, inputs) = sync_channel(ring::QUEUE);
    let origin = prepared.kernel.origin();
    let (programs, ladder, mut maps) = prepared.kernel.split();
    fill_maps(&mut maps, &compiled);
    // In this order: what is lost in between is counted twice rather than not at all.
    let full = maps.ring_full();
    let backlog = Arc::new(Backlog::new(maps.begun()));
    let drain = Drain::start(prepared.rings, sender.clone(), backlog.clone())
        .map_err(|error| CliError::failure(format!("start the drain: {error}")))?;
    let account = Account::new(maps.ledger.handover(), full, backlog, drain.counts.clone());
    let hub = Hub::new();
    let output = Output::open(&loaded.config.output, Some(Box::new(hub.clone())))
        .map_err(|error| CliError::failure(error.to_string()))?;
    let settings = &loaded.config.output;
    let events = settings.events.as_ref().map(|path| Events::open(path, settings.max_bytes, settings.keep));
    let events = events.transpose().map_err(|error| CliError::failure(error.to_string()))?;
    let mut started = Notice::started(env!("CARGO_PKG_VERSION"), serde_json::to_value(&ladder).unwrap_or_default());
    started.message = format!("{}: {}{}", started.message, ladder.summary(), words(origin));
    output.notice(started);
    let counts = Arc::new(Counts { mode: Mutex::new(loaded.config.mode.name()), ..Counts::default() });
    let engine = engine(loaded, &prepared.registry, &sender)?;
    let stages = Stages {
        ladder: serde_json::to_value(&ladder).unwrap_or_default(),
        drain: drain.counts.clone(),
        pipeline: counts.clone(),
        registry: prepared.registry.clone(),
        engine: engine.as_ref().map(|engine| engine.stats().clone()),
    };
    let marks = maps.marks().inspect_err(|error| tracing::warn!(%error, "processes are told apart by cgroup only"));
    let turns_away = gate(prepared.registry.clone(), marks.ok(), sender.clone());
    let control = control(loaded, hub, stages, &sender, turns_away)?;
    let responses = ResponseSettings {
        unified: Some(prepared.cgroup_root),
        packets: ["packet_egress", "packet_ingress"].iter().all(|program| ladder.is_active(program)),
        stop: stopper(loaded, &sender),
    };
    let incidents = recalled(loaded);
    let (registry, own, canary_home) = (prepared.registry, prepared.own, prepared.canary_home);
    let parts =
        Parts { maps, registry, compiled, output, events, counts, account, own, responses, incidents, canary_home };
    let mut pipeline = Pipeline::new(parts);
    pipeline.take_over();
    listen_for_signals(signals, sender, config)?;
    super::trim::trim();
    announce(&ladder);
    Ok(Running {
        inputs,
        pipeline,
        _control: control,
        _engine: engine,
        drain,
        programs,
        _cgroup2: prepared._cgroup2,
        pins: prepared.pins,
    })
}

/// What the alert file, if there is one, tells of incidents that may go on.
fn recalled(loaded: &Loaded) -> Incidents {
    let mut incidents = Incidents::default();
    let alerts = loaded.config.output.file.as_ref().map(|path| last_alerts(path, RECALLED));
    for alert in alerts.iter().flatten() {
        incidents.recall(alert);
    }
    incidents
}

/// What the start says of a former daemon's programs.
fn words(origin: Origin) -> String {
    match origin {
        Origin::Fresh => String::new(),
        Origin::Adopted => "; taken over from the former daemon, attached all the time".into(),
        Origin::Replaced { kept } => format!("; other programs than the former daemon's, {kept} of its maps kept"),
        Origin::Incompatible => "; the former daemon's maps have another layout: what they knew (taint) is lost".into(),
    }
}

fn announce(ladder: &Ladder) {
    for fact in ladder.blind() {
        tracing::warn!(?fact, "nothing on this kernel tells of this; see `bulkhead check`");
    }
    tracing::info!("watching");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "readiness could not be told");
    }
}

/// What `status` is read from.
struct Stages {
    ladder: serde_json::Value,
    drain: Arc<DrainCounts>,
    pipeline: Arc<Counts>,
    registry: Registry,
    engine: Option<Arc<docker::Stats>>,
}

impl Stages {
    fn status(&self, started: Instant) -> serde_json::Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (drain, counts, containers) = (&self.drain, &self.pipeline, self.registry.counts());
        let engine = self.engine.as_ref().map(|engine| {
            serde_json::json!({
                "connected": engine.connected.load(Ordering::Relaxed),
                "connections": read(&engine.connections),
                "completed": read(&engine.completed),
                "inspections_dropped": read(&engine.inspections_dropped),
                "notices_dropped": read(&engine.notices_dropped),
            })
        });
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "mode": *counts.mode.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
            "uptime_seconds": started.elapsed().as_secs(),
            "events_received": read(&drain.received),
            "events_judged": read(&counts.events),
            "events_malformed": read(&drain.malformed),
            "events_lost": read(&counts.lost),
            "findings": read(&counts.findings),
            "prevented": read(&counts.prevented),
            "exceptions": exceptions(counts),
            "baselines": *counts.baselines.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
            "held_back": *counts.held_back.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
            "enforcement": *counts.canaries.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
            "quarantined": held(counts, |view| view.quarantined),
            "frozen": held(counts, |view| view.frozen),
            "processes": read(&counts.processes),
            "containers": {
                "live": containers.live,
                "gone": containers.gone,
                "cgroups": containers.cgroups,
                "ahead": containers.ahead,
            },
            "engine": engine,
            "ladder": self.ladder,
        })
    }
}

fn control(
    loaded: &Loaded,
    hub: Arc<Hub>,
    stages: Stages,
    sender: &SyncSender<Input>,
    turns_away: Gate,
) -> Result<Option<Server>, CliError> {
    let path = &loaded.config.control.socket;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| CliError::failure(format!("make folder {}: {error}", folder.display())))?;
    }
    let started = Instant::now();
    let status = move || stages.status(started);
    let sender = sender.clone();
    let (other, third) = (sender.clone(), sender.clone());
    let handover = move || other.try_send(Input::Handover).is_ok();
    // An order that finds the queue full is dropped, and with it its way to an answer: the client is told.
    let orders = move |order| drop(sender.try_send(Input::Order(Box::new(order))));
    // A queue that does not reach the pipeline is closed: the client is told.
    let record = move |wish| drop(third.try_send(Input::Record(wish)));
    let (status, handover) = (Arc::new(status), Arc::new(handover));
    let answers = Answers { status, handover, turns_away, orders: Arc::new(orders), record: Arc::new(record) };
    Ok(Some(Server::start(path, hub, answers)?))
}

/// The exceptions of the configuration, and how many findings each has silenced.
fn exceptions(counts: &Counts) -> serde_json::Value {
    let views = counts.exceptions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    serde_json::to_value(&*views).unwrap_or_default()
}

/// Containers to which something is done: name and the beginning of the id.
fn held(counts: &Counts, wanted: impl Fn(&View) -> bool) -> Vec<String> {
    let views = counts.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let short = |view: &View| {
        let id = view.id.get(..12).unwrap_or(&view.id);
        if view.name.is_empty() { id.to_owned() } else { format!("{} ({id})", view.name) }
    };
    views.iter().filter(|view| wanted(view)).map(short).collect()
}

/// Asks the engine to stop a container, in a thread of its own: it takes as long as the container.
fn stopper(loaded: &Loaded, sender: &SyncSender<Input>) -> Option<Stop> {
    let engine = &loaded.config.engine;
    if !engine.docker {
        return None;
    }
    let settings = docker::Settings::new(&engine.docker_socket);
    let sender = sender.clone();
    let running = Arc::new(AtomicUsize::new(0));
    Some(Box::new(move |container| {
        if running.fetch_add(1, Ordering::Relaxed) >= STOPS {
            running.fetch_sub(1, Ordering::Relaxed);
            return Err(format!("the engine is stopping {STOPS} containers already"));
        }
        let (settings, sender, at_work) = (settings.clone(), sender.clone(), running.clone());
        let (key, id) = (container.key, container.id.clone());
        let spawned = spawn("stop", move || {
            let begun = Instant::now();
            let result = docker::stop_once(&settings, &id, GRACE).map_err(|error| error.to_string());
            let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            at_work.fetch_sub(1, Ordering::Relaxed);
            // The pipeline has ended: nobody is left to tell.
            let _ = sender.send(Input::Stopped(key, Box::new(stop_report(result, took_us))));
        });
        spawned.map_err(|error| {
            running.fetch_sub(1, Ordering::Relaxed);
            error.to_string()
        })
    }))
}

fn engine(
    loaded: &Loaded,
    registry: &Registry,
    sender: &SyncSender<Input>,
) -> Result<Option<docker::Engine>, CliError> {
    let settings = &loaded.config.engine;
    if !settings.docker {
        return Ok(None);
    }
    let (notices, told) = sync_channel::<EngineNotice>(1024);
    let forward = sender.clone();
    spawn("notices", move || {
        while let Ok(notice) = told.recv() {
            if forward.send(Input::Engine(notice)).is_err() {
                return;
            }
        }
    })?;
    docker::start(docker::Settings::new(&settings.docker_socket), registry.clone(), notices)
        .map(Some)
        .map_err(|error| CliError::failure(error.to_string()))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CliError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
        .map_err(|error| CliError::failure(format!("start thread {name}: {error}")))
}

fn listen_for_signals(signals: SigSet, sender: SyncSender<Input>, config: Option<PathBuf>) -> Result<(), CliError> {
    spawn("signals", move || {
        loop {
            let input = match signals.wait() {
                Ok(Signal::SIGHUP) => match reload(config.as_deref()) {
                    Some(compiled) => Input::Reload(Box::new(compiled)),
                    None => continue,
                },
                Ok(_) => Input::Stop,
                Err(_) => continue,
            };
            let last = matches!(input, Input::Stop);
            if sender.send(input).is_err() || last {
                return;
            }
        }
    })
}

/// Reads and checks the configuration anew; a bad one changes nothing.
fn reload(config: Option<&Path>) -> Option<Compiled> {
    let loaded = match config {
        Some(path) => Loaded::load(path),
        None => Loaded::builtin(),
    };
    let compiled = loaded
        .map_err(|error| error.to_string())
        .and_then(|loaded| Compiled::new(&loaded).map_err(|error| error.to_string()));
    match compiled {
        Ok(compiled) => Some(compiled),
        Err(error) => {
            tracing::error!(%error, "the new configuration is not accepted; the old one stays");
            None
        }
    }
}

impl Running {
    /// The pipeline's thread, until it is told to stop.
    fn serve(mut self) {
        let mut next = Instant::now() + TICK;
        let (mut flow, mut pending) = (Flow::Go, false);
        while flow == Flow::Go {
            let wait = next.saturating_duration_since(Instant::now());
            match self.inputs.recv_timeout(if pending { wait.min(SETTLE) } else { wait }) {
                Ok(input) => flow = self.pipeline.on_input(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => flow = Flow::Stop,
            }
            pending = self.pipeline.settle();
            if Instant::now() >= next {
                next = Instant::now() + TICK;
                self.pipeline.tick();
                // Fails only where nobody asked for it.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.end(flow == Flow::Handover);
    }

    /// Reads what is there, writes what waits, and leaves or removes the programs.
    fn end(self, handover: bool) {
        let Self { inputs, mut pipeline, _control, _engine, drain, programs, _cgroup2, pins } = self;
        let release = pipeline.releases() && !handover;
        // It reads both rings a last time, as fast as what it reads is taken.
        drain.stop();
        loop {
            let done = drain.is_done();
            while let Ok(input) = inputs.try_recv() {
                if matches!(input, Input::Event(_)) {
                    pipeline.on_input(input);
                }
            }
            if done {
                break;
            }
            std::thread::sleep(SETTLE);
        }
        drop(drain);
        if !pipeline.stop(if handover { "another daemon takes over" } else { "asked to stop" }, PATIENCE) {
            tracing::warn!("not everything could be written before the end");
        }
        // The next daemon wants the socket as soon as it has the lock.
        drop(_control);
        if release && let Some(Err(error)) = pins.map(Pins::remove_all) {
            tracing::error!(%error, "what is pinned could not be removed; `bulkhead unload` may");
        }
        drop(programs);
    }
}
