//! What a finding is remembered under, so that the next daemon's look at what runs does not tell it
//! again.

use crate::event::{ContainerKey, ProcessKey};
use crate::finding::FindingKind;
use crate::kernel::ledger::ToldKey;
use crate::respond::kill::start_ticks;

/// A finding about a process. /proc knows its start to a clock tick only.
pub fn key(kind: FindingKind, culprit: ProcessKey) -> ToldKey {
    ToldKey { kind: number(kind), tgid: culprit.tgid, start: start_ticks(culprit.start_ns) }
}

/// A bad image of a container.
pub fn container(container: ContainerKey) -> ToldKey {
    ToldKey { kind: number(FindingKind::ImageDenylist), tgid: 0, start: container }
}

fn number(kind: FindingKind) -> u32 {
    FindingKind::ALL.iter().position(|other| *other == kind).and_then(|place| u32::try_from(place).ok()).unwrap_or(0)
}
