//! `[[exception]]`: what is expected although it looks like an attack. Here is what a rule says and whether it covers a
//! finding; what follows from it is `respond::exceptions`.

use super::value::{Cidr, Day, Glob};
use crate::container::denylist::spellings;
use crate::finding::FindingKind;
use crate::output::record::Alert;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// One `[[exception]]`. It covers a finding if everything it says is so.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExceptionRule {
    /// Finding kinds.
    pub kinds: Vec<FindingKind>,
    /// Glob over the image reference; `*` also matches `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Glob>,
    /// Glob over the container's name, or its runtime id; `host` is the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Glob>,
    /// Container labels, `key` or `key=value`; the container must have all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Glob over the path of the culprit's executable inside its file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<Glob>,
    /// The same for its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Glob>,
    /// Network of the remote address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Cidr>,
    /// Remote port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Last day on which it holds (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Day>,
    /// Why.
    pub reason: String,
}

/// A container, as a rule looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Runtime id, or `host`.
    pub id: &'a str,
    /// Name; empty while unknown.
    pub name: &'a str,
    /// Image; empty while unknown.
    pub image: &'a str,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Nothing more will be known of it.
    pub complete: bool,
}

/// A finding, as a rule looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What.
    pub kind: FindingKind,
    /// Where.
    pub container: Who<'a>,
    /// The culprit's executable.
    pub exe: &'a str,
    /// Its parent's.
    pub parent: &'a str,
    /// Remote address.
    pub peer: Option<SocketAddr>,
}

impl<'a> Subject<'a> {
    /// Of a row.
    pub fn of(alert: &'a Alert) -> Self {
        let container = &alert.container;
        let peer = alert.destination.as_ref().and_then(|d| Some(SocketAddr::new(d.ip.parse().ok()?, d.port)));
        Self {
            kind: alert.event.action.0,
            container: Who {
                id: &container.id,
                name: &container.name,
                image: &container.image.name,
                labels: &container.labels,
                complete: alert.bulkhead.complete,
            },
            exe: &alert.process.executable,
            parent: alert.process.parent.as_ref().map_or("", |parent| parent.executable.as_str()),
            peer,
        }
    }
}

impl ExceptionRule {
    /// Does it say which containers it is for?
    pub fn names_containers(&self) -> bool {
        self.image.is_some() || self.container.is_some() || !self.labels.is_empty()
    }

    /// Does it say more than which containers?
    pub fn is_narrower_than_container(&self) -> bool {
        self.exe.is_some() || self.parent.is_some() || self.destination.is_some() || self.port.is_some()
    }

    /// Is its last day over?
    pub fn is_over(&self, today: Date) -> bool {
        self.expires.is_some_and(|day| day.0 < today)
    }

    /// Is it for this container? `None` while what decides is not known.
    pub fn names(&self, who: &Who<'_>) -> Option<bool> {
        let image = self.image.as_ref().map(|glob| match who.image {
            "" => (!who.complete).then_some(()).map_or(Some(false), |()| None),
            image => Some(spellings(image).iter().any(|name| glob.is_match(name))),
        });
        let container = self.container.as_ref().map(|glob| match (glob.is_match(who.id), who.name) {
            (true, _) => Some(true),
            (false, "") if !who.complete => None,
            (false, name) => Some(!name.is_empty() && glob.is_match(name)),
        });
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => who.labels.get(key).is_some_and(|is| is == value),
            None => who.labels.contains_key(wanted),
        };
        let labels = (!self.labels.is_empty()).then(|| match self.labels.iter().all(has) {
            true => Some(true),
            false => who.complete.then_some(false),
        });
        let all = [image, container, labels];
        // One that is not so settles it.
        if all.contains(&Some(Some(false))) {
            return Some(false);
        }
        if all.contains(&Some(None)) { None } else { Some(true) }
    }

    /// Does it cover a finding? What is not known is not covered.
    pub fn covers(&self, subject: &Subject<'_>) -> bool {
        let glob = |glob: &Option<Glob>, text: &str| glob.as_ref().is_none_or(|g| !text.is_empty() && g.is_match(text));
        let network = self.destination.is_none_or(|net| subject.peer.is_some_and(|peer| net.0.contains(&peer.ip())));
        let port = self.port.is_none_or(|port| subject.peer.is_some_and(|peer| peer.port() == port));
        self.kinds.contains(&subject.kind)
            && self.names(&subject.container) == Some(true)
            && glob(&self.exe, subject.exe)
            && glob(&self.parent, subject.parent)
            && network
            && port
    }

    /// Why a configuration with it is not accepted.
    pub fn refused(&self) -> Option<String> {
        self.fault().map(|(key, message)| format!("{key}: {message}"))
    }

    /// Why it is not accepted, and the key that is to blame.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        if self.kinds.is_empty() {
            return Some(("kinds", "it names no kind of finding".into()));
        }
        if let Some(kind) = self.kinds.iter().find(|k| matches!(k, FindingKind::Tamper | FindingKind::EventLoss)) {
            return Some(("kinds", format!("`{}` is about Bulkhead itself and has no exceptions", kind.name())));
        }
        if self.reason.trim().is_empty() {
            return Some(("reason", "it is empty: say why this is expected".into()));
        }
        let globs =
            [("image", &self.image), ("container", &self.container), ("exe", &self.exe), ("parent", &self.parent)];
        for (key, glob) in globs {
            if let Some(glob) = glob.as_ref().filter(|glob| matches_anything(glob)) {
                return Some((key, format!("`{glob}` matches everything")));
            }
        }
        if self.destination.is_some_and(|net| net.0.prefix_len() == 0) {
            return Some(("destination", "it is every address".into()));
        }
        if self.port == Some(0) {
            return Some(("port", "0 is not a port".into()));
        }
        if let Some(bad) = self.labels.iter().find(|label| label.is_empty() || label.starts_with('=')) {
            return Some(("labels", format!("`{bad}` has no key")));
        }
        let narrowed =
            self.names_containers() || self.exe.is_some() || self.parent.is_some() || self.destination.is_some();
        if !narrowed {
            let why =
                "it would silence the kind everywhere: name an image, container, labels, exe, parent or destination";
            return Some(("kinds", why.into()));
        }
        None
    }
}

/// Texts that no honest glob matches all of.
fn matches_anything(glob: &Glob) -> bool {
    ["/usr/bin/qz", "q", "zebra.example:5000/qv/x:9", "7", "/Z"].iter().all(|text| glob.is_match(text))
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::output::samples;

    /// A rule from the keys of its table.
    pub fn rule(keys: &str) -> ExceptionRule {
        toml::from_str(&format!("kinds = [\"reverse_shell\"]\nreason = \"r\"\n{keys}")).unwrap()
    }

    fn covers(keys: &str) -> bool {
        let crate::output::Row::Alert(alert) = samples::reverse_shell_row() else { return false };
        rule(keys).covers(&Subject::of(&alert))
    }

    #[test]
    fn everything_it_says_must_be_so() {
        for keys in [
            "image = \"debian-tools\"",
            "image = \"debian-*\"\nexe = \"/usr/bin/bash\"\nparent = \"*/sh\"",
            "container = \"web-?\"",
            "container = \"0123456789ab*\"",
            "labels = [\"bulkhead.mode=protect\"]",
            "destination = \"203.0.113.0/24\"\nport = 4444",
            "destination = \"203.0.113.66\"",
        ] {
            assert!(covers(keys), "{keys}");
        }
        for keys in [
            "image = \"debian-tools\"\nexe = \"/bin/dash\"",
            "image = \"debian-tools\"\nparent = \"/usr/sbin/sshd\"",
            "image = \"other\"",
            "container = \"web\"",
            "labels = [\"bulkhead.mode=protect\", \"team\"]",
            "destination = \"203.0.113.0/24\"\nport = 443",
            "destination = \"198.51.100.0/24\"",
        ] {
            assert!(!covers(keys), "{keys}");
        }
        let mut other = rule("image = \"debian-tools\"");
        other.kinds = vec![FindingKind::Miner];
        let crate::output::Row::Alert(alert) = samples::reverse_shell_row() else { return };
        assert!(!other.covers(&Subject::of(&alert)));
    }

    #[test]
    fn what_is_not_known_is_not_covered_but_not_decided_either() {
        let labels = BTreeMap::new();
        let mut who = Who { id: "abc", name: "", image: "", labels: &labels, complete: false };
        for keys in ["image = \"tomcat\"", "container = \"web\"", "labels = [\"a\"]"] {
            assert_eq!(rule(keys).names(&who), None, "{keys}");
        }
        assert_eq!(rule("image = \"tomcat\"\ncontainer = \"ab*\"").names(&who), None);
        assert_eq!(rule("container = \"ab*\"").names(&who), Some(true));
        who.complete = true;
        for keys in ["image = \"tomcat\"", "container = \"web\"", "labels = [\"a\"]"] {
            assert_eq!(rule(keys).names(&who), Some(false), "{keys}");
        }
        who.image = "docker.io/library/tomcat:9";
        assert_eq!(rule("image = \"tomcat\"").names(&who), Some(true));
        assert_eq!(rule("exe = \"/x\"").names(&who), Some(true), "no container is named: any");
    }

    #[test]
    fn the_last_day_counts() {
        let rule = rule("image = \"a\"\nexpires = \"2026-03-01\"");
        let day = |d| jiff::civil::date(2026, 3, d);
        assert!(!rule.is_over(day(1)) && rule.is_over(day(2)));
    }
}
