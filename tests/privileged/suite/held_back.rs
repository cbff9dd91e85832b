//! What a baseline expects is counted in the kernel instead of being told, and nothing is missing from what is told of the
//! rest; code that is not the image's; and all of it in numbers.

use crate::baselines::{Play, SERVICE, is_stopped, job, play_with};
use crate::container::{Container, Group};
use crate::pace;
use anyhow::{Result, ensure};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// Forbidden program starts, and as many that are expected: so many by default, for everyday use.
const STARTS: u64 = 400;
/// Sets another number.
const STARTS_VARIABLE: &str = "BULKHEAD_TEST_STARTS";
/// Tasks that start the ones, and as many that start the others.
const TASKS: u64 = 8;
/// Expected starts of which few may be told.
const COUNTED: u64 = 1000;

/// A service in `protect`, which has done `work` in `learn`; `learned` are words of its baseline to wait for.
fn protected(work: &str, learned: &[&str], rest: &str) -> Result<Play> {
    let group = Group::make()?;
    let containers = [Container::start_as(&group, SERVICE)?, Container::start(&group)?];
    let play = play_with(group, containers, rest, None)?;
    job(&play.containers[0], work)?;
    play.await_text("learned", |text| learned.iter().all(|word| text.contains(word)))?;
    play.change(&["promote", "play", "--quiet", "0"])?;
    play.change(&["promote", "play", "--quiet", "0", "--force"])?;
    Ok(play)
}

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Sums up a field of `status` over what was counted.
fn counted(status: &Value, field: &str) -> u64 {
    let all = status["held_back"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|one| number(one, &format!("/{field}"))).sum()
}

/// A thousand expected starts reach the daemon as a handful of events; a forbidden one below a shell of which nothing was
/// told has the shell above it.
pub fn expected_starts_are_counted() -> Result<()> {
    let work = "echo 'ls / > /dev/null' > /inner; for i in 1 2 3; do sh -c '. /inner; true'; done; ls / > /dev/null";
    let play = protected(work, &["/ls\"", "/rm\"", "/sleep\"", "text = \"argument\""], "")?;
    let service = &play.containers[0];
    // The counts are read once a second.
    std::thread::sleep(pace::wait(Duration::from_millis(2500)));
    job(service, "ls / > /dev/null; sh -c '. /inner; true'")?;
    let before = play.daemon.status()?;
    // In a shell that the daemon has seen start: what is below one bears a mark of that.
    job(service, &format!("sh -c 'i=0; while [ $i -lt {COUNTED} ]; do ls / > /dev/null; i=$((i+1)); done'"))?;
    std::thread::sleep(pace::wait(Duration::from_millis(2500)));
    let after = play.daemon.status()?;
    let told = number(&after, "/events_received") - number(&before, "/events_received");
    let execs = counted(&after, "execs") - counted(&before, "execs");
    let exits = counted(&after, "exits") - counted(&before, "exits");
    ensure!(execs * 10 >= COUNTED * 9 && exits * 10 >= COUNTED * 9, "counted: {execs} execs, {exits} exits");
    // Three for each start if they were told; some are about what else goes on on this machine.
    ensure!(told * 2 <= COUNTED, "{told} events of {COUNTED} expected starts");
    ensure!(number(&after, "/baselines/conforming") >= execs, "{}", after["baselines"]);

    // Told a moment ago, so that the next is counted; and that one does what was never learned.
    job(service, "sh -c '. /inner; true'")?;
    fs::write(service.path("/inner"), "perl -e 'open F, \">/effect\"'\n")?;
    job(service, "sh -c '. /inner; true'")?;
    let alert = play.daemon.await_alert("baseline_exec", service.id())?;
    is_stopped(&alert)?;
    ensure!(!service.path("/effect").exists(), "what is not in the baseline ran");
    let parent = alert["process"]["parent"].to_string();
    ensure!(parent.contains(". /inner; true"), "its parent is told as {parent}");
    let ancestors = alert["bulkhead"]["ancestors"].to_string();
    ensure!(alert.to_string().contains("/job"), "the service is not above it: {ancestors}\n{alert}");
    Ok(())
}

/// With the lock no code is mapped but the image's: a library of the writable layer is refused, or its process killed.
pub fn drift_lock_holds_for_code() -> Result<()> {
    let library = "$(ldd /bin/ls | awk '/libc.so/ { print $3 }')";
    let work = format!("cp {library} /tmp/lib.so; ls / > /dev/null; LD_PRELOAD=/tmp/lib.so ls / > /before");
    let play = protected(&work, &["/cp\"", "/ls\"", "/rm\"", "/sleep\""], "drift = \"deny\"")?;
    let service = &play.containers[0];
    ensure!(fs::metadata(service.path("/before"))?.len() > 0, "the library cannot be preloaded at all");
    job(service, "ls / > /works; LD_PRELOAD=/tmp/lib.so ls / > /mapped")?;
    ensure!(fs::metadata(service.path("/works"))?.len() > 0, "what the image brings along is stopped");
    let alert = play.daemon.await_alert("baseline_exec", service.id())?;
    is_stopped(&alert)?;
    ensure!(alert["message"].as_str().is_some_and(|said| said.contains("/tmp/lib.so")), "{}", alert["message"]);
    if !crate::refusals::lsm() {
        ensure!(fs::metadata(service.path("/mapped"))?.len() == 0, "it ran on with the library");
    }
    Ok(())
}

/// From many tasks at once: not one forbidden start has an effect, each is told or counted, and not one that is expected
/// fails meanwhile.
pub fn no_forbidden_start_has_an_effect() -> Result<()> {
    let starts = std::env::var(STARTS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(STARTS);
    let play = protected("ls / > /dev/null; id > /dev/null", &["/ls\"", "/id\"", "/rm\"", "/sleep\""], "")?;
    let service = &play.containers[0];
    let before = play.daemon.status()?;
    let each = starts.div_ceil(TASKS);
    let task = |command: &str| format!("(i=0; while [ $i -lt {each} ]; do {command}; i=$((i+1)); done) &\n");
    let forbidden = task("perl -e 'open F, \">/effect\"' 2> /dev/null").repeat(TASKS as usize);
    let expected = task("ls / > /dev/null || echo failed >> /failed").repeat(TASKS as usize);
    fs::write(service.path("/many"), format!("{forbidden}{expected}wait\n"))?;
    let began = Instant::now();
    fs::write(service.path("/job"), ". /many\n")?;
    let limit = pace::wait(Duration::from_secs(30)) + Duration::from_millis(starts * 40);
    while service.path("/job").exists() {
        ensure!(began.elapsed() < limit, "not done in {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let total = each * TASKS;
    let told = |status: &Value| number(status, "/baselines/deviating") + number(status, "/events_lost");
    let until = Instant::now() + pace::wait(Duration::from_secs(20));
    let after = loop {
        let after = play.daemon.status()?;
        if told(&after) - told(&before) >= total || Instant::now() > until {
            break after;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let (deviating, lost) = (
        number(&after, "/baselines/deviating") - number(&before, "/baselines/deviating"),
        number(&after, "/events_lost") - number(&before, "/events_lost"),
    );
    eprintln!(
        "{total} forbidden and {total} expected starts in {:.1} s: {deviating} told, {lost} records lost and counted, {} \
         counted as expected",
        began.elapsed().as_secs_f64(),
        counted(&after, "execs") - counted(&before, "execs"),
    );
    ensure!(!service.path("/effect").exists(), "what is not in the baseline ran");
    ensure!(!service.path("/failed").exists(), "what was learned is stopped");
    ensure!(deviating + lost >= total, "{deviating} told and {lost} counted of {total}");
    ensure!(deviating <= total, "{deviating} told of {total}: what was learned is told of");
    Ok(())
}
