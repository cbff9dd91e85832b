//! What was done about a container, or refused: by a finding, by an order on the control socket, or by
//! the daemon itself. The contract between `respond` and `output`.

use crate::finding::{ContainerView, FindingKind};
use serde::{Deserialize, Serialize};

macro_rules! deeds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// What is done to a container or to processes in it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum Deed { $($(#[doc = $doc])+ $variant),+ }

        impl Deed {
            /// Every deed.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Name in events and docs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

deeds! {
    /// The culprit and all its descendants are killed.
    Kill = "kill",
    /// Every process of the container stops where it is.
    Freeze = "freeze",
    /// And goes on.
    Thaw = "thaw",
    /// No packet passes and no connection is made.
    Quarantine = "quarantine",
    /// The network is let through again.
    Release = "release",
    /// The engine is asked to stop the container.
    Stop = "stop",
}

/// Who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A finding, as configured.
    Finding {
        /// Its id; `None` for a further culprit of an incident that is reported already.
        id: Option<String>,
        /// Its kind.
        kind: FindingKind,
    },
    /// Somebody on the control socket.
    Order {
        /// User.
        uid: u32,
        /// Process id.
        pid: u32,
    },
    /// The daemon itself: a container ended, or a kill is finished later.
    Daemon,
}

/// What came of one deed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// By which means, in words: `network namespace`, `cgroup v2`, `freezer v1`, …
    pub by: Vec<String>,
    /// Processes that were signalled.
    pub processes: Vec<u32>,
    /// What else there is to say.
    pub remark: String,
}

/// A deed and what came of it, before it is known whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What.
    pub deed: Deed,
    /// `Err`: why it was refused or failed, in a sentence.
    pub result: Result<Done, String>,
    /// How long it took, µs.
    pub took_us: u64,
}

impl Report {
    /// Does something and takes the time.
    pub fn of(deed: Deed, act: impl FnOnce() -> Result<Done, String>) -> Self {
        let begun = std::time::Instant::now();
        let result = act();
        Self { deed, result, took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX) }
    }
}

/// One deed, for the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// What, and what came of it.
    pub report: Report,
    /// Who asked.
    pub origin: Origin,
    /// The container.
    pub container: ContainerView,
}

impl Response {
    /// In a sentence.
    pub fn message(&self) -> String {
        let deed = self.report.deed.name();
        let name = match &self.container {
            view if !view.name.is_empty() => view.name.as_str(),
            view => view.id.get(..12).unwrap_or(&view.id),
        };
        let done = match &self.report.result {
            Err(why) => return format!("{deed} of {name} refused: {why}"),
            Ok(done) => done,
        };
        let mut text = match self.report.deed {
            Deed::Kill if done.processes.len() == 1 => format!("1 process of {name} killed"),
            Deed::Kill => format!("{} processes of {name} killed", done.processes.len()),
            Deed::Freeze => format!("{name} is frozen"),
            Deed::Thaw => format!("{name} runs again"),
            Deed::Quarantine => format!("{name} is cut off from all networks"),
            Deed::Release => format!("{name} has its network back"),
            Deed::Stop => format!("{name} is stopped"),
        };
        if !done.by.is_empty() {
            text = format!("{text} (by {})", done.by.join(", "));
        }
        if !done.remark.is_empty() {
            text = format!("{text}; {}", done.remark);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serialised_ones() {
        for deed in Deed::ALL {
            assert_eq!(serde_json::to_value(deed).ok(), Some(deed.name().into()));
        }
    }

    #[test]
    fn a_sentence_each() {
        let container = ContainerView { id: "ab".repeat(32), ..ContainerView::default() };
        let done = Done { by: vec!["network namespace".into()], ..Done::default() };
        let mut response = Response {
            report: Report { deed: Deed::Quarantine, result: Ok(done), took_us: 1 },
            origin: Origin::Daemon,
            container,
        };
        assert_eq!(response.message(), "abababababab is cut off from all networks (by network namespace)");
        response.container.name = "web".into();
        response.report = Report { deed: Deed::Stop, result: Err("no engine".into()), took_us: 1 };
        assert_eq!(response.message(), "stop of web refused: no engine");
    }
}
