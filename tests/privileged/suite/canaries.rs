//! The daemon tries itself what a baseline forbids, tells how long ago it saw it stopped, and says so when it is not.

use crate::baselines::{Play, play_with};
use crate::container::{Container, Group, mounts};
use crate::daemon::ALERT_WAIT;
use crate::pace;
use crate::shared;
use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use monitor::kernel::maps::Raw;
use monitor_common::profile::{ANY, ANY_USER, EdgeKey};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const BASELINE: &str = "image = \"play:1\"\nmode = \"protect\"\n[[exec]]\nparent = \"(start)\"\nexe = \"/usr/bin/sleep\"\n\
                        [[connect]]\nexe = \"/usr/bin/sleep\"\nto = \"192.0.2.1\"\nport = \"443\"\nprotocol = \"tcp\"\n";

fn enforcement(play: &Play) -> Result<Value> {
    Ok(play.daemon.status()?["enforcement"][0].clone())
}

fn await_enforcement(play: &Play, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let until = Instant::now() + pace::wait(Duration::from_secs(20));
    loop {
        let seen = enforcement(play)?;
        if wanted(&seen) {
            return Ok(seen);
        }
        ensure!(Instant::now() < until, "{what}: not in time: {seen}\n{}", play.daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Cgroups of canaries that this daemon has left.
fn left(pid: u32) -> Result<usize> {
    let name = format!("bulkhead-canary/bulkhead-canary-{pid}");
    Ok(mounts()?.iter().filter(|mount| mount.join(&name).exists()).count())
}

type Edges = HashMap<MapData, Raw<EdgeKey>, u32>;

/// Adds to the kernel half what lets every program of every profile start; what that was.
fn sabotage(maps: &Path) -> Result<(Edges, Vec<EdgeKey>)> {
    let map = MapData::from_pin(maps.join("EDGES")).context("open EDGES")?;
    let mut edges: Edges = Map::from_map_data(map)?.try_into()?;
    let mut added = Vec::new();
    let profiles: Vec<u32> = edges.keys().filter_map(Result::ok).map(|Raw(key)| key.profile).collect();
    ensure!(!profiles.is_empty(), "no profile is in the kernel");
    for profile in profiles {
        for (layer, form) in (0..5).flat_map(|layer| (0..4).map(move |form| (layer, form))) {
            let edge = EdgeKey { parent: ANY, exe: ANY, profile, user: ANY_USER, layer, form };
            if edges.get(&Raw(edge), 0).is_err() {
                edges.insert(Raw(edge), 1, 0)?;
                added.push(edge);
            }
        }
    }
    Ok((edges, added))
}

/// Verified again and again without an alert or a trace; broken from outside, it is told.
pub fn enforcement_is_verified() -> Result<()> {
    let (group, pins) = (Group::make()?, shared::pins()?);
    let containers = [Container::start(&group)?, Container::start(&group)?];
    let mut play = play_with(group, containers, "canary_s = 1", Some(pins.pins("keep")))?;
    play.write(BASELINE)?;
    let is_verified = |seen: &Value| {
        seen["verified_age_seconds"].is_u64() && seen["program_starts"] == "stopped" && seen["connections"] == "stopped"
    };
    let seen = await_enforcement(&play, "verified", is_verified)?;
    ensure!(seen["name"] == "play=1", "{seen}");
    std::thread::sleep(pace::wait(Duration::from_secs(8)));
    let age = enforcement(&play)?["verified_age_seconds"].as_u64();
    ensure!(age.is_some_and(|age| age < u64::from(pace::wait(Duration::from_secs(6)).as_secs() as u32)), "{age:?}");
    let rows = play.daemon.rows();
    let is_about = |row: &Value| {
        let kind = row["event"]["action"].as_str().unwrap_or_default();
        row["event"]["kind"] == "alert"
            && (kind.starts_with("baseline_") || kind == "tamper" || row.to_string().contains("canary"))
    };
    let alerts: Vec<String> = rows.iter().filter(|row| is_about(row)).map(|row| row["message"].to_string()).collect();
    ensure!(alerts.is_empty(), "a canary's own acts are told:\n{}", alerts.join("\n"));
    let events = std::fs::read_to_string(pins.events()).unwrap_or_default();
    ensure!(!events.contains("canary"), "a canary's own acts are among the events");

    let root = pins.pins("keep").root;
    let maps = std::fs::read_dir(&root)?
        .flatten()
        .map(|entry| entry.path().join("maps"))
        .find(|path| path.join("EDGES").exists());
    let (mut edges, added) = sabotage(&maps.context("no pinned maps")?)?;
    let alert = play.daemon.await_row("tamper alert", ALERT_WAIT, |row| {
        row["event"]["kind"] == "alert" && row["event"]["action"] == "tamper"
    })?;
    let said = alert["message"].as_str().unwrap_or_default();
    ensure!(said.contains("play=1") && said.contains("program start"), "{said}");
    let seen = await_enforcement(&play, "told", |seen| seen["program_starts"] == "NOT STOPPED")?;
    ensure!(seen["connections"] == "stopped", "{seen}");
    play.daemon.stop()?;
    ensure!(left(play.daemon.pid())? == 0, "its cgroup is left behind");
    // The next test gets these maps.
    added.iter().try_for_each(|edge| edges.remove(&Raw(*edge))).context("mend EDGES")
}
