//! The tables of the file, except `[actions]`.

use super::doc::section;
use super::value::{CgroupPrefix, Cidr, Digest, Domain, Glob, PathPattern, Score};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[doc = $vdoc])+ #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// As in the file.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    /// What Bulkhead does in a container.
    Mode {
        /// Nothing: the container is not watched.
        Off = "off",
        /// Alerts; touches nothing.
        Monitor = "monitor",
        /// Acts as `[actions]` says.
        Protect = "protect",
    }
}

words! {
    /// What a program outside the image is.
    Drift {
        /// Evidence for other findings.
        Evidence = "evidence",
        /// A finding of its own.
        Alert = "alert",
    }
}

words! {
    /// What becomes of enforcement when the daemon is not there.
    DaemonExit {
        /// It goes on.
        Keep = "keep",
        /// It ends.
        Release = "release",
    }
}

words! {
    /// How alerts are written.
    Format {
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
        /// `human` on a terminal, else `json`.
        Auto = "auto",
    }
}

words! {
    /// Least level of the daemon's own log.
    Level {
        /// Only what needs somebody.
        Error = "error",
        /// And what may need somebody.
        Warn = "warn",
        /// And the normal course of things.
        Info = "info",
        /// And why.
        Debug = "debug",
        /// And everything.
        Trace = "trace",
    }
}

words! {
    /// A kind of hook that can be left out.
    DoorKind {
        /// BPF LSM programs.
        Lsm = "lsm",
        /// Entry and exit of kernel functions.
        Fentry = "fentry",
    }
}

words! {
    /// What sessions are that a runtime's exec starts in a running container.
    RuntimeExec {
        /// Nobody's business: neither learned nor compared with the baseline.
        Allow = "allow",
        /// Told when the baseline does not have them, never acted upon.
        Alert = "alert",
        /// As anything else.
        Deny = "deny",
    }
}

#[expect(clippy::derivable_impls, reason = "`words!` declares no default among its words")]
impl Default for RuntimeExec {
    fn default() -> Self {
        Self::Alert
    }
}

words! {
    /// Programs that are not the image's, where a baseline holds.
    DriftLock {
        /// As the baseline says.
        Learned = "learned",
        /// None is expected, whatever the baseline says.
        Deny = "deny",
    }
}

words! {
    /// How far baselines are promoted without a person.
    Promote {
        /// Not at all.
        Off = "off",
        /// From `learn` to `monitor`.
        Monitor = "monitor",
        /// And from `monitor` to `protect`.
        Protect = "protect",
    }
}

/// One `[[image]]`: the mode of containers by their image. The first match counts; a container's label
/// `bulkhead.mode` comes before all of them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRule {
    /// Glob over the image reference as the container was made with; `*` also matches `/`.
    #[serde(rename = "match")]
    pub pattern: Glob,
    /// The mode.
    pub mode: Mode,
}

section! {
    /// Where actions are allowed at all. Empty lists mean everywhere; when either is set, only
    /// containers that one of them names are acted upon, and all others get alerts.
    Scope {
        /// Prefixes of cgroup paths.
        cgroups: Vec<CgroupPrefix> = Vec::new(), example "[\"/kubepods\", \"/docker\"]";
        /// Container labels, `key` or `key=value`.
        labels: Vec<String> = Vec::new(), example "[\"team=payments\"]";
    }
}

section! {
    /// The host itself, watched as one more container named `host`.
    Host {
        /// Look for reverse shells, downloads that are run, and miners among the host's own processes: the
        /// payloads of poisoned images often run there, started by the host's cron.
        watch: bool = true;
        /// Ask for actions on host processes as well. A guard rail refuses them in this version: with `true`
        /// every action that is due there is reported as refused, and none is taken.
        enforce: bool = false;
    }
}

section! {
    /// Where names, images and labels of containers come from.
    Engine {
        /// Ask Docker. Without an engine containers are still recognised by their cgroup.
        docker: bool = true;
        /// Docker's API socket.
        docker_socket: PathBuf = "/var/run/docker.sock".into();
    }
}

section! {
    /// The programs in the kernel.
    Kernel {
        /// Doors not to use although this kernel opens them: `lsm`, `fentry`. What they would do is left to
        /// the next best (`bulkhead check` shows which). For finding out where a problem comes from.
        avoid: Vec<DoorKind> = Vec::new(), example "[\"lsm\"]";
    }
}

section! {
    /// What the containers of an image do, learned or written down, and told when they do anything else
    /// (docs/baselines.md). A container's label `bulkhead.baseline` (`off`, `learn`, `monitor`, `protect`) comes before
    /// what its baseline says of itself.
    Baseline {
        /// Folder of the files, one a baseline. What changes there is read again within a second.
        folder: PathBuf = "/var/lib/bulkhead/baselines".into();
        /// Images that get a baseline, in mode `learn`, if they have none: globs over the image reference, `*`
        /// also matches `/`.
        learn: Vec<Glob> = Vec::new(), example "[\"registry.example/payments/*\"]";
        /// Seconds that an act is held back before it is learned: what is found meanwhile in the same process
        /// tree keeps it out.
        settle_s: u32 = 60;
        /// Seconds between two times that what was learned is written. At least 1.
        write_s: u32 = 30;
        /// Sessions that a runtime's exec starts in a running container (`docker exec`, `kubectl exec`), with all
        /// that is started in them: `allow` (not looked at, not learned), `alert` (what the baseline does not have is
        /// told, never acted upon) or `deny` (as anything else).
        runtime_exec: RuntimeExec = RuntimeExec::Alert;
        /// Programs whose file is not the image's (writable layer, tmpfs, volume, memory): `learned` (the baseline says
        /// which are expected) or `deny` (none is, whatever was learned). With `deny`, libraries and other code that is mapped
        /// from such files are stopped as well, where a baseline in `protect` holds.
        drift: DriftLock = DriftLock::Learned;
        /// How far baselines are promoted without a person, once their containers were at work for `promote_quiet_s` and did
        /// nothing that is not in them: `off`, `monitor` (from `learn`) or `protect` (from `monitor` as well, which
        /// is to be acted upon).
        promote: Promote = Promote::Off;
        /// Seconds of that time; it begins anew with what is new, found or lost, and with the daemon. At least `settle_s` and
        /// `write_s` together.
        promote_quiet_s: u32 = 86_400;
        /// Seconds between two times that a process of Bulkhead's own, in a cgroup of its own that is held to a baseline in
        /// `protect`, starts a program and connects to where the baseline forbids it, to see both stopped. `bulkhead
        /// status` tells how long ago that was; what is not stopped is a `tamper` finding. 0: never.
        canary_s: u32 = 300;
    }
}

section! {
    /// Where alerts go.
    Output {
        /// `human`, `json`, or `auto`: human on a terminal, else JSON.
        format: Format = Format::Auto;
        /// File to append to instead of standard output. With `auto` a file gets JSON.
        file: Option<PathBuf> = None, example "\"/var/log/bulkhead/alerts.jsonl\"";
        /// The file is rotated before it grows beyond this many bytes. At least 4096: one alert is a few
        /// kilobytes.
        max_bytes: u64 = 64 * 1024 * 1024;
        /// Rotated files kept (`.1` is the newest); 0 starts the file afresh.
        keep: u32 = 4;
        /// File that gets every event as well, one JSON object a line: program starts and ends, connections
        /// and opens, findings or not. Rotated as `file` is. Much is written on a busy host.
        events: Option<PathBuf> = None, example "\"/var/log/bulkhead/events.jsonl\"";
        /// Write findings that an `[[exception]]` covers too, as rows whose `event.kind` is `event` instead of
        /// `alert`. They are counted in `bulkhead status` either way.
        excepted: bool = false;
    }
}

section! {
    /// Programs, maps and rings are pinned in a BPF file system, so that a new daemon takes over where the
    /// last one ended (docs/restart.md).
    Pins {
        /// Folder for the pins, of this daemon alone. If there is no BPF file system, one is mounted: at
        /// `/sys/fs/bpf` for a folder below it, else at the folder itself. An empty path pins nothing:
        /// everything ends with the daemon, whatever `on_daemon_exit` says.
        root: PathBuf = "/sys/fs/bpf/bulkhead".into();
        /// Seconds without a heartbeat after which the programs take the daemon for dead. At least 3: it
        /// beats once a second.
        heartbeat_limit_s: u32 = 10;
    }
}

section! {
    /// The socket that `bulkhead events` and `bulkhead status` talk to.
    Control {
        /// Path of the socket; only root may use it. An empty path means no socket.
        socket: PathBuf = "/run/bulkhead/control.sock".into();
    }
}

section! {
    /// Miners: evidence is added up per process tree.
    Miner {
        /// From this score on it is a finding. One weak sign (a name 30, a pool's name 50, a port 5) stays
        /// below it; a stratum request alone (90) is above.
        alert_score: Score = Score(60);
        /// From this score on the configured action is taken. Not below `alert_score`.
        kill_score: Score = Score(90);
        /// Further pool domains, with everything below them.
        pools: Vec<Domain> = Vec::new(), example "[\"pool.example\"]";
        /// Networks of pools you know; a connection there weighs as much as a pool's name (50), never on top of it.
        pool_networks: Vec<Cidr> = Vec::new(), example "[\"198.51.100.0/24\"]";
        /// Further program names of miners.
        names: Vec<String> = Vec::new(), example "[\"my-miner\"]";
        /// Further ports (context only: a port never alerts by itself).
        ports: Vec<u16> = Vec::new(), example "[10032]";
    }
}

section! {
    /// Images nobody should run, on top of the built-in list.
    Images {
        /// Further lists, in the format of `config/data/images.toml`.
        denylist_files: Vec<PathBuf> = Vec::new(), example "[\"/etc/bulkhead/denylist.toml\"]";
        /// Globs over image references, with any registry prefix: `evil/*` also covers
        /// `registry.example/evil/tool:1`.
        denylist: Vec<Glob> = Vec::new(), example "[\"evil/*\"]";
        /// Image digests.
        digests: Vec<Digest> = Vec::new(),
            example "[\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]";
    }
}

section! {
    /// Files whose opening for writing is a persistence finding, on top of the built-in list. A pattern is
    /// the last one to three components of a path; `*` stands for one whole component.
    Sensitive {
        /// Found as `persistence_ssh_key`.
        ssh_keys: Vec<PathPattern> = Vec::new(), example "[\"ssh/authorized_keys/*\"]";
        /// Found as `persistence_cron`.
        cron: Vec<PathPattern> = Vec::new(), example "[\"etc/fcrontab\"]";
        /// Found as `persistence_other`.
        other: Vec<PathPattern> = Vec::new(), example "[\".config/autostart/*\"]";
    }
}

section! {
    /// Files that replace the built-in lists (`config/data/` in the sources). A relative path starts at
    /// the folder of this file.
    Data {
        /// Images nobody should run.
        images: Option<PathBuf> = None, example "\"images.toml\"";
        /// Pool domains and ports.
        pools: Option<PathBuf> = None, example "\"pools.toml\"";
        /// Program names and arguments of miners.
        miners: Option<PathBuf> = None, example "\"miners.toml\"";
        /// Files whose writing is persistence.
        sensitive: Option<PathBuf> = None, example "\"sensitive.toml\"";
        /// Shells, interpreters, package managers, session servers.
        programs: Option<PathBuf> = None, example "\"programs.toml\"";
    }
}

section! {
    /// The daemon's own log, on standard error. Alerts never go there.
    Log {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        level: Level = Level::Info;
    }
}
