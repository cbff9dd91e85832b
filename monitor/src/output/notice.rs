//! Rows about the daemon itself: start and stop, losses, the pipeline's state.

use super::record::{Ecs, Host, rows};
use super::{Clock, record::ECS_VERSION};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a notice is, in ECS words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// The daemon's own state (`started`, `stopped`, `reloaded`).
    State,
    /// A measure (`event_loss`).
    Metric,
    /// The way from event to row is in trouble or fine again (`output_failed`, `output_recovered`).
    PipelineError,
}

/// News of the daemon itself, for the same stream as alerts.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// What it is.
    pub kind: NoticeKind,
    /// Machine name of what happened.
    pub action: String,
    /// One sentence for a person.
    pub message: String,
    /// Particulars; its shape depends on `action`.
    pub details: serde_json::Value,
}

impl Notice {
    /// A notice without particulars.
    pub fn new(kind: NoticeKind, action: &str, message: impl Into<String>) -> Self {
        let details = serde_json::Value::Object(serde_json::Map::new());
        Self { kind, action: action.into(), message: message.into(), details }
    }

    /// With particulars.
    #[must_use]
    pub fn with(mut self, details: serde_json::Value) -> Self {
        self.details = details;
        self
    }

    /// The daemon runs; `ladder` is what `bulkhead check --json` prints.
    pub fn started(version: &str, ladder: serde_json::Value) -> Self {
        Self::new(NoticeKind::State, "started", format!("Bulkhead {version} is watching"))
            .with(serde_json::json!({ "version": version, "ladder": ladder }))
    }

    /// The daemon ends in good order.
    pub fn stopped(why: &str) -> Self {
        Self::new(NoticeKind::State, "stopped", format!("Bulkhead stops: {why}"))
    }

    /// Records were lost that a former daemon had read and not dealt with when it ended.
    pub fn handover_loss(lost: u64) -> Self {
        let message = format!("{lost} events were lost when the former daemon ended");
        Self::new(NoticeKind::Metric, "event_loss", message)
            .with(serde_json::json!({ "container": "", "lost": lost, "cause": "daemon_ended" }))
    }

    /// The kernel left programs out, each so often: they were running on that CPU, in a task that was preempted.
    pub fn missed_runs(programs: &[(String, u64)]) -> Self {
        let lost: u64 = programs.iter().map(|(_, count)| count).sum();
        let names: Vec<&str> = programs.iter().map(|(name, _)| name.as_str()).collect();
        let message =
            format!("the kernel left out {lost} runs of {}: what they would have seen is missed", names.join(", "));
        Self::new(NoticeKind::Metric, "event_loss", message).with(
            serde_json::json!({ "container": "", "kind": "any", "lost": lost, "cause": "preempted", "programs": names }),
        )
    }

    /// Records of a container were lost, so many of each kind.
    pub fn event_loss(container: &str, kinds: &[(String, u64)]) -> Self {
        let lost: u64 = kinds.iter().map(|(_, count)| count).sum();
        let by_kind: serde_json::Map<_, _> =
            kinds.iter().map(|(kind, count)| (kind.clone(), (*count).into())).collect();
        let message = format!("{lost} events of container {container} were lost");
        Self::new(NoticeKind::Metric, "event_loss", message)
            .with(serde_json::json!({ "container": container, "lost": lost, "kinds": by_kind }))
    }
}

rows! {
    /// A row about the daemon itself.
    NoticeRow {
        /// When it was written, ISO 8601, UTC.
        #[serde(rename = "@timestamp")]
        timestamp: String,
        /// The ECS version.
        ecs: Ecs,
        /// What happened.
        event: NoticeEvent,
        /// One sentence for a person.
        message: String,
        /// The machine.
        host: Host,
        /// What ECS has no field for.
        bulkhead: NoticeBulkhead,
    }

    /// `event.*` of a notice.
    NoticeEvent {
        /// `state`, `metric` or `pipeline_error`.
        kind: NoticeKind,
        /// Machine name of what happened.
        action: String,
        /// Always `bulkhead`.
        module: String,
        /// Always `bulkhead.notice`.
        dataset: String,
    }

    /// `bulkhead.*` of a notice.
    NoticeBulkhead {
        /// Particulars; their shape depends on `event.action`.
        details: serde_json::Value,
    }
}

impl NoticeRow {
    /// The row of a notice.
    pub fn new(notice: &Notice, host: &str, clock: &Clock) -> Self {
        Self {
            timestamp: clock.wall().to_string(),
            ecs: Ecs { version: ECS_VERSION.into() },
            event: NoticeEvent {
                kind: notice.kind,
                action: notice.action.clone(),
                module: "bulkhead".into(),
                dataset: "bulkhead.notice".into(),
            },
            message: notice.message.clone(),
            host: Host { name: host.into() },
            bulkhead: NoticeBulkhead { details: notice.details.clone() },
        }
    }
}
