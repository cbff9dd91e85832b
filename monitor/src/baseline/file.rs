//! The file of a baseline: what may stand in it, and what is wrong with one.

use super::entry::{Access, Destination, Entry, Layer, Ports, Protocol, Seen, Text, What};
use super::merge::ENTRIES;
use super::pattern::Pattern;
use crate::config::ConfigError;
use crate::config::error::{at_key, parse};
use crate::config::value::Digest;
use crate::container::denylist::{normalise, spellings};
use crate::container::registry::Container;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How far a baseline is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// What the containers do is added to it.
    Learn,
    /// What is not in it is told.
    Monitor,
    /// What is not in it is acted upon, in containers whose mode is `protect`.
    Protect,
}

impl Stage {
    /// As in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Monitor => "monitor",
            Self::Protect => "protect",
        }
    }

    /// From a label.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Learn, Self::Monitor, Self::Protect].into_iter().find(|stage| stage.name() == text.trim())
    }
}

/// Which containers a baseline is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Image, in normal form with its tag; empty if the container has none.
    pub image: String,
    /// Its digest (`sha256:…`); empty if not known, or if any will do.
    pub digest: String,
    /// Workload; empty if it belongs to none, or if any will do.
    pub workload: String,
    /// The container's name, where there is no image.
    pub container: String,
}

/// Labels that name a workload, each a list of labels that together do.
const WORKLOAD: &[&[&str]] = &[
    &["bulkhead.workload"],
    &["io.kubernetes.pod.namespace", "app.kubernetes.io/name", "io.kubernetes.container.name"],
    &["io.kubernetes.pod.namespace", "io.kubernetes.container.name"],
    &["com.docker.compose.project", "com.docker.compose.service"],
];

impl Identity {
    /// Of a container. `None` while it is not known.
    pub fn of(container: &Container) -> Option<Self> {
        let metadata = &container.metadata;
        if !metadata.complete || metadata.image.is_empty() && metadata.name.is_empty() {
            return None;
        }
        let label = |name: &&str| metadata.labels.get(*name).filter(|value| !value.is_empty()).cloned();
        let workload = WORKLOAD.iter().find_map(|names| names.iter().map(label).collect::<Option<Vec<_>>>());
        let image = reference(&metadata.image);
        let digest = metadata.digest.parse::<Digest>().map_or(String::new(), |digest| digest.as_str().to_owned());
        let container = if image.is_empty() { metadata.name.clone() } else { String::new() };
        Some(Self { image, digest, workload: workload.unwrap_or_default().join("/"), container })
    }

    /// Is a container with identity `who` meant? The better it is named, the higher the number.
    pub fn names(&self, who: &Self) -> Option<u8> {
        let same = |mine: &str, its: &str| mine.is_empty() || mine == its;
        let fits = if self.digest.is_empty() {
            self.image == who.image && self.container == who.container
        } else {
            self.digest == who.digest
        };
        let rank = u8::from(!self.digest.is_empty()) * 2 + u8::from(!self.workload.is_empty());
        (fits && same(&self.workload, &who.workload)).then_some(rank)
    }

    /// The name of its file, without the ending. Different ones have different names: `+` and `=` stand for what a
    /// file's name cannot have and are in no image reference.
    pub fn stem(&self) -> String {
        let subject = if self.image.is_empty() { &self.container } else { &self.image };
        let mut stem: String = subject.replace('/', "+").replace(':', "=");
        if let Some(short) = self.digest.strip_prefix("sha256:").and_then(|hex| hex.get(..12)) {
            stem = format!("{stem}@{short}");
        }
        if !self.workload.is_empty() {
            stem = format!("{stem},{}", self.workload.replace('/', "+"));
        }
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "._-+=@,".contains(c));
        let odd_ones = stem.contains(odd) || stem.len() > 180 || stem.starts_with('.');
        let plain: String = stem.chars().map(|c| if odd(c) { '_' } else { c }).take(180).collect();
        let plain = plain.trim_start_matches('.').to_owned();
        // What was changed could be somebody else's name.
        if odd_ones { format!("{plain}={:016x}", crate::kernel::pins::fnv64(stem.bytes())) } else { plain }
    }
}

/// An image reference in normal form with its tag; empty for none.
fn reference(image: &str) -> String {
    let parts = normalise(image);
    if parts.repository.is_empty() { parts.digest } else { spellings(image)[2].clone() }
}

/// One baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Whom it is about.
    pub identity: Identity,
    /// How far it is trusted.
    pub stage: Stage,
    /// Nothing is added to it, whatever its stage.
    pub frozen: bool,
    /// Files whose entries count as well, relative to its folder.
    pub include: Vec<PathBuf>,
    /// Its own entries.
    pub entries: Vec<Entry>,
    /// Those of the included files.
    pub included: Vec<Entry>,
}

impl Baseline {
    /// A new one that learns.
    pub fn new(identity: Identity) -> Self {
        let (entries, included, include) = (Vec::new(), Vec::new(), Vec::new());
        Self { identity, stage: Stage::Learn, frozen: false, include, entries, included }
    }

    /// All entries.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().chain(&self.included)
    }

    /// Reads a file and what it includes.
    ///
    /// # Errors
    /// A file cannot be read, or is not accepted: unknown keys, bad patterns, entries that are there twice, too many of them.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        Self::parse(path, &text)
    }

    /// The same of a text; `path` names the file and its folder.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = parse(path, text)?;
        let fail = |key: &[&str], message: &str| Err(at_key(path, text, key, message.into()));
        let names = [&raw.image, &raw.container].into_iter().flatten().filter(|name| !name.is_empty()).count();
        if names != 1 {
            return fail(&["image"], "either `image` or `container` says whom this is about");
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut included = Vec::new();
        for (index, file) in raw.include.iter().enumerate() {
            let place = index.to_string();
            let name = folder.join(file);
            if file.components().any(|part| matches!(part, std::path::Component::ParentDir)) || file.is_absolute() {
                return fail(&["include", &place], "the file must be below the folder of the baseline");
            }
            if file.components().count() < 2 {
                return fail(
                    &["include", &place],
                    "the file must be in a folder of its own: here it would be taken for a baseline",
                );
            }
            let text = read(&name)?;
            let fragment: Raw = parse(&name, &text)?;
            if let Some(key) = fragment.head() {
                return Err(at_key(&name, &text, &[key], "an included file has entries only".into()));
            }
            included.extend(entries(fragment, &name, &text)?);
        }
        let Some(stage) = raw.mode else { return fail(&["mode"], "missing key `mode`") };
        let total = raw.total() + included.len();
        if total > ENTRIES {
            let (kind, at) = raw.entry_at(ENTRIES.saturating_sub(included.len()));
            return fail(&[kind, &at.to_string()], &format!("{total} entries, and {ENTRIES} is the limit"));
        }
        let identity = Identity {
            image: raw.image.as_deref().map(reference).unwrap_or_default(),
            digest: raw.digest.as_ref().map_or(String::new(), |digest| digest.as_str().to_owned()),
            workload: raw.workload.clone().unwrap_or_default(),
            container: raw.container.clone().unwrap_or_default(),
        };
        let (frozen, include) = (raw.frozen, raw.include.clone());
        Ok(Self { identity, stage, frozen, include, entries: entries(raw, path, text)?, included })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    image: Option<String>,
    container: Option<String>,
    digest: Option<Digest>,
    workload: Option<String>,
    mode: Option<Stage>,
    #[serde(default)]
    frozen: bool,
    #[serde(default)]
    include: Vec<PathBuf>,
    #[serde(default)]
    exec: Vec<RawExec>,
    #[serde(default)]
    connect: Vec<RawConnect>,
    #[serde(default)]
    listen: Vec<RawListen>,
    #[serde(default)]
    file: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExec {
    parent: Pattern,
    exe: Pattern,
    #[serde(default = "image")]
    layer: Layer,
    text: Option<Text>,
    user: Option<u32>,
    seen: Option<Seen>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConnect {
    exe: Pattern,
    to: Destination,
    port: Ports,
    protocol: Protocol,
    seen: Option<Seen>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    exe: Pattern,
    port: Ports,
    seen: Option<Seen>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    exe: Pattern,
    path: Pattern,
    access: Access,
    seen: Option<Seen>,
}

fn image() -> Layer {
    Layer::Image
}

impl Raw {
    /// A key that only the file of a baseline has.
    fn head(&self) -> Option<&'static str> {
        let keys = [
            ("image", self.image.is_some()),
            ("container", self.container.is_some()),
            ("digest", self.digest.is_some()),
            ("workload", self.workload.is_some()),
            ("mode", self.mode.is_some()),
            ("frozen", self.frozen),
            ("include", !self.include.is_empty()),
        ];
        keys.into_iter().find(|(_, is_there)| *is_there).map(|(key, _)| key)
    }

    fn total(&self) -> usize {
        self.exec.len() + self.connect.len() + self.listen.len() + self.file.len()
    }

    /// The kind and place of the entry with this number, counted over all kinds.
    fn entry_at(&self, number: usize) -> (&'static str, usize) {
        let mut rest = number;
        for (kind, count) in [("exec", self.exec.len()), ("connect", self.connect.len()), ("listen", self.listen.len())]
        {
            if rest < count {
                return (kind, rest);
            }
            rest -= count;
        }
        ("file", rest)
    }
}

/// The entries of a file, none of them twice.
fn entries(raw: Raw, path: &Path, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let exec = raw.exec.into_iter().enumerate().map(|(at, e)| {
        let what = What::Exec { parent: e.parent, exe: e.exe, layer: e.layer, form: e.text, user: e.user };
        ("exec", at, Entry { what, seen: e.seen })
    });
    let connect = raw.connect.into_iter().enumerate().map(|(at, e)| {
        let what = What::Connect { exe: e.exe, to: e.to, port: e.port, protocol: e.protocol };
        ("connect", at, Entry { what, seen: e.seen })
    });
    let listen = raw
        .listen
        .into_iter()
        .enumerate()
        .map(|(at, e)| ("listen", at, Entry { what: What::Listen { exe: e.exe, port: e.port }, seen: e.seen }));
    let file = raw.file.into_iter().enumerate().map(|(at, e)| {
        ("file", at, Entry { what: What::File { exe: e.exe, path: e.path, access: e.access }, seen: e.seen })
    });
    let mut known: HashMap<What, usize> = HashMap::new();
    let mut all = Vec::new();
    for (kind, at, entry) in exec.chain(connect).chain(listen).chain(file) {
        if let Some(first) = known.insert(entry.what.clone(), at) {
            let message = format!("the same as {kind}[{first}]");
            return Err(at_key(path, text, &[kind, &at.to_string()], message));
        }
        all.push(entry);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HEAD: &str = "image = \"nginx:1\"\nmode = \"monitor\"\n";

    fn error(body: &str) -> String {
        Baseline::parse(Path::new("b/x.toml"), &format!("{HEAD}{body}")).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_entry() {
        let exec = "[[exec]]\nparent = \"(start)\"\nexe = \"/bin/sh\"\n";
        for (body, wanted) in [
            ("colour = 1\n", "b/x.toml:3: colour: unknown key `colour`"),
            ("[[exec]]\nparent = \"(start)\"\n", "b/x.toml:3: exec[0]: missing key `exe`"),
            (
                "[[exec]]\nparent = \"(start)\"\nexe = \"bin/sh\"\n",
                "b/x.toml:5: exec[0].exe: `bin/sh` is not a path pattern: ",
            ),
            ("[[exec]]\nparent = \"x\"\nexe = \"/a\"\n", "b/x.toml:4: exec[0].parent: "),
            (
                "[[listen]]\nexe = \"/a\"\nport = \"9-1\"\n",
                "b/x.toml:5: listen[0].port: `9-1` is not a port or range: the range is empty",
            ),
            (&format!("{exec}{exec}"), "b/x.toml:6: exec[1]: the same as exec[0]"),
            ("include = [\"../x.toml\"]\n", "b/x.toml:3: include[0]: the file must be below"),
            ("include = [\"x.toml\"]\n", "b/x.toml:3: include[0]: the file must be in a folder of its own"),
        ] {
            let error = error(body);
            assert!(error.starts_with(wanted), "{body}\n{error}");
        }
        let headless = |text: &str| Baseline::parse(Path::new("x"), text).unwrap_err().to_string();
        assert!(headless("mode = \"learn\"").contains("image: either"));
        assert!(headless("image = \"a\"").contains("mode: missing key"));
        assert!(headless("image = \"a\"\nmode = \"watch\"").contains("unknown mode `watch`"));
    }

    #[test]
    fn too_many_entries_are_refused_at_the_first_too_many() {
        let body: String = (0..=ENTRIES).map(|i| format!("[[listen]]\nexe = \"/a\"\nport = \"{}\"\n", i + 1)).collect();
        assert!(
            error(&body).contains(&format!("listen[{ENTRIES}]: 501 entries, and 500 is the limit")),
            "{}",
            error(&body)
        );
    }

    #[test]
    fn included_entries_count_and_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::create_dir(folder.path().join("shared")).unwrap();
        let shared = folder.path().join("shared/base.toml");
        std::fs::write(&path, format!("{HEAD}include = [\"shared/base.toml\"]\n")).unwrap();
        std::fs::write(&shared, "[[listen]]\nexe = \"/a\"\nport = \"80\"\n").unwrap();
        assert_eq!(Baseline::load(&path).unwrap().included.len(), 1);
        std::fs::write(&shared, "mode = \"learn\"\n").unwrap();
        assert!(Baseline::load(&path).unwrap_err().to_string().contains("base.toml:1: mode: an included file"));
        std::fs::remove_file(&shared).unwrap();
        assert!(Baseline::load(&path).is_err());
    }

    #[test]
    fn the_best_named_counts() {
        let id = |image: &str, digest: &str, workload: &str| Identity {
            image: reference(image),
            digest: digest.into(),
            workload: workload.into(),
            container: String::new(),
        };
        let who = id("docker.io/library/nginx:1", "sha256:aa", "shop/web");
        assert_eq!(id("nginx:1", "", "").names(&who), Some(0));
        assert_eq!(id("nginx:1", "", "shop/web").names(&who), Some(1));
        assert_eq!(id("nginx:1", "sha256:aa", "").names(&who), Some(2));
        assert_eq!(id("retagged", "sha256:aa", "shop/web").names(&who), Some(3));
        assert_eq!(id("nginx:1", "sha256:bb", "").names(&who), None, "another build of it");
        assert_eq!(id("nginx:1", "", "shop/db").names(&who), None);
        assert_eq!(id("nginx:2", "", "").names(&who), None);
    }

    #[test]
    fn names_of_files_are_safe_and_different() {
        let stem = |image: &str| Identity { image: image.into(), ..Identity::default() }.stem();
        assert_eq!(stem("registry.example:5000/a/b:1.2"), "registry.example=5000+a+b=1.2");
        assert!(!stem("../../etc/x").contains('/') && !stem("..").starts_with('.'));
        assert_ne!(stem("a b"), stem("a_b"));
        assert!(stem(&"x".repeat(500)).len() < 220);
    }
}
