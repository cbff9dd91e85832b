//! Writes that persist, and set-up.

use crate::detect::ContainerFacts;
use crate::detect::testing::{CONTAINER, Lab, kinds, open};
use crate::event::{Body, ContainerKey, ProcessKey, Reason, file, state};
use crate::finding::FindingKind::{Escape, PersistenceCron, PersistenceOther, PersistenceSshKey};
use crate::finding::{FindingKind, Severity};

const WRITE: u32 = file::FILE_WRITE | file::FILE_SENSITIVE;

fn write(lab: &mut Lab, pid: u32, path: &str, reason: Reason, flags: u32, task: u32) -> Vec<FindingKind> {
    let mut o = open(path, flags, task);
    o.sensitive = reason;
    kinds(&lab.act_for(pid, reason, Body::Open(Box::new(o))))
}

#[test]
fn keys_and_crontabs() {
    let mut lab = Lab::new();
    let key = "/root/.ssh/authorized_keys";
    assert!(write(&mut lab, 9, key, Reason::PersistenceSshKey, file::FILE_SENSITIVE, 0).is_empty());
    assert_eq!(write(&mut lab, 9, key, Reason::PersistenceSshKey, WRITE, 0), [PersistenceSshKey]);
    let tab = "/var/spool/cron/crontabs/tmp.x";
    assert_eq!(write(&mut lab, 9, tab, Reason::PersistenceCron, WRITE, 0), [PersistenceCron]);
    let pm = state::TASK_PACKAGE_MANAGER;
    assert!(write(&mut lab, 9, "/etc/cron.d/e2scrub", Reason::PersistenceCron, WRITE, pm).is_empty());
}

#[test]
fn a_copy_of_a_root_is_no_root() {
    let mut lab = Lab::new();
    for (path, reason) in [
        ("/var/backups/r/etc/cron.d/e2scrub", Reason::PersistenceCron),
        ("…/b/c/d/e/f/etc/init.d/cron", Reason::PersistenceOther),
        ("/srv/root/var/spool/cron/crontabs/x", Reason::PersistenceCron),
        ("/var/backups/etc.1/skel/.bashrc", Reason::PersistenceOther),
    ] {
        let own = WRITE | file::FILE_OVERLAY;
        assert!(write(&mut lab, 9, path, reason, own, 0).is_empty(), "{path}");
        assert!(
            !write(&mut lab, 9, path, reason, WRITE, 0).is_empty(),
            "{path}, a root file system in a folder of a disk"
        );
    }
    let key = "/srv/app/.ssh/authorized_keys";
    assert_eq!(write(&mut lab, 9, key, Reason::PersistenceSshKey, WRITE, 0), [PersistenceSshKey]);
    let template = "/etc/skel/.bashrc";
    let own = WRITE | file::FILE_OVERLAY;
    assert_eq!(write(&mut lab, 9, template, Reason::PersistenceOther, own, 0), [PersistenceOther]);
    let mounted = "/srv/scratch/etc/cron.d/x";
    let foreign = WRITE | file::FILE_FOREIGN_SB;
    assert_eq!(write(&mut lab, 9, mounted, Reason::PersistenceCron, foreign, 0), [Escape, PersistenceCron]);
}

#[test]
fn moved_into_place() {
    let mut lab = Lab::new();
    let mut o = open("/root/.ssh/authorized_keys", WRITE | file::FILE_NAMED, 0);
    o.sensitive = Reason::PersistenceSshKey;
    let found = lab.act_for(9, Reason::PersistenceSshKey, Body::Open(Box::new(o)));
    assert_eq!(kinds(&found), [PersistenceSshKey]);
    assert!(found[0].message.contains("moves or links"), "{}", found[0].message);
}

#[test]
fn the_hosts_crontab_is_an_escape() {
    let mut lab = Lab::new();
    let host = WRITE | file::FILE_FOREIGN_SB;
    let mut o = open("/etc/crontab", host, 0);
    o.sensitive = Reason::PersistenceCron;
    let found = lab.act_for(9, Reason::PersistenceCron, Body::Open(Box::new(o)));
    assert_eq!(kinds(&found), [Escape, PersistenceCron]);
    assert_eq!(found[0].severity, Severity::Critical);
    // A named volume is the container's own.
    let volume = "…/lib/docker/volumes/v/_data/etc/crontab";
    assert_eq!(write(&mut lab, 5, volume, Reason::PersistenceCron, host, 0), [PersistenceCron]);
    let agent = "/rdma/release_agent";
    assert_eq!(write(&mut lab, 5, agent, Reason::Escape, WRITE, 0), [Escape]);
}

struct Facts;
impl ContainerFacts for Facts {
    fn init(&self, _: ContainerKey) -> Option<ProcessKey> {
        Some(Lab::key(5))
    }
    fn started_ns(&self, _: ContainerKey) -> Option<u64> {
        Some(1)
    }
}

#[test]
fn set_up_is_silent() {
    let mut lab = Lab::new();
    lab.facts = Box::new(Facts);
    assert_eq!(lab.container, CONTAINER);
    lab.exec(20, 9, &["useradd", "-m", "app"]);
    let made = WRITE | file::FILE_CREATED;
    assert!(write(&mut lab, 20, "/home/app/.bashrc", Reason::PersistenceOther, made, 0).is_empty());
    // The entry point installs its jobs; the runtime's exec does not set up anything.
    lab.exec(30, 5, &["sh", "entry.sh"]);
    assert!(write(&mut lab, 30, "/etc/crontabs/root", Reason::PersistenceCron, WRITE, state::TASK_SHELL).is_empty());
    let preload = "/etc/ld.so.preload";
    assert_eq!(write(&mut lab, 30, preload, Reason::PersistenceOther, WRITE, 0), [PersistenceOther]);
    assert_eq!(write(&mut lab, 9, "/root/.bashrc", Reason::PersistenceOther, WRITE, 0), [PersistenceOther]);
    lab.advance(60_000);
    assert_eq!(write(&mut lab, 30, "/etc/crontabs/app", Reason::PersistenceCron, WRITE, 0), [PersistenceCron]);
}
