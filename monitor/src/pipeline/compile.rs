//! From configuration to what the stages work with: an immutable snapshot that is built and checked
//! as a whole, so that a reload either takes effect or changes nothing.

use crate::baseline;
use crate::config::{self, DaemonExit, DoorKind, Drift, DriftLock, Lists, Loaded, Mode as ConfigMode, Promote};
use crate::container::denylist::{Denylist, DenylistError};
use crate::container::sockets;
use crate::detect::Settings;
use crate::event::Fingerprint;
use crate::kernel::clock::boot_ns;
use crate::kernel::maps::Maps;
use crate::kernel::pins::fnv64;
use crate::respond::exceptions::{Exceptions, today};
use crate::respond::policy::{Mode, Rules};
use monitor_common::hash;
use monitor_common::state::{Config as KernelConfig, InodeKey};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names a runtime's socket goes by, wherever it is mounted.
const SOCKET_NAMES: &[&str] =
    &["docker.sock", "containerd.sock", "crio.sock", "podman.sock", "cri-dockerd.sock", "dockershim.sock"];

/// Folders a program is looked for in.
const PROGRAM_FOLDERS: &[&str] = &["bin", "usr/bin", "usr/local/bin", "sbin", "usr/sbin", "busybox"];

/// See the module.
#[derive(Debug)]
pub struct Compiled {
    /// What is to be done about what, where.
    pub rules: Rules,
    /// Thresholds and lists of the detectors.
    pub settings: Settings,
    /// Images nobody should run.
    pub denylist: Denylist,
    /// Names for the kernel half.
    pub lists: Lists,
    /// Judge the host's own processes too.
    pub watch_host: bool,
    /// The engine's socket.
    pub engine_socket: PathBuf,
    /// Kinds of hooks not to use.
    pub avoid: Vec<&'static str>,
    /// Tells configurations apart from which containers' policies would be made otherwise.
    pub rules_id: u64,
    /// There is an engine that will tell of containers.
    pub engine: bool,
    /// Enforcement ends with the daemon.
    pub release: bool,
    /// Findings that an exception covers are written too.
    pub write_excepted: bool,
    /// What baselines are for, and where.
    pub baseline: baseline::Settings,
    /// How often it is tried whether baselines are enforced, ns; 0 is never.
    pub canary_ns: u64,
    /// Age of the heartbeat from which on the daemon counts as dead, ns.
    pub heartbeat_limit_ns: u64,
}

impl Compiled {
    /// Builds the snapshot.
    ///
    /// # Errors
    /// A denylist entry that is no glob.
    pub fn new(loaded: &Loaded) -> Result<Self, DenylistError> {
        let config = &loaded.config;
        let images: Vec<&str> = loaded.lists.images.image.iter().map(|entry| entry.image.as_str()).collect();
        let digests: Vec<&str> = loaded.lists.images.digest.iter().map(|entry| entry.digest.as_str()).collect();
        Ok(Self {
            rules: rules(loaded),
            settings: settings(loaded),
            denylist: Denylist::new(&images, &digests)?,
            lists: loaded.lists.clone(),
            watch_host: config.host.watch,
            engine_socket: config.engine.docker_socket.clone(),
            avoid: config.kernel.avoid.iter().flat_map(|kind| doors(*kind)).copied().collect(),
            rules_id: rules_id(loaded),
            engine: config.engine.docker,
            release: config.on_daemon_exit == DaemonExit::Release,
            write_excepted: config.output.excepted,
            baseline: baseline::Settings {
                folder: config.baseline.folder.clone(),
                learn: config.baseline.learn.clone(),
                settle_ns: u64::from(config.baseline.settle_s) * 1_000_000_000,
                write_ns: u64::from(config.baseline.write_s) * 1_000_000_000,
                runtime_exec: config.baseline.runtime_exec,
                drift_lock: config.baseline.drift == DriftLock::Deny,
                promotion: promotion(&config.baseline),
            },
            canary_ns: u64::from(config.baseline.canary_s) * 1_000_000_000,
            heartbeat_limit_ns: u64::from(config.pins.heartbeat_limit_s) * 1_000_000_000,
        })
    }

    /// What the programs read at run time.
    pub fn kernel_config(&self) -> KernelConfig {
        KernelConfig {
            default_enforce: self.rules.default_enforce(),
            watch_host: u32::from(self.watch_host),
            self_tgid: std::process::id(),
            // In force or not is the maps' to know: it outlives a reload. So is what is held back.
            responses: 0,
            holds_back: 0,
            release: u32::from(self.release),
            heartbeat_ns: boot_ns(),
            limit_ns: self.heartbeat_limit_ns,
            seed: 0,
        }
    }
}

fn promotion(baseline: &config::Baseline) -> baseline::Promotion {
    let up_to = match baseline.promote {
        Promote::Off => None,
        Promote::Monitor => Some(baseline::Stage::Monitor),
        Promote::Protect => Some(baseline::Stage::Protect),
    };
    baseline::Promotion { up_to, quiet_ns: u64::from(baseline.promote_quiet_s) * 1_000_000_000 }
}

/// Names of the doors of a kind.
fn doors(kind: DoorKind) -> &'static [&'static str] {
    match kind {
        DoorKind::Lsm => &["lsm"],
        DoorKind::Fentry => &["fentry", "fexit"],
    }
}

/// A hash of what [`rules`] reads, in the order of the declarations.
fn rules_id(loaded: &Loaded) -> u64 {
    let config = &loaded.config;
    let held: Vec<bool> = config.exception.iter().map(|rule| rule.is_over(today())).collect();
    let exceptions = (&config.exception, held, config.engine.docker);
    let text = serde_json::to_string(&(config.mode, &config.image, &config.actions, &config.scope, exceptions))
        .unwrap_or_default();
    fnv64(text.bytes())
}

fn mode(mode: ConfigMode) -> Mode {
    match mode {
        ConfigMode::Off => Mode::Off,
        ConfigMode::Monitor => Mode::Monitor,
        ConfigMode::Protect => Mode::Protect,
    }
}

fn rules(loaded: &Loaded) -> Rules {
    let config = &loaded.config;
    Rules {
        default_mode: mode(config.mode),
        image_modes: config.image.iter().map(|rule| (rule.pattern.matcher().clone(), mode(rule.mode))).collect(),
        actions: crate::finding::FindingKind::ALL.iter().map(|kind| (*kind, config.actions.of(*kind))).collect(),
        scope_cgroups: config.scope.cgroups.iter().map(|prefix| prefix.as_str().to_owned()).collect(),
        scope_labels: config.scope.labels.clone(),
        host_enforce: config.host.enforce,
        exceptions: Exceptions::new(&config.exception, today(), config.engine.docker),
    }
}

fn settings(loaded: &Loaded) -> Settings {
    let (config, lists) = (&loaded.config, &loaded.lists);
    let mut settings = Settings {
        drift_alert: config.drift == Drift::Alert,
        miner_alert: config.miner.alert_score.0,
        miner_kill: config.miner.kill_score.0,
        pools: lists.pools.domains.iter().map(|domain| domain.as_str().to_owned()).collect(),
        pool_sites: lists.pools.mixed_domains.iter().map(|domain| domain.as_str().to_owned()).collect(),
        pool_networks: lists.pools.networks.iter().map(|network| network.0).collect(),
        pool_ports: lists.pools.ports.clone(),
        miner_names: lists.miners.names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        ..Settings::default()
    };
    // RFC 2606 name: the demo and the scenarios mine there.
    settings.pools.push("pool.example".into());
    settings
}

/// Class bits of a program by its name or content, as the kernel half gets them.
pub fn classify(lists: &Lists, name: &str, _print: Fingerprint) -> u32 {
    let wanted = hash::program(name.as_bytes());
    lists.programs.classes().find(|(known, _)| hash::program(known.as_bytes()) == wanted).map_or(0, |(_, bits)| bits)
}

/// Writes names, paths and sockets into the kernel half's maps, and takes out those of an earlier
/// configuration.
pub fn fill_maps(maps: &mut Maps, compiled: &Compiled) {
    for (name, bits) in compiled.lists.programs.classes() {
        maps.set_class(hash::program(name.as_bytes()), bits);
    }
    for (path, bits) in programs(&compiled.lists, "/") {
        if let Some(print) = crate::kernel::classes::fingerprint(&path) {
            maps.set_fingerprint(&print, bits);
        }
    }
    let (mut classes, mut sensitive) = (HashSet::new(), HashSet::new());
    classes.extend(compiled.lists.programs.classes().map(|(name, _)| hash::program(name.as_bytes())));
    for (pattern, reason) in compiled.lists.sensitive.patterns() {
        maps.set_sensitive(pattern.key(), reason as u32);
        sensitive.insert(pattern.key());
    }
    maps.keep_names(&classes, &sensitive);
    for name in SOCKET_NAMES {
        maps.set_socket_name(hash::name(name.as_bytes()));
    }
    maps.set_descriptor_names();
    match host_mounts() {
        Some(number) => maps.set_host_mounts(number),
        None => tracing::warn!("the host's mount namespace cannot be read: joining it is told, not stopped"),
    }
    runtime_sockets(maps, &compiled.engine_socket);
}

/// Inode number of the host's mount namespace: that of its first process or, where that may not be looked at, of the
/// kernel's own threads.
fn host_mounts() -> Option<u64> {
    let number = |path| Some(std::fs::metadata(path).ok()?.ino());
    number("/proc/1/ns/mnt").or_else(|| number("/proc/2/ns/mnt"))
}

/// Socket files of the container runtimes as they are now.
pub fn runtime_sockets(maps: &mut Maps, configured: &Path) {
    for socket in sockets::runtime_sockets([configured]) {
        maps.set_runtime_socket(InodeKey { ino: socket.inode.ino, dev: socket.inode.dev, generation: 0 });
    }
}

/// Shells, interpreters and multi-call binaries below a root directory, with their class. What a
/// symlink leads to is found under its own name.
pub fn programs(lists: &Lists, root: &str) -> Vec<(PathBuf, u32)> {
    let wanted = monitor_common::state::CLASS_SHELL
        | monitor_common::state::CLASS_INTERPRETER
        | monitor_common::state::CLASS_MULTICALL;
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for folder in PROGRAM_FOLDERS {
        for (name, bits) in lists.programs.classes().filter(|(_, bits)| bits & wanted != 0) {
            let path = Path::new(root).join(folder).join(name);
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            if meta.is_file()
                && seen.insert((std::os::unix::fs::MetadataExt::dev(&meta), std::os::unix::fs::MetadataExt::ino(&meta)))
            {
                found.push((path, bits));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_builtin_denylist_covers_any_registry_and_tag() {
        let denylist = Compiled::new(&Loaded::builtin().unwrap()).unwrap().denylist;
        for bad in [
            "docker123321/mysql5",
            "docker.io/docker123321/tomcat11:1",
            "mirror.example:5000/hub/docker123321/cron",
            "docker123321/kk@sha256:0000",
            "registry.example/cmd.cat/chattr",
        ] {
            assert!(denylist.check(bad).is_some(), "{bad}");
        }
        for good in ["mysql:5", "notdocker123321/mysql", "docker123321", "pocosow/centos-tools", ""] {
            assert!(denylist.check(good).is_none(), "{good}");
        }
    }

    #[test]
    fn the_miner_detector_gets_the_configured_networks() {
        let config = "[miner]\npool_networks = [\"198.51.100.0/24\"]\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("b.toml");
        std::fs::write(&file, config).unwrap();
        let settings = Compiled::new(&Loaded::load(&file).unwrap()).unwrap().settings;
        assert!(settings.pool_network("198.51.100.7".parse().unwrap()).is_some());
        assert!(settings.pool_network("198.51.101.7".parse().unwrap()).is_none());
    }
}
