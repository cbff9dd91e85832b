//! One daemon for all tests that do not care for its start and end: loading the programs is the slowest thing a
//! test does, on an emulated machine by far. It changes its mode by a reload, and what it has loaded is pinned, so
//! that one that was killed has a successor at once. Tests tell their containers apart by id.

use crate::container::Group;
use crate::daemon::{Daemon, Settings};
use crate::restart::Bpffs;
use anyhow::{Context as _, Result, anyhow};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A daemon, the group of cgroups it watches, and its pins.
pub struct Watch {
    // Dropped in this order.
    /// The daemon.
    pub daemon: Daemon,
    /// Containers are made in here.
    pub group: Arc<Group>,
    /// Its pins, control socket and file of all events.
    pub pins: Arc<Bpffs>,
}

type Shared = Mutex<Option<(Arc<Watch>, &'static str)>>;

static WATCH: Shared = Mutex::new(None);
/// The same with the last doors only.
static LAST: Shared = Mutex::new(None);
/// Pins of a shared daemon that has made way for one of a test's own.
static WARM: Mutex<Option<Arc<Bpffs>>> = Mutex::new(None);
/// What the last doors are not.
const BETTER: &str = "\"lsm\", \"fentry\"";

/// The daemon in this mode, started if it is not running (any more). One mode at a time: a test that asks for
/// another is done with the one before.
pub fn watch(mode: &'static str) -> Result<Arc<Watch>> {
    shared(&WATCH, "", mode)
}

/// Another, which has neither LSM nor fentry; whoever needs it last should [`retire_last`] it.
pub fn watch_by_last_doors(mode: &'static str) -> Result<Arc<Watch>> {
    shared(&LAST, BETTER, mode)
}

fn shared(shared: &Shared, avoid: &'static str, mode: &'static str) -> Result<Arc<Watch>> {
    let mut shared = shared.lock().map_err(|_| anyhow!("a test panicked while it started a daemon"))?;
    let running = shared.take();
    let watch = match running {
        Some((watch, as_is)) if watch.daemon.is_running() => {
            if as_is != mode {
                change(&watch, avoid, mode).context("change the shared daemon's mode")?;
            }
            watch
        }
        Some((ended, _)) => {
            eprintln!("the shared daemon has ended: another takes over");
            start(ended.group.clone(), ended.pins.clone(), avoid, mode)?
        }
        None if avoid.is_empty() => start(Arc::new(Group::make()?), warm()?, avoid, mode)?,
        None => start(Arc::new(Group::make()?), Arc::new(Bpffs::mount()?), avoid, mode)?,
    };
    *shared = Some((watch.clone(), mode));
    Ok(watch)
}

/// Pins for a daemon of the test's own, which finds the programs loaded where links can be pinned. The shared daemon
/// ends.
pub fn pins() -> Result<Arc<Bpffs>> {
    let running = WATCH.lock().map_err(|_| anyhow!("a test panicked while it started a daemon"))?.take();
    if let Some((watch, _)) = running {
        *WARM.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch.pins.clone());
    }
    warm()
}

fn warm() -> Result<Arc<Bpffs>> {
    let mut warm = WARM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pins) = warm.as_ref() {
        return Ok(pins.clone());
    }
    Ok(warm.insert(Arc::new(Bpffs::mount()?)).clone())
}

fn settings(pins: &Bpffs, avoid: &'static str, mode: &'static str) -> Settings {
    Settings { pins: Some(pins.pins("keep")), avoid, ..Settings::mode(mode) }
}

fn start(group: Arc<Group>, pins: Arc<Bpffs>, avoid: &'static str, mode: &'static str) -> Result<Arc<Watch>> {
    let daemon = Daemon::start(&group, &settings(&pins, avoid, mode))?;
    Ok(Arc::new(Watch { daemon, group, pins }))
}

fn change(watch: &Watch, avoid: &'static str, mode: &'static str) -> Result<()> {
    let reloaded = |row: &serde_json::Value| row["event"]["action"] == "reloaded";
    let before = watch.daemon.rows().iter().filter(|row| reloaded(row)).count();
    watch.daemon.reload(&watch.daemon.config(&settings(&watch.pins, avoid, mode)))?;
    watch.daemon.await_nth("notice of the reload", Duration::from_secs(5), before, reloaded).map(drop)
}

/// Lets nobody else have the running ones: a test has failed with one, or does away with what it has set up. It ends
/// with the last who holds it.
pub fn retire() {
    drop(WATCH.lock().unwrap_or_else(PoisonError::into_inner).take());
    drop(WARM.lock().unwrap_or_else(PoisonError::into_inner).take());
    retire_last();
}

/// The same of the one with the last doors: its programs cost everybody's system calls.
pub fn retire_last() {
    drop(LAST.lock().unwrap_or_else(PoisonError::into_inner).take());
}
