//! What is to be enforced for a container: modes, actions and scope compiled into the policy bits
//! that the kernel half obeys. Pure; config and registry are the caller's.

use super::exceptions::Exceptions;
use crate::container::denylist::spellings;
use crate::container::registry::Container;
use crate::event::{ContainerKey, HOST, Reason};
use crate::finding::{Action, FindingKind};
use globset::GlobMatcher;
use monitor_common::policy::{POLICY_CONFIRMED, POLICY_OFF, POLICY_WATCHED, Policy};
use std::collections::HashMap;

/// Label by which a container asks for a mode of its own.
pub const MODE_LABEL: &str = "bulkhead.mode";

/// How a container is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Not watched at all.
    Off,
    /// Alerts, touches nothing.
    Monitor,
    /// Denies and kills.
    Protect,
}

impl Mode {
    /// From config or label text.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "off" => Some(Self::Off),
            "monitor" => Some(Self::Monitor),
            "protect" => Some(Self::Protect),
            _ => None,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Monitor => "monitor",
            Self::Protect => "protect",
        }
    }
}

/// The part of the config that decides what is done.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Mode of what nothing else says anything about.
    pub default_mode: Mode,
    /// Modes by image glob; the first that matches counts. Compared with the reference as given,
    /// and with its normal form (`library/mysql` and `docker.io/mysql` are `mysql`).
    pub image_modes: Vec<(GlobMatcher, Mode)>,
    /// What is done about a kind; a kind that is missing is only alerted on.
    pub actions: HashMap<FindingKind, Action>,
    /// Act only in containers below one of these cgroup paths (`/docker`, `/system.slice`).
    pub scope_cgroups: Vec<String>,
    /// Act only in containers with one of these labels, or below one of those paths (`NAME` or `NAME=VALUE`).
    pub scope_labels: Vec<String>,
    /// Somebody asked for enforcement on the host. It is refused, and the refusal reported.
    pub host_enforce: bool,
    /// What is expected.
    pub exceptions: Exceptions,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            default_mode: Mode::Monitor,
            image_modes: Vec::new(),
            actions: HashMap::new(),
            scope_cgroups: Vec::new(),
            scope_labels: Vec::new(),
            host_enforce: false,
            exceptions: Exceptions::default(),
        }
    }
}

/// Which structural fact of the kernel half makes which finding.
pub const ENFORCEABLE: &[(FindingKind, Reason)] = &[
    (FindingKind::ReverseShell, Reason::ReverseShell),
    (FindingKind::DownloadExec, Reason::DownloadExec),
    (FindingKind::PersistenceSshKey, Reason::PersistenceSshKey),
    (FindingKind::PersistenceCron, Reason::PersistenceCron),
    (FindingKind::PersistenceOther, Reason::PersistenceOther),
    (FindingKind::KubeletAccess, Reason::KubeletAccess),
    (FindingKind::MetadataAccess, Reason::MetadataAccess),
    (FindingKind::DockerSocket, Reason::DockerSocket),
    (FindingKind::FilelessExec, Reason::FilelessExec),
    (FindingKind::Tamper, Reason::Tamper),
    (FindingKind::Escape, Reason::Escape),
    (FindingKind::BaselineExec, Reason::BaselineExec),
    (FindingKind::BaselineConnect, Reason::BaselineConnect),
];

impl Rules {
    /// What is to be done about a kind.
    pub fn action(&self, kind: FindingKind) -> Action {
        self.actions.get(&kind).copied().unwrap_or(Action::Alert)
    }

    /// Bits of the reasons whose findings are denied or killed.
    pub fn enforce_bits(&self) -> u32 {
        ENFORCEABLE
            .iter()
            .filter(|(kind, _)| self.action(*kind).is_reflex())
            .fold(0, |bits, (_, reason)| bits | 1 << *reason as u32)
    }

    /// What the kernel half does about a container that it has just seen come to life and that
    /// the daemon has not answered for yet: nothing may slip through the gap, but a container that
    /// could still turn out to be out of scope, or of an image with another mode, is not touched.
    pub fn default_enforce(&self) -> u32 {
        let scoped = !(self.scope_cgroups.is_empty() && self.scope_labels.is_empty());
        let exempting = self.image_modes.iter().any(|(_, mode)| *mode != Mode::Protect);
        let bits = self.enforce_bits() & !bits_of(self.exceptions.kinds());
        if self.default_mode == Mode::Protect && !scoped && !exempting { bits } else { 0 }
    }

    /// The container's mode, as far as is known now: its label, else its image, else the default.
    /// A label that names no mode is ignored (and worth a warning: [`invalid_label`]).
    pub fn mode(&self, container: &Container) -> Mode {
        let metadata = &container.metadata;
        if let Some(mode) = metadata.labels.get(MODE_LABEL).and_then(|text| Mode::parse(text)) {
            return mode;
        }
        self.image_mode(&metadata.image).unwrap_or(self.default_mode)
    }

    fn image_mode(&self, image: &str) -> Option<Mode> {
        if image.is_empty() {
            return None;
        }
        let names = spellings(image);
        let matches = |glob: &GlobMatcher| names.iter().any(|name| glob.is_match(name));
        self.image_modes.iter().find(|(glob, _)| matches(glob)).map(|(_, mode)| *mode)
    }

    /// May the container be acted upon? `None`: its labels decide and are not known yet.
    pub fn in_scope(&self, container: &Container) -> Option<bool> {
        let below = |root: &String| {
            let root = root.trim_end_matches('/');
            container.path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let everywhere = self.scope_cgroups.is_empty() && self.scope_labels.is_empty();
        if everywhere || self.scope_cgroups.iter().any(below) {
            return Some(true);
        }
        if self.scope_labels.is_empty() {
            return Some(false);
        }
        let labels = &container.metadata.labels;
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        match self.scope_labels.iter().any(has) {
            true => Some(true),
            false => container.metadata.complete.then_some(false),
        }
    }

    /// The policy of a container, for its own cgroup and all nested in it.
    pub fn compile(&self, container: &Container) -> Policy {
        let confirmed = if container.metadata.complete { POLICY_CONFIRMED } else { 0 };
        let policy = |enforce, flags| Policy { root: container.key, enforce, flags: flags | confirmed };
        let scope = self.in_scope(container);
        match self.mode(container) {
            _ if container.key == HOST => host(container.key),
            Mode::Off => policy(0, POLICY_OFF),
            Mode::Protect if scope == Some(true) => {
                let loosened = bits_of(self.exceptions.loosened(container));
                policy(self.enforce_bits() & !loosened, POLICY_WATCHED)
            }
            Mode::Monitor | Mode::Protect => policy(0, POLICY_WATCHED),
        }
    }
}

/// Bits of the reasons that make findings of these kinds.
fn bits_of(kinds: impl Iterator<Item = FindingKind>) -> u32 {
    let reason = |kind| ENFORCEABLE.iter().find(|(enforceable, _)| *enforceable == kind).map(|(_, reason)| *reason);
    kinds.filter_map(reason).fold(0, |bits, reason| bits | 1 << reason as u32)
}

/// The host's policy: watched, never any enforcement.
pub fn host(root: ContainerKey) -> Policy {
    Policy { root, enforce: 0, flags: POLICY_WATCHED | POLICY_CONFIRMED }
}

/// A `bulkhead.mode` label that names no mode.
pub fn invalid_label(container: &Container) -> Option<&str> {
    let text = container.metadata.labels.get(MODE_LABEL)?;
    Mode::parse(text).is_none().then_some(text)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::container::path::Runtime;
    use crate::container::registry::Metadata;
    use globset::Glob;

    fn container(image: &str, labels: &[(&str, &str)], complete: bool) -> Container {
        Container {
            key: 42,
            id: "a".repeat(64),
            runtime: Runtime::Docker,
            pod_uid: None,
            path: "/docker/x".into(),
            metadata: Metadata {
                image: image.into(),
                labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                complete,
                ..Metadata::default()
            },
            gone: false,
        }
    }

    fn rules(mode: Mode) -> Rules {
        let actions = HashMap::from([
            (FindingKind::ReverseShell, Action::Kill),
            (FindingKind::KubeletAccess, Action::Deny),
            (FindingKind::DownloadExec, Action::Alert),
            (FindingKind::Miner, Action::Kill),
        ]);
        Rules { default_mode: mode, actions, ..Rules::default() }
    }

    const BITS: u32 = 1 << Reason::ReverseShell as u32 | 1 << Reason::KubeletAccess as u32;

    #[test]
    fn bits_come_from_actions_and_only_in_protect() {
        let c = container("tomcat", &[], true);
        let p = rules(Mode::Protect).compile(&c);
        assert_eq!((p.root, p.enforce, p.flags), (42, BITS, POLICY_WATCHED | POLICY_CONFIRMED));
        let p = rules(Mode::Monitor).compile(&c);
        assert_eq!((p.enforce, p.flags), (0, POLICY_WATCHED | POLICY_CONFIRMED));
        assert_eq!(rules(Mode::Off).compile(&c).flags, POLICY_OFF | POLICY_CONFIRMED);
        assert_eq!(rules(Mode::Protect).default_enforce(), BITS);
        assert_eq!(rules(Mode::Monitor).default_enforce(), 0);
        let glob = Glob::new("debug/*").unwrap().compile_matcher();
        let exempting = Rules { image_modes: vec![(glob.clone(), Mode::Monitor)], ..rules(Mode::Protect) };
        assert_eq!(exempting.default_enforce(), 0, "not before its image is known to be another");
        let strict = Rules { image_modes: vec![(glob, Mode::Protect)], ..rules(Mode::Protect) };
        assert_eq!(strict.default_enforce(), BITS);
    }

    #[test]
    fn label_beats_image_beats_default() {
        let mut r = rules(Mode::Monitor);
        r.image_modes = vec![
            (Glob::new("mysql*").unwrap().compile_matcher(), Mode::Protect),
            (Glob::new("*").unwrap().compile_matcher(), Mode::Off),
        ];
        assert_eq!(r.mode(&container("docker.io/library/mysql:8", &[], true)), Mode::Protect);
        assert_eq!(r.mode(&container("nginx", &[], true)), Mode::Off);
        assert_eq!(r.mode(&container("", &[], false)), Mode::Monitor);
        assert_eq!(r.mode(&container("mysql", &[(MODE_LABEL, "off")], true)), Mode::Off);
        let odd = container("mysql", &[(MODE_LABEL, "on")], true);
        assert_eq!(r.mode(&odd), Mode::Protect);
        assert_eq!(invalid_label(&odd), Some("on"));
    }

    #[test]
    fn scope() {
        let mut r = rules(Mode::Protect);
        r.scope_cgroups = vec!["/docker/".into()];
        let c = container("x", &[], true);
        assert_eq!(r.compile(&c).enforce, BITS);
        assert_eq!(r.default_enforce(), 0, "not before it is known to be in scope");
        r.scope_cgroups = vec!["/dock".into()];
        let p = r.compile(&c);
        assert_eq!((p.enforce, p.flags), (0, POLICY_WATCHED | POLICY_CONFIRMED), "watched, not touched");
        r.scope_labels = vec!["team=a".into(), "watched".into()];
        assert_eq!(r.in_scope(&container("x", &[("watched", "")], true)), Some(true), "either is enough");
        r.scope_cgroups.clear();
        assert_eq!(r.in_scope(&c), Some(false));
        assert_eq!(r.in_scope(&container("x", &[("watched", "")], true)), Some(true));
        assert_eq!(r.in_scope(&container("x", &[("team", "b")], true)), Some(false));
        let unknown = container("x", &[], false);
        assert_eq!(r.in_scope(&unknown), None);
        let p = r.compile(&unknown);
        assert_eq!((p.enforce, p.flags), (0, POLICY_WATCHED), "watched, not touched");
    }

    #[test]
    fn an_exception_takes_its_bit_from_the_containers_it_names() {
        use crate::config::exception::tests::rule;
        let shell = 1 << Reason::ReverseShell as u32;
        let of = |keys: &str, engine: bool| Rules {
            exceptions: Exceptions::new(&[rule(keys)], jiff::civil::date(2026, 1, 1), engine),
            ..rules(Mode::Protect)
        };
        let (tomcat, other) = (container("tomcat", &[], true), container("mysql", &[], true));
        for keys in ["image = \"tomcat\"", "image = \"tomcat\"\nexe = \"/bin/bash\""] {
            let r = of(keys, true);
            assert_eq!((r.compile(&tomcat).enforce, r.compile(&other).enforce), (BITS & !shell, BITS), "{keys}");
            assert_eq!(r.default_enforce(), BITS & !shell, "not before it is known which container it is");
        }
        let unknown = container("", &[], false);
        assert_eq!(of("image = \"tomcat\"", true).compile(&unknown).enforce, BITS & !shell, "it may be the one");
        assert_eq!(of("image = \"tomcat\"", false).compile(&unknown).enforce, BITS, "nobody will ever tell");
        assert_eq!(of("container = \"aaaa*\"", false).compile(&unknown).enforce, BITS & !shell, "by its id");
        assert_eq!(of("image = \"tomcat\"\nexpires = \"2025-12-31\"", true).compile(&tomcat).enforce, BITS, "over");
        let mut r = of("image = \"tomcat\"\nexpires = \"2026-01-01\"", true);
        assert_eq!(r.exceptions.expire(jiff::civil::date(2026, 1, 2)).len(), 1);
        assert_eq!((r.compile(&tomcat).enforce, r.exceptions.over().len()), (BITS, 1));
    }

    #[test]
    fn the_host_never_gets_bits() {
        let mut c = container("x", &[(MODE_LABEL, "protect")], true);
        c.key = HOST;
        let mut r = rules(Mode::Protect);
        r.host_enforce = true;
        assert_eq!(r.compile(&c).enforce, 0);
        assert_eq!(host(HOST).enforce, 0);
    }
}
