//! Orders on the control socket, and the record of every response.

use super::Pipeline;
use crate::control::{Answer, Order};
use crate::event::ContainerKey;
use crate::finding::ContainerView;
use crate::respond::order::{self, OrderError};
use crate::response::{Deed, Done, Origin, Report, Response};
use monitor_common::policy::POLICY_QUARANTINE;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::PoisonError;

/// What responses need of this host.
#[derive(Default)]
pub struct Settings {
    /// A mount of the cgroup v2 root.
    pub unified: Option<PathBuf>,
    /// The packet programs are attached.
    pub packets: bool,
    /// Asks the engine to stop a container.
    pub stop: Option<crate::respond::Stop>,
}

impl Pipeline {
    /// Carries an order out, and answers.
    pub(super) fn on_order(&mut self, order: &Order) {
        let answer = match self.carry_out(order) {
            Ok(message) => Answer::Done { done: message },
            Err(OrderError::Unknown(why)) => Answer::Unknown { unknown: why },
            Err(OrderError::Refused(why)) => Answer::Refused { error: why },
        };
        // A client that has gone away had its order carried out all the same.
        let _ = order.answer.try_send(answer);
    }

    fn carry_out(&mut self, order: &Order) -> Result<String, OrderError> {
        let origin = Origin::Order { uid: order.uid, pid: order.pid };
        let found = order::find(&self.registry, &order.container).and_then(|container| {
            order::allowed(&self.compiled.rules, &self.registry, &container, order.deed)?;
            Ok(container)
        });
        let container = match found {
            Ok(container) => container,
            Err(error) => {
                let key = order::find(&self.registry, &order.container).map(|container| container.key);
                let named = || ContainerView { id: order.container.clone(), ..ContainerView::default() };
                let view = key.map_or_else(|_| named(), |key| self.registry.view(key));
                self.record(view, origin, Report { deed: order.deed, result: Err(error.to_string()), took_us: 0 });
                return Err(error);
            }
        };
        let (rules, registry) = (&self.compiled.rules, &self.registry);
        let report = match order.deed {
            Deed::Quarantine => self.held.quarantine(&mut self.maps, registry, rules, &container),
            Deed::Release => self.held.release(&mut self.maps, registry, rules, &container),
            Deed::Freeze => self.held.freeze(registry, &container),
            Deed::Thaw => self.held.thaw(registry, &container),
            other @ (Deed::Kill | Deed::Stop) => {
                let why = format!("{} is not given as an order", other.name());
                Report { deed: other, result: Err(why), took_us: 0 }
            }
        };
        let result = report.result.clone();
        let message = self.responded(container.key, origin, report);
        result.map(|_| message).map_err(OrderError::Refused)
    }

    /// The engine has answered.
    pub(super) fn on_stopped(&mut self, key: ContainerKey, report: Report) {
        let origin = self.held.stopped(key);
        self.responded(key, origin, report);
    }

    /// A container has ended: what was done to it is over.
    pub(super) fn forget_responses(&mut self, key: ContainerKey) {
        if self.held.forget(&mut self.maps, key) {
            tracing::info!(container = %self.registry.view(key).id, "ended; its quarantine or freeze is forgotten");
            self.publish();
        }
    }

    /// Puts a response on record, and answers it in a sentence.
    /// Containers that a daemon before this one has cut off.
    pub(super) fn quarantined_before(&self) -> BTreeSet<ContainerKey> {
        let policies = self.maps.containers().into_iter().map(|(_, policy)| policy);
        policies.filter(|policy| policy.flags & POLICY_QUARANTINE != 0).map(|policy| policy.root).collect()
    }

    /// They stay cut off; what nobody answers for any more is taken back.
    pub(super) fn inherit(&mut self, quarantined: BTreeSet<ContainerKey>) {
        for key in quarantined {
            let Some(container) = self.registry.get(key) else { continue };
            let report = self.held.quarantine(&mut self.maps, &self.registry, &self.compiled.rules, &container);
            self.responded(key, Origin::Daemon, report);
        }
        for mark in self.maps.cuts() {
            if !self.held.bears(&mark) {
                self.maps.uncut(mark);
            }
        }
        self.maps.pardon_all();
        self.held.arm(&mut self.maps);
    }

    pub(super) fn responded(&mut self, key: ContainerKey, origin: Origin, report: Report) -> String {
        self.publish();
        let view = self.registry.view(key);
        self.record(view, origin, report)
    }

    fn record(&self, container: ContainerView, origin: Origin, report: Report) -> String {
        let response = Response { report, origin, container };
        let message = response.message();
        self.output.response(response);
        message
    }

    /// For `status`.
    fn publish(&self) {
        *self.counts.held.lock().unwrap_or_else(PoisonError::into_inner) = self.held.views(&self.registry);
    }
}

/// What an engine's answer is on record.
pub fn stop_report(result: Result<(), String>, took_us: u64) -> Report {
    let done = Done { by: vec!["engine".into()], ..Done::default() };
    Report { deed: Deed::Stop, result: result.map(|()| done), took_us }
}
