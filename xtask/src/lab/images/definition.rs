//! The file format of an image definition.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// `tests/images/NAME.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// `debootstrap` (this machine's own Debian release), `busybox`, or `image:NAME`.
    #[serde(default = "debootstrap")]
    pub base: String,
    /// What it is for; for the reader.
    #[serde(default)]
    pub description: String,
    /// Debian packages, without their recommendations.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Files put in after the packages.
    #[serde(default, alias = "files")]
    pub file: Vec<FileEntry>,
    /// Users made after the packages.
    #[serde(default)]
    pub users: Vec<User>,
    /// What `docker run` starts; a string is shell text.
    #[serde(default)]
    pub entrypoint: Option<Entrypoint>,
    /// Environment of the entrypoint.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// sh script run as root inside the image at the end of the build.
    #[serde(default)]
    pub setup: String,
}

/// One file: exactly one of `content`, `subject` and `from`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Absolute path in the image.
    pub path: String,
    /// Octal; 0755 for a subject, else 0644.
    #[serde(default)]
    pub mode: Option<String>,
    /// Text.
    #[serde(default)]
    pub content: Option<String>,
    /// A static build of this program of `tests/subjects`.
    #[serde(default)]
    pub subject: Option<String>,
    /// A file beside the definition.
    #[serde(default)]
    pub from: Option<String>,
}

/// A user: a name, or a table for more.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum User {
    /// Home under /home, /bin/sh, the next free uid.
    Name(String),
    /// The same with choices.
    Full(FullUser),
}

/// A user spelt out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullUser {
    /// Login name.
    pub name: String,
    /// Uid and gid.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Home folder.
    #[serde(default)]
    pub home: Option<String>,
    /// Login shell.
    #[serde(default)]
    pub shell: Option<String>,
}

impl User {
    /// Spelt out.
    pub fn full(&self) -> FullUser {
        match self {
            Self::Full(user) => user.clone(),
            Self::Name(name) => FullUser { name: name.clone(), uid: None, home: None, shell: None },
        }
    }
}

/// Entrypoint of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Entrypoint {
    /// Shell text.
    Shell(String),
    /// Program and arguments.
    Exec(Vec<String>),
}

impl Entrypoint {
    /// Program and arguments.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Exec(words) => words.clone(),
            Self::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.clone()],
        }
    }
}

fn debootstrap() -> String {
    "debootstrap".into()
}

impl Definition {
    /// Reads a definition.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Name of the image this one is made from, if it is.
    pub fn base_image(&self) -> Option<&str> {
        self.base.strip_prefix("image:")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_key() {
        let text = r#"
            packages = ["curl"]
            users = ["app", { name = "db", uid = 700 }]
            entrypoint = "exec sleep 1"
            setup = "true"
            env = { A = "b" }
            [[file]]
            path = "/lab/fm"
            subject = "fm"
        "#;
        let definition: Definition = toml::from_str(text).unwrap();
        assert_eq!(definition.base, "debootstrap");
        assert_eq!(definition.users[1].full().uid, Some(700));
        assert_eq!(definition.entrypoint.unwrap().words()[2], "exec sleep 1");
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(toml::from_str::<Definition>("package = []").is_err());
    }
}
