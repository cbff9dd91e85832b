//! One detection, and everything an alert says about it. The contract between `detect`, `respond`
//! and `output`.

use crate::event::{ContainerKey, ProcessKey};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $technique:literal, $severity:ident);+ $(;)?) => {
        /// What was found.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum FindingKind { $($(#[doc = $doc])+ $variant),+ }

        impl FindingKind {
            /// Every kind, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Name in config, events and docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// MITRE ATT&CK technique id it is reported under when the detector names none.
            pub const fn technique(self) -> &'static str {
                match self { $(Self::$variant => $technique),+ }
            }

            /// Severity when the detector names none.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity),+ }
            }

            /// What it means, as on the reference page.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc, "\n"),+)),+ }
            }
        }
    };
}

kinds! {
    /// A program mines cryptocurrency: several pieces of evidence added up.
    Miner = "miner", "T1496", Critical;
    /// A shell or interpreter takes its commands from an outbound connection.
    ReverseShell = "reverse_shell", "T1059.004", Critical;
    /// A shell itself holds an outbound connection, without its stdio being on it.
    ShellConnect = "shell_connect", "T1059.004", Medium;
    /// Program text or an executable that came from the network is run.
    DownloadExec = "download_exec", "T1105", High;
    /// A program that is not part of the image runs (only where a baseline or the config asks).
    Drift = "drift", "T1036", Low;
    /// A program without a file behind it (memfd, deleted) is started.
    FilelessExec = "fileless_exec", "T1620", High;
    /// An `authorized_keys` file is opened for writing.
    PersistenceSshKey = "persistence_ssh_key", "T1098.004", High;
    /// A crontab is opened for writing.
    PersistenceCron = "persistence_cron", "T1053.003", High;
    /// Another start-up file is opened for writing (ld.so.preload, systemd units, shell profiles).
    PersistenceOther = "persistence_other", "T1546", Medium;
    /// The container was made from an image on the denylist.
    ImageDenylist = "image_denylist", "T1204.003", Critical;
    /// An indicator of compromise was seen.
    Ioc = "ioc", "T1071", Medium;
    /// A container talks to a kubelet's API port.
    KubeletAccess = "kubelet_access", "T1609", High;
    /// A container talks to a container runtime's socket or TCP API.
    DockerSocket = "docker_socket", "T1610", High;
    /// A container talks to the cloud metadata service.
    MetadataAccess = "metadata_access", "T1552.005", Medium;
    /// A container reaches out to the host.
    Escape = "escape", "T1611", Critical;
    /// Credentials are read by a program that has no business with them.
    CredentialAccess = "credential_access", "T1003", Medium;
    /// A program start outside the baseline.
    BaselineExec = "baseline_exec", "T1204", Medium;
    /// A connection, or a listening port, outside the baseline.
    BaselineConnect = "baseline_connect", "T1071", Medium;
    /// A watched file is written or read, and the baseline does not have it.
    BaselineFile = "baseline_file", "T1565", Medium;
    /// A burst of reconnaissance.
    Recon = "recon", "T1082", Low;
    /// A container's process reaches for Bulkhead itself: its process, maps, links, pins, files or control
    /// socket; or leaves its container's cgroup by its own hand. Also: what a baseline in `protect` forbids was not stopped when
    /// Bulkhead tried it itself.
    Tamper = "tamper", "T1562.001", Critical;
    /// A container makes more events than there is room for, and some of its own were lost.
    EventLoss = "event_loss", "T1562", Medium;
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Context.
    Low,
    /// To be looked at.
    Medium,
    /// To be acted on.
    High,
    /// Now.
    Critical,
}

/// What may be done about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Tell.
    Alert,
    /// Refuse the act with EPERM where a rung can, else kill.
    Deny,
    /// Kill the culprit and its descendants.
    Kill,
    /// Stop every process of the container where it is.
    Freeze,
    /// Cut the container off from all networks.
    Quarantine,
    /// Let the engine stop the container.
    Stop,
}

impl Action {
    /// Does the kernel half act on it by itself, on the task or the call?
    pub const fn is_reflex(self) -> bool {
        matches!(self, Self::Deny | Self::Kill)
    }
}

/// How an action was enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnforcedBy {
    /// BPF LSM hook.
    Lsm,
    /// cgroup program.
    Cgroup,
    /// Signal sent in the kernel.
    Signal,
    /// Signal sent by the daemon through a pidfd.
    Pidfd,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing was to be done.
    Observed,
    /// The act was refused before it happened.
    Denied {
        /// By which rung.
        by: EnforcedBy,
    },
    /// The culprit was killed.
    Killed {
        /// By which rung.
        by: EnforcedBy,
        /// Processes that got the signal.
        processes: Vec<u32>,
    },
    /// The container is frozen.
    Frozen,
    /// The container is cut off from all networks.
    Quarantined,
    /// The engine was asked to stop the container; a response row tells how that ended.
    Stopping,
    /// An action was due and a guard rail or the system refused it.
    Refused {
        /// Which, in words.
        why: String,
    },
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Short machine name (`stdin_is_outbound_socket`, `stratum_request`, …).
    pub what: String,
    /// In words, with the names and addresses.
    pub detail: String,
    /// Weight where the detector adds evidence up, else 0.
    pub weight: u32,
    /// The event it was seen in.
    pub event: u64,
}

/// A process as it stood when the finding was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Start, ns since boot.
    pub start_ns: u64,
    /// comm.
    pub name: String,
    /// Executable path inside its file system.
    pub executable: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Real uid.
    pub uid: u32,
    /// In the same container as the finding.
    pub in_container: bool,
}

/// A container as far as it was known when the finding was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerView {
    /// Runtime id (64 hex digits), or `host`.
    pub id: String,
    /// `docker`, `containerd`, `cri-o`, `podman`, …; empty if unknown.
    pub runtime: String,
    /// Name.
    pub name: String,
    /// Image reference as given.
    pub image: String,
    /// Image digest.
    pub digest: String,
    /// Labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The metadata is complete; otherwise an amendment with the same finding id follows.
    pub complete: bool,
}

/// What two findings of one attack have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TieKind {
    /// Their processes descend from the same one.
    Lineage,
    /// Bytes that the same process fetched from the network are run or written.
    Origin,
    /// The same file.
    File,
    /// The command that the host runs is a line of a file that a container wrote.
    Line,
    /// A container made from an image on the denylist.
    Image,
}

/// One thing that a finding may have in common with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tie {
    /// What.
    pub what: TieKind,
    /// Findings with the same key are tied.
    pub key: String,
    /// In words, to go on with "linked because".
    pub because: String,
    /// The file as the host sees it, if a container opened one of the host's for writing.
    pub path: Option<String>,
}

/// The incident a finding is part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentView {
    /// The same for all findings that the daemon knew to be tied.
    pub id: String,
    /// By what; the first is its own lineage.
    pub ties: Vec<Tie>,
}

/// One detection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Unique id; an amendment carries the same.
    pub id: String,
    /// What.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// One sentence for a person.
    pub message: String,
    /// ATT&CK technique.
    pub technique: String,
    /// When the act happened, ns since boot.
    pub time_ns: u64,
    /// Container key ([`crate::event::HOST`] for the host).
    pub container_key: ContainerKey,
    /// The container.
    pub container: ContainerView,
    /// The culprit.
    pub process: ProcessView,
    /// Its ancestors, parent first.
    pub ancestors: Vec<ProcessView>,
    /// Other processes of the act (the downloader at the far end of a pipe, a relay).
    pub accomplices: Vec<ProcessView>,
    /// Evidence, strongest first.
    pub evidence: Vec<Evidence>,
    /// Remote address.
    pub peer: Option<SocketAddr>,
    /// File it is about, path inside its file system.
    pub file: Option<String>,
    /// What was done.
    pub outcome: Outcome,
    /// µs from the act to the moment the finding was written.
    pub latency_us: u64,
    /// This is an amendment of an earlier alert with the same id.
    pub amendment: bool,
    /// What it belongs to.
    pub incident: IncidentView,
    /// The reason of the exception that covers it: it is expected, nothing was done, and it is no alert.
    pub excepted: Option<String>,
}

/// What a detector hands over: the judgement without the surroundings, which the pipeline adds.
#[derive(Clone, Debug)]
pub struct Detection {
    /// What.
    pub kind: FindingKind,
    /// How bad; `kind.severity()` unless there is a reason.
    pub severity: Severity,
    /// One sentence for a person.
    pub message: String,
    /// Evidence, strongest first.
    pub evidence: Vec<Evidence>,
    /// Who is to blame (and to be killed, if so configured).
    pub culprit: ProcessKey,
    /// Further processes of the act; killed with the culprit.
    pub accomplices: Vec<ProcessKey>,
    /// Remote address.
    pub peer: Option<SocketAddr>,
    /// File path.
    pub file: Option<String>,
    /// Never act on it, whatever the config says (weak evidence).
    pub alert_only: bool,
    /// Another culprit of an incident that was reported moments ago: act on it as configured, but
    /// do not report it again.
    pub repeat: bool,
    /// The reason of the exception that covers it: neither told nor acted upon.
    pub excepted: Option<String>,
}

impl Detection {
    /// A detection of `kind` with its default severity.
    pub fn new(kind: FindingKind, culprit: ProcessKey, message: impl Into<String>) -> Self {
        Self {
            kind,
            severity: kind.severity(),
            message: message.into(),
            evidence: Vec::new(),
            culprit,
            accomplices: Vec::new(),
            peer: None,
            file: None,
            alert_only: false,
            repeat: false,
            excepted: None,
        }
    }

    /// Adds a piece of evidence.
    #[must_use]
    pub fn with(mut self, event: u64, what: &str, weight: u32, detail: impl Into<String>) -> Self {
        self.evidence.push(Evidence { what: what.into(), detail: detail.into(), weight, event });
        self
    }
}
