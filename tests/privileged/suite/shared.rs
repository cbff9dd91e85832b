//! One daemon a mode for all tests that do not care for its start and end: loading the programs is the
//! slowest thing a test does, on an emulated machine by far. Tests tell their containers apart by id.

use crate::container::Group;
use crate::daemon::{Daemon, Settings};
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A daemon, and the group of cgroups it watches.
pub struct Watch {
    // Dropped in this order.
    /// The daemon.
    pub daemon: Daemon,
    /// Containers are made in here.
    pub group: Group,
}

static WATCHES: Mutex<BTreeMap<&str, Arc<Watch>>> = Mutex::new(BTreeMap::new());

/// The daemon of this mode, started if it is not running (any more).
pub fn watch(mode: &'static str) -> Result<Arc<Watch>> {
    let mut watches = WATCHES.lock().map_err(|_| anyhow!("a test panicked while it started a daemon"))?;
    if let Some(watch) = watches.get(mode)
        && watch.daemon.is_running()
    {
        return Ok(watch.clone());
    }
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode(mode))?;
    let watch = Arc::new(Watch { daemon, group });
    watches.insert(mode, watch.clone());
    Ok(watch)
}

/// Ends them all.
pub fn end() {
    if let Ok(mut watches) = WATCHES.lock() {
        watches.clear();
    }
}
