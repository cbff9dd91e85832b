//! A container's process reaches for Bulkhead itself. The kernel half knows what is Bulkhead's; what it tells is
//! never honest work.

use super::Detector;
use super::context::Context;
use crate::event::{Attempt, Body, Event, HOST, Kind, Open, Reason, file};
use crate::finding::{Detection, FindingKind};

/// See the module.
pub struct Tamper;

impl Detector for Tamper {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Tamper, Kind::Open]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        if event.container == HOST {
            return None;
        }
        let (what, act, path) = match &event.body {
            Body::Tamper { attempt, detail, object } => {
                let (what, act) = upon(*attempt, *detail, *object);
                (what, act, None)
            }
            Body::Open(open) if event.reason == Reason::Tamper => {
                let (what, act) = upon_file(open);
                (what, act, Some(open.file.path.to_string()))
            }
            _ => return None,
        };
        let message = format!("{} {act}", cx.describe(event.process));
        let mut detection = Detection::new(FindingKind::Tamper, event.process, message).with(event.id, what, 0, act);
        detection.file = path;
        Some(detection)
    }
}

/// Name of the evidence, and what was done, in words.
fn upon(attempt: Attempt, detail: u32, object: u64) -> (&'static str, String) {
    match attempt {
        Attempt::Signal => ("signal", format!("sends Bulkhead {}", signal(detail))),
        Attempt::Trace => ("trace", "reaches into the memory or descriptors of Bulkhead".to_owned()),
        Attempt::Resources => ("resources", "changes the scheduling or the limits of Bulkhead".to_owned()),
        Attempt::Map => ("map", format!("gets hold of Bulkhead's map {object}")),
        Attempt::Link => ("link", format!("gets hold of Bulkhead's link {object}")),
        Attempt::Cgroup => ("cgroup", format!("moves Bulkhead to another cgroup ({object})")),
        Attempt::Leave => ("left_cgroup", format!("moves a process out of its container, to cgroup {object}")),
        Attempt::Control => ("control", "connects to Bulkhead's control socket".to_owned()),
    }
}

fn signal(number: u32) -> String {
    let known = i32::try_from(number).ok().and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    known.map_or_else(|| format!("signal {number}"), |signal| signal.to_string())
}

fn upon_file(open: &Open) -> (&'static str, String) {
    let path = &open.file.path;
    if open.file.has(file::FILE_REMOVED) {
        ("own_file_removed", format!("removes Bulkhead's {path}"))
    } else if open.file.has(file::FILE_NAMED) {
        ("own_file_replaced", format!("makes or replaces Bulkhead's {path}"))
    } else {
        ("own_file_written", format!("opens Bulkhead's {path} for writing"))
    }
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds, open};
    use crate::event::{Attempt, Body, HOST, Reason, file};
    use crate::finding::FindingKind;

    fn attempt(attempt: Attempt, detail: u32) -> Body {
        Body::Tamper { attempt, detail, object: 7 }
    }

    #[test]
    fn every_attempt_is_a_finding_and_told_once_per_target() {
        for kind in Attempt::ALL {
            let mut lab = Lab::new();
            let found = lab.act_for(9, Reason::Tamper, attempt(*kind, 9));
            assert_eq!(kinds(&found), [FindingKind::Tamper], "{kind:?}");
            assert!(lab.act_for(9, Reason::Tamper, attempt(*kind, 9)).is_empty(), "{kind:?} told twice");
        }
    }

    #[test]
    fn signals_have_names() {
        let found = Lab::new().act_for(9, Reason::Tamper, attempt(Attempt::Signal, 19));
        assert!(found.iter().all(|found| found.message.ends_with("sends Bulkhead SIGSTOP")), "{found:?}");
        assert_eq!(super::signal(64), "signal 64");
    }

    #[test]
    fn own_files() {
        let mut lab = Lab::new();
        let body = |path: &str, bits| Body::Open(Box::new(open(path, file::FILE_WRITE | bits, 0)));
        assert!(kinds(&lab.act(9, body("/etc/motd", 0))).is_empty());
        let found = lab.act_for(9, Reason::Tamper, body("/etc/bulkhead/bulkhead.toml", 0));
        assert_eq!(kinds(&found), [FindingKind::Tamper]);
        let found = lab.act_for(9, Reason::Tamper, body("/bulkhead/v3-0/links/connect4", file::FILE_REMOVED));
        assert!(found.iter().any(|found| found.message.contains("removes")), "{found:?}");
    }

    #[test]
    fn the_host_may() {
        let mut lab = Lab::new();
        lab.container = HOST;
        assert!(lab.act_for(3, Reason::Tamper, attempt(Attempt::Signal, 9)).is_empty());
    }
}
