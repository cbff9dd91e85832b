//! The row of a response: what was done about a container or refused, and who asked for it.

use super::Clock;
use super::record::{Container, ECS_VERSION, Ecs, FindingName, Host, User, container_fields, rows};
use crate::response::{Deed, Origin, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `event.kind` of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResponseKind {
    /// Something happened.
    Event,
}

/// `event.outcome`, in ECS words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResponseOutcome {
    /// It is done.
    Success,
    /// It was refused or failed.
    Failure,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// A finding, as configured.
    Finding,
    /// Somebody on the control socket.
    Order,
    /// The daemon itself.
    Daemon,
}

rows! {
    /// One response.
    ResponseRow {
        /// When the row was written, ISO 8601, UTC.
        #[serde(rename = "@timestamp")]
        timestamp: String,
        /// The ECS version.
        ecs: Ecs,
        /// What was done.
        event: ResponseEvent,
        /// One sentence for a person.
        message: String,
        /// The machine.
        host: Host,
        /// Who gave the order, if somebody did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<User>,
        /// The container.
        container: Container,
        /// What ECS has no field for.
        bulkhead: ResponseBulkhead,
    }

    /// `event.*` of a response.
    ResponseEvent {
        /// Always `event`.
        kind: ResponseKind,
        /// What was done.
        action: Deed,
        /// `success`, or `failure` if it was refused or failed.
        outcome: ResponseOutcome,
        /// ECS categories.
        category: Vec<String>,
        /// ECS types.
        #[serde(rename = "type")]
        types: Vec<String>,
        /// How long it took, ns.
        duration: u64,
        /// Always `bulkhead`.
        module: String,
        /// Always `bulkhead.response`.
        dataset: String,
    }

    /// `bulkhead.*` of a response.
    ResponseBulkhead {
        /// The response.
        response: ResponseField,
    }

    /// `bulkhead.response.*`.
    ResponseField {
        /// Who asked: `finding`, `order`, `daemon`.
        asked_by: Asked,
        /// Process on the control socket that gave the order.
        order_pid: Option<u32>,
        /// The finding's kind.
        finding_kind: Option<FindingName>,
        /// The finding's id; none for a further culprit of an incident that is reported already.
        finding_id: Option<String>,
        /// It was done.
        done: bool,
        /// Why it was not.
        refused_why: Option<String>,
        /// By which means.
        by: Vec<String>,
        /// Processes that got the signal.
        killed_pids: Vec<u32>,
    }
}

/// `event.category` and `event.type`: allowed values of ECS 8.
const fn classes(deed: Deed) -> (&'static str, &'static str) {
    match deed {
        Deed::Quarantine => ("network", "denied"),
        Deed::Release => ("network", "allowed"),
        Deed::Kill | Deed::Stop => ("process", "end"),
        Deed::Freeze | Deed::Thaw => ("process", "change"),
    }
}

impl ResponseRow {
    /// The row of a response.
    pub fn new(response: &Response, host: &str, clock: &Clock) -> Self {
        let report = &response.report;
        let (category, class) = classes(report.deed);
        let done = report.result.clone().unwrap_or_default();
        let (asked_by, uid, order_pid, finding_kind, finding_id) = match &response.origin {
            Origin::Finding { id, kind } => (Asked::Finding, None, None, Some(FindingName(*kind)), id.clone()),
            Origin::Order { uid, pid } => (Asked::Order, Some(*uid), Some(*pid), None, None),
            Origin::Daemon => (Asked::Daemon, None, None, None, None),
        };
        Self {
            timestamp: clock.wall().to_string(),
            ecs: Ecs { version: ECS_VERSION.into() },
            event: ResponseEvent {
                kind: ResponseKind::Event,
                action: report.deed,
                outcome: if report.result.is_ok() { ResponseOutcome::Success } else { ResponseOutcome::Failure },
                category: vec![category.into()],
                types: vec![class.into()],
                duration: report.took_us.saturating_mul(1000),
                module: "bulkhead".into(),
                dataset: "bulkhead.response".into(),
            },
            message: response.message(),
            host: Host { name: host.into() },
            user: uid.map(|uid| User { id: uid.to_string() }),
            container: container_fields(&response.container),
            bulkhead: ResponseBulkhead {
                response: ResponseField {
                    asked_by,
                    order_pid,
                    finding_kind,
                    finding_id,
                    done: report.result.is_ok(),
                    refused_why: report.result.as_ref().err().cloned(),
                    by: done.by,
                    killed_pids: done.processes,
                },
            },
        }
    }
}
