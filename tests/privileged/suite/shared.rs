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

static WATCH: Mutex<Option<(Arc<Watch>, &str)>> = Mutex::new(None);

/// The daemon in this mode, started if it is not running (any more). One mode at a time: a test that asks for
/// another is done with the one before.
pub fn watch(mode: &'static str) -> Result<Arc<Watch>> {
    let mut shared = WATCH.lock().map_err(|_| anyhow!("a test panicked while it started a daemon"))?;
    let running = shared.take();
    let watch = match running {
        Some((watch, as_is)) if watch.daemon.is_running() => {
            if as_is != mode {
                change(&watch, mode).context("change the shared daemon's mode")?;
            }
            watch
        }
        Some((ended, _)) => {
            eprintln!("the shared daemon has ended: another takes over");
            start(ended.group.clone(), ended.pins.clone(), mode)?
        }
        None => start(Arc::new(Group::make()?), Arc::new(Bpffs::mount()?), mode)?,
    };
    *shared = Some((watch.clone(), mode));
    Ok(watch)
}

fn settings(pins: &Bpffs, mode: &'static str) -> Settings {
    Settings { pins: Some(pins.pins("keep")), ..Settings::mode(mode) }
}

fn start(group: Arc<Group>, pins: Arc<Bpffs>, mode: &'static str) -> Result<Arc<Watch>> {
    let daemon = Daemon::start(&group, &settings(&pins, mode))?;
    Ok(Arc::new(Watch { daemon, group, pins }))
}

fn change(watch: &Watch, mode: &'static str) -> Result<()> {
    let reloaded = |row: &serde_json::Value| row["event"]["action"] == "reloaded";
    let before = watch.daemon.rows().iter().filter(|row| reloaded(row)).count();
    watch.daemon.reload(&watch.daemon.config(&settings(&watch.pins, mode)))?;
    watch.daemon.await_nth("notice of the reload", Duration::from_secs(5), before, reloaded).map(drop)
}

/// Lets nobody else have the running one: a test has failed with it, or does away with what it has set up. It ends
/// with the last who holds it.
pub fn retire() {
    drop(WATCH.lock().unwrap_or_else(PoisonError::into_inner).take());
}
