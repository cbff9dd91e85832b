#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn registry() -> Registry {
    Registry::new(Hierarchy { id: 8, controller: "pids".into(), mount: "/nonexistent".into() })
}

fn id(n: u64) -> String {
    format!("{n:064x}")
}

fn made(cgroup: u64, parent: u64, path: String) -> Cgroup {
    Cgroup { id: cgroup, parent, gone: false, hierarchy: 8, path }
}

fn removed(cgroup: u64) -> Cgroup {
    Cgroup { id: cgroup, parent: 5, gone: true, hierarchy: 8, path: String::new() }
}

fn named(name: &str) -> Metadata {
    Metadata { name: name.into(), image: "busybox".into(), complete: true, ..Metadata::default() }
}

#[test]
fn a_container_is_known_from_its_mkdir() {
    let r = registry();
    let change = r.on_cgroup(&made(100, 5, format!("/docker/{}", id(1)))).unwrap();
    assert!(change.is_container());
    let view = r.view(100);
    assert_eq!((view.id.as_str(), view.runtime.as_str(), view.complete), (id(1).as_str(), "docker", false));
    assert_eq!(r.complete(&id(1), named("web")), Some(100));
    let view = r.view(100);
    assert_eq!((view.name.as_str(), view.image.as_str(), view.complete), ("web", "busybox", true));
}

#[test]
fn metadata_may_come_first() {
    let r = registry();
    assert_eq!(r.complete(&id(1), named("web")), None);
    r.on_cgroup(&made(100, 5, format!("/docker/{}", id(1))));
    assert_eq!(r.view(100).name, "web");
    assert_eq!(r.counts().ahead, 0);
    r.complete(&id(2), named("never started"));
    r.abandon(&id(2));
    assert_eq!(r.counts().ahead, 0);
}

#[test]
fn nested_cgroups_belong_to_the_outermost_container() {
    let r = registry();
    let outer = format!("/docker/{}", id(1));
    r.on_cgroup(&made(100, 5, outer.clone()));
    let sub = r.on_cgroup(&made(101, 100, format!("{outer}/docker"))).unwrap();
    assert_eq!((sub.container, sub.is_container()), (100, false));
    let inner = r.on_cgroup(&made(102, 101, format!("{outer}/docker/{}", id(2)))).unwrap();
    assert_eq!(inner.container, 100);
    assert_eq!(r.cgroups_of(100), [100, 101, 102]);
    assert_eq!(r.key_of_path(&format!("{outer}/docker/{}", id(2))), Some(100));
    // Its parent's event was lost: the path still tells.
    assert_eq!(r.on_cgroup(&made(104, 103, format!("{outer}/a/b"))).unwrap().container, 100);
    assert!(r.on_cgroup(&removed(102)).unwrap().gone);
    assert!(!r.get(100).unwrap().gone);
    r.on_cgroup(&removed(100));
    assert_eq!(r.counts().cgroups, 0);
}

#[test]
fn other_hierarchies_and_services_are_not_ours() {
    let r = registry();
    let mut other = made(100, 5, format!("/docker/{}", id(1)));
    other.hierarchy = 4;
    assert_eq!(r.on_cgroup(&other), None);
    assert_eq!(r.on_cgroup(&made(7, 5, "/system.slice/ssh.service".into())), None);
    assert_eq!(r.on_cgroup(&removed(7)), None);
    assert_eq!(r.key_of_path("/system.slice/ssh.service"), Some(HOST));
    assert_eq!(r.key_of_path(&format!("/docker/{}", id(9))), None);
    assert_eq!(r.view(HOST).id, "host");
}

#[test]
fn a_removed_container_is_remembered_for_the_grace_period() {
    let r = registry();
    let start = Instant::now();
    r.on_cgroup_at(&made(100, 5, format!("/docker/{}", id(1))), start);
    r.on_cgroup_at(&removed(100), start);
    assert!(r.get(100).unwrap().gone);
    // The engine's answer comes late and still finds it.
    assert_eq!(r.complete(&id(1), named("short")), Some(100));
    r.on_cgroup_at(&made(200, 5, format!("/docker/{}", id(2))), start + GRACE);
    assert!(r.get(100).is_none());
    assert_eq!(r.key_of_id(&id(1)), None);
    assert_eq!(r.counts(), Counts { live: 1, gone: 0, cgroups: 1, ahead: 0 });
}

#[test]
fn a_restart_keeps_the_metadata_under_a_new_key() {
    let r = registry();
    let start = Instant::now();
    let path = format!("/docker/{}", id(1));
    r.on_cgroup_at(&made(100, 5, path.clone()), start);
    r.complete(&id(1), named("web"));
    r.on_cgroup_at(&removed(100), start);
    r.on_cgroup_at(&made(300, 5, path), start + Duration::from_secs(1));
    assert_eq!(r.view(300).name, "web");
    r.on_cgroup_at(&removed(999), start + GRACE * 2);
    assert!(r.get(100).is_none());
    assert_eq!(r.key_of_id(&id(1)), Some(300));
}

#[test]
fn churn_leaves_the_table_flat() {
    let r = registry();
    let now = Instant::now();
    for n in 0..5_000u64 {
        let key = 1_000 + n;
        // Half of them the engine announces first, some it announces and never starts.
        if n % 2 == 0 {
            r.complete(&id(n), named("c"));
        }
        r.complete(&id(n + 1_000_000), named("never"));
        r.on_cgroup_at(&made(key, 5, format!("/docker/{}", id(n))), now);
        assert_eq!(r.view(key).id, id(n));
        r.complete(&id(n), named("c"));
        r.on_cgroup_at(&removed(key), now);
    }
    let counts = r.counts();
    assert!(counts.gone <= MAX_GONE + 1 && counts.ahead <= MAX_AHEAD, "{counts:?}");
    assert_eq!((counts.live, counts.cgroups), (0, 0));
    let inner = r.read();
    assert_eq!(inner.by_id.len(), inner.containers.len());
    assert_eq!(inner.ahead.len(), inner.ahead_order.len());
}

#[test]
fn a_scan_finds_what_exists() {
    let root = tempfile::tempdir().unwrap();
    let outer = format!("docker/{}", id(1));
    for dir in [
        outer.clone(),
        format!("{outer}/init.scope/deep"),
        "system.slice/ssh.service".into(),
        format!("system.slice/docker-{}.scope", id(2)),
        "docker/buildkit/abc".into(),
    ] {
        std::fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    let r = Registry::new(Hierarchy { id: 8, controller: "pids".into(), mount: root.path().into() });
    let changes = r.scan();
    assert_eq!(changes.iter().filter(|c| c.is_container()).count(), 2);
    assert_eq!(changes.len(), 4);
    let key = std::fs::metadata(root.path().join(&outer)).unwrap().ino();
    assert_eq!(r.get(key).unwrap().id, id(1));
    assert_eq!(r.cgroups_of(key).len(), 3);
    assert_eq!(r.directory(key).unwrap(), root.path().join(&outer));
    assert!(r.scan().is_empty(), "a second scan finds nothing new");
    // An event about the same cgroup after the scan changes nothing.
    assert_eq!(r.on_cgroup(&made(key, 5, format!("/{outer}"))), None);
    assert!(r.knows(key) && !r.knows(key + 1_000_000), "told twice, it is taken for no container");
}
