//! The alert row: Elastic Common Schema names, nested; `bulkhead.*` for what ECS has no field for.
//! The doc comments here are the descriptions in docs/alert.schema.json. `build` makes a row of a
//! finding.

mod build;

pub(super) use build::container as container_fields;

use super::notice::NoticeRow;
use super::response::ResponseRow;
use crate::finding::{FindingKind, TieKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// ECS version the names are from.
pub const ECS_VERSION: &str = "8.17.0";

macro_rules! rows {
    ($($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $fdoc:literal])+ $(#[serde $serde:tt])? $field:ident: $ty:ty),+ $(,)?
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub struct $name { $($(#[doc = $fdoc])+ $(#[serde $serde])? pub $field: $ty),+ }
    )+};
}
pub(super) use rows;

rows! {
    /// One alert.
    Alert {
        /// When the act happened, ISO 8601, UTC.
        #[serde(rename = "@timestamp")]
        timestamp: String,
        /// The ECS version.
        ecs: Ecs,
        /// About the alert itself.
        event: AlertEvent,
        /// One sentence for a person.
        message: String,
        /// The rule that found it.
        rule: Rule,
        /// The technique.
        threat: Threat,
        /// The machine.
        host: Host,
        /// The culprit.
        process: Process,
        /// Its container.
        container: Container,
        /// The remote address, if the act had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        destination: Option<Destination>,
        /// The file it is about, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<FileField>,
        /// What ECS has no field for.
        bulkhead: Bulkhead,
    }

    /// ECS version.
    Ecs {
        /// Version of the field names.
        version: String,
    }

    /// `event.*` of an alert.
    AlertEvent {
        /// `alert`; `event` if an exception covers it (`bulkhead.exception`).
        kind: AlertKind,
        /// The finding's kind.
        action: FindingName,
        /// The finding's id; an amendment carries the same.
        id: String,
        /// 1 info, 21 low, 47 medium, 73 high, 99 critical.
        severity: u32,
        /// ECS categories.
        category: Vec<String>,
        /// ECS types: `info`, and `denied` if the act was stopped.
        #[serde(rename = "type")]
        types: Vec<String>,
        /// Always `bulkhead`.
        module: String,
        /// Always `bulkhead.alert`.
        dataset: String,
        /// When the row was written, ISO 8601, UTC.
        created: String,
    }

    /// `rule.*`.
    Rule {
        /// The finding's kind.
        name: FindingName,
    }

    /// `threat.*`.
    Threat {
        /// Always `MITRE ATT&CK`.
        framework: String,
        /// The technique.
        technique: Technique,
    }

    /// `threat.technique.*`.
    Technique {
        /// ATT&CK ids.
        id: Vec<String>,
    }

    /// `host.*`.
    Host {
        /// Host name.
        name: String,
    }

    /// `user.*`.
    User {
        /// Real uid in the host's user namespace.
        id: String,
    }

    /// `process.*`.
    Process {
        /// Process id in the host's pid namespace.
        pid: u32,
        /// comm.
        name: String,
        /// Path of the executable inside its file system.
        executable: String,
        /// Arguments (control characters as they are).
        args: Vec<String>,
        /// Arguments as one line, quoted as for a shell.
        command_line: String,
        /// When it started, ISO 8601, UTC.
        start: String,
        /// `PID-START_NS`: unique on this boot of this host.
        entity_id: String,
        /// Who.
        user: User,
        /// Its parent, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Box<Parent>>,
        /// Extension used by Elastic's own sensors.
        #[serde(rename = "Ext")]
        ext: Ext,
    }

    /// `process.parent.*`.
    Parent {
        /// Process id in the host's pid namespace.
        pid: u32,
        /// comm.
        name: String,
        /// Path of the executable inside its file system.
        executable: String,
        /// Arguments.
        args: Vec<String>,
        /// Arguments as one line, quoted as for a shell.
        command_line: String,
        /// When it started, ISO 8601, UTC.
        start: String,
        /// `PID-START_NS`.
        entity_id: String,
        /// Who.
        user: User,
    }

    /// `process.Ext.*`.
    Ext {
        /// Process ids of the ancestors, the parent first.
        ancestry: Vec<u32>,
    }

    /// `container.*`.
    Container {
        /// The runtime's id, or `host`.
        id: String,
        /// Name; empty while unknown.
        name: String,
        /// Image.
        image: Image,
        /// `docker`, `containerd`, …; empty if unknown.
        runtime: String,
        /// Labels.
        labels: BTreeMap<String, String>,
    }

    /// `container.image.*`.
    Image {
        /// The reference the container was made with; empty while unknown.
        name: String,
        /// Digests.
        hash: ImageHash,
    }

    /// `container.image.hash.*`.
    ImageHash {
        /// Digests; empty while unknown.
        all: Vec<String>,
    }

    /// `destination.*`.
    Destination {
        /// Address.
        ip: String,
        /// Port.
        port: u16,
    }

    /// `file.*`.
    FileField {
        /// Path inside its file system.
        path: String,
        /// Last component.
        name: String,
    }

    /// `bulkhead.finding.*`.
    FindingField {
        /// As `event.id`.
        id: String,
        /// As `event.action`.
        kind: FindingName,
        /// `info`, `low`, `medium`, `high`, `critical`.
        severity: String,
    }

    /// `bulkhead.*`.
    Bulkhead {
        /// The finding.
        finding: FindingField,
        /// What came of it.
        outcome: OutcomeName,
        /// By which rung of the capability ladder, if it was denied, killed or quarantined.
        enforced_by: Option<RungName>,
        /// Why an action that was due was not taken.
        refused_why: Option<String>,
        /// Processes that got the signal.
        killed_pids: Vec<u32>,
        /// Evidence, strongest first.
        evidence: Vec<EvidenceField>,
        /// Ancestors and the culprit, the outermost first.
        process_tree: Vec<TreeNode>,
        /// Other processes of the act.
        accomplices: Vec<TreeNode>,
        /// µs from the act to the writing of the finding.
        latency_us: u64,
        /// An amendment of an earlier alert with the same id: metadata that was not yet known.
        amendment: bool,
        /// The container's metadata is complete; otherwise an amendment may follow.
        complete: bool,
        /// What it is part of; rows of versions before incidents have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incident: Option<IncidentField>,
        /// The exception that covers it, if one does: it is expected, and nothing was done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exception: Option<ExceptionField>,
    }

    /// `bulkhead.incident.*`.
    IncidentField {
        /// The same for all findings that the daemon knew to be of one attack.
        id: String,
        /// By what they are tied: findings with a key in common belong together.
        ties: Vec<TieField>,
    }

    /// One thing that findings have in common.
    TieField {
        /// `lineage`, `origin`, `file`, `line`, `image`.
        what: TieKind,
        /// The same in all that have it in common.
        key: String,
        /// In words.
        because: String,
        /// The file as the host sees it, if a container opened one of the host's for writing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    }

    /// `bulkhead.exception.*`.
    ExceptionField {
        /// Its reason, as in the configuration.
        reason: String,
    }

    /// One piece of evidence.
    EvidenceField {
        /// Short machine name.
        what: String,
        /// In words.
        detail: String,
        /// Weight where evidence is added up, else 0.
        weight: u32,
        /// Id of the event it was seen in.
        event: u64,
    }

    /// A process of the tree.
    TreeNode {
        /// Process id in the host's pid namespace.
        pid: u32,
        /// `PID-START_NS`.
        entity_id: String,
        /// comm.
        name: String,
        /// Path of the executable inside its file system.
        executable: String,
        /// Arguments as one line, quoted as for a shell.
        command_line: String,
        /// Real uid.
        uid: u32,
        /// In the same container as the finding.
        in_container: bool,
    }
}

macro_rules! names {
    ($($(#[doc = $doc:literal])+ $name:ident { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[expect(missing_docs, reason = "the word says it")]
        pub enum $name { $(#[serde(rename = $word)] $variant),+ }
        impl $name {
            /// As in the row.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $word),+ } }
        }
    )+};
}

names! {
    /// `event.kind` of an alert.
    AlertKind { Alert = "alert", Event = "event" }
    /// What came of a finding.
    OutcomeName {
        Observed = "observed", Denied = "denied", Killed = "killed", Frozen = "frozen", Quarantined = "quarantined",
        Stopping = "stopping", Refused = "refused",
    }
    /// Rung of the ladder.
    RungName { Lsm = "lsm", Cgroup = "cgroup", Signal = "signal", Pidfd = "pidfd" }
}

/// Name of a finding kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FindingName(pub FindingKind);

impl JsonSchema for FindingName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FindingName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = FindingKind::ALL.iter().map(|k| k.name()).collect();
        schemars::json_schema!({ "type": "string", "enum": names })
    }
}

/// Any row of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Row {
    /// An alert (`event.kind` is `alert`), or what would be one but for an exception (`event`).
    Alert(Box<Alert>),
    /// Something was done about a container, or refused (`event.kind` is `event`).
    Response(Box<ResponseRow>),
    /// News of the daemon itself.
    Notice(Box<NoticeRow>),
}
