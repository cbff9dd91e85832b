//! The folder of baselines. What is not accepted is told once and what was there before stays in force; what changes on disk
//! is read again.

use super::entry::{Act, Entry, Seen, What};
use super::file::{Baseline, Identity, Stage};
use super::merge::{self, Added};
use super::write::{self, WriteError};
use crate::config::ConfigError;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A baseline as acts are compared with it.
#[derive(Debug)]
pub struct Profile {
    /// The baseline.
    pub baseline: Baseline,
    /// Its entries, for what is exactly one of them.
    exact: HashSet<What>,
}

impl Profile {
    /// Of a baseline.
    pub fn new(baseline: Baseline) -> Self {
        let exact = baseline.all().map(|entry| entry.what.clone()).collect();
        Self { baseline, exact }
    }

    /// Is this act expected?
    pub fn expects(&self, act: &Act) -> bool {
        self.exact.contains(&What::of(act)) || self.baseline.all().any(|entry| entry.what.covers(act))
    }
}

/// What became of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A file has come or was changed by somebody else.
    Changed(String),
    /// A file is not accepted; what was there before stays.
    Refused {
        /// Its name.
        name: String,
        /// Why, with line and entry.
        why: String,
        /// There was one before.
        keeps: bool,
    },
    /// A file is gone, and its baseline with it.
    Gone(String),
}

impl News {
    /// Whose news it is.
    pub fn name(&self) -> &str {
        match self {
            Self::Changed(name) | Self::Gone(name) | Self::Refused { name, .. } => name,
        }
    }
}

/// Tells versions of a file and of what it includes apart.
type Stamp = Vec<(i64, i64, u64, u64)>;

#[derive(Debug)]
struct Kept {
    stamp: Stamp,
    profile: Option<Arc<Profile>>,
    /// What is on disk now is not what is in force.
    refused: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Store {
    folder: PathBuf,
    kept: BTreeMap<String, Kept>,
}

/// Why something could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What is on disk is not accepted.
    #[error(transparent)]
    Read(#[from] ConfigError),
}

impl Store {
    /// Of a folder, which need not exist; nothing is read yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), kept: BTreeMap::new() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One baseline that is in no folder.
    pub fn only(baseline: Baseline) -> Self {
        let kept = Kept { stamp: Vec::new(), profile: Some(Arc::new(Profile::new(baseline))), refused: false };
        Self { folder: PathBuf::new(), kept: [("candidate".to_owned(), kept)].into() }
    }

    /// Looks at the folder.
    pub fn refresh(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        if self.folder.as_os_str().is_empty() {
            return news;
        }
        let found = names(&self.folder);
        let gone: Vec<String> = self.kept.keys().filter(|name| !found.contains(*name)).cloned().collect();
        for name in gone {
            self.kept.remove(&name);
            news.push(News::Gone(name));
        }
        for name in found {
            let path = self.path(&name);
            let kept = self.kept.get(&name);
            let stamp = stamp(&path, kept.and_then(|kept| kept.profile.as_deref()));
            if kept.is_some_and(|kept| kept.stamp == stamp) {
                continue;
            }
            news.push(self.read(&name, stamp));
        }
        news
    }

    fn read(&mut self, name: &str, seen: Stamp) -> News {
        match Baseline::load(&self.path(name)) {
            Ok(baseline) => {
                self.keep(name, baseline);
                News::Changed(name.to_owned())
            }
            Err(error) => {
                let former = self.kept.remove(name).and_then(|kept| kept.profile);
                let keeps = former.is_some();
                self.kept.insert(name.to_owned(), Kept { stamp: seen, profile: former, refused: true });
                News::Refused { name: name.to_owned(), why: error.to_string(), keeps }
            }
        }
    }

    fn keep(&mut self, name: &str, baseline: Baseline) {
        let profile = Arc::new(Profile::new(baseline));
        let stamp = stamp(&self.path(name), Some(&profile));
        self.kept.insert(name.to_owned(), Kept { stamp, profile: Some(profile), refused: false });
    }

    /// The path of a baseline's file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }

    /// Every baseline in force, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Arc<Profile>)> {
        self.kept.iter().filter_map(|(name, kept)| Some((name.as_str(), kept.profile.as_ref()?)))
    }

    /// Files that are not accepted.
    pub fn refused(&self) -> usize {
        self.kept.values().filter(|kept| kept.refused).count()
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Arc<Profile>> {
        self.kept.get(name)?.profile.as_ref()
    }

    /// The baseline of a container: the one that names it best.
    pub fn of(&self, who: &Identity) -> Option<(&str, &Arc<Profile>)> {
        let ranked =
            self.all().filter_map(|(name, profile)| Some((profile.baseline.identity.names(who)?, name, profile)));
        // Of equals the first by name.
        ranked
            .reduce(|best, other| if other.0 > best.0 { other } else { best })
            .map(|(_, name, profile)| (name, profile))
    }

    /// Adds what was seen to the baseline of `who`, as it is on disk now; makes one if there is none. `None`: it does not
    /// learn (any more).
    ///
    /// # Errors
    /// What is on disk is not accepted, or cannot be written: nothing is changed.
    pub fn learn(&mut self, who: &Identity, acts: Vec<(Act, Seen)>) -> Result<Option<(String, Added)>, StoreError> {
        make(&self.folder)?;
        let _lock = write::lock(&self.folder)?;
        let name = self.of(who).map_or_else(|| who.stem(), |(name, _)| name.to_owned());
        let path = self.path(&name);
        let mut baseline = if path.exists() { Baseline::load(&path)? } else { Baseline::new(who.clone()) };
        if baseline.stage != Stage::Learn || baseline.frozen {
            return Ok(None);
        }
        let included: Vec<Entry> = baseline.included.clone();
        let added = merge::add(&mut baseline.entries, &included, acts);
        write::save(&baseline, &path)?;
        self.keep(&name, baseline);
        Ok(Some((name, added)))
    }
}

impl Store {
    /// Gives a baseline another mode. False: it is another by now than the one that is known here.
    ///
    /// # Errors
    /// What is on disk is not accepted, or cannot be written: nothing is changed.
    pub fn promote(&mut self, name: &str, from: Stage, to: Stage) -> Result<bool, StoreError> {
        let _lock = write::lock(&self.folder)?;
        let path = self.path(name);
        let known = self.kept.get(name).filter(|kept| !kept.refused);
        if known.is_none_or(|kept| kept.stamp != stamp(&path, kept.profile.as_deref())) {
            return Ok(false);
        }
        let mut baseline = Baseline::load(&path)?;
        if baseline.stage != from || baseline.frozen {
            return Ok(false);
        }
        baseline.stage = to;
        write::save(&baseline, &path)?;
        self.keep(name, baseline);
        Ok(true)
    }
}

/// Names of the baselines in a folder: files that end in `.toml`. Links are followed: a mounted ConfigMap consists of them.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    let name = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".toml")?.to_owned();
        (!name.starts_with('.') && is_file(&path)).then_some(name)
    };
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.path())).collect();
    names.sort();
    names
}

/// Makes the folder, for root alone.
///
/// # Errors
/// It is not there and cannot be made.
pub fn make(folder: &Path) -> Result<(), WriteError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| WriteError::Io { operation: "make", path: folder.into(), source })
}

fn stamp(path: &Path, profile: Option<&Profile>) -> Stamp {
    let folder = path.parent().unwrap_or(Path::new("."));
    let included = profile.into_iter().flat_map(|profile| &profile.baseline.include).map(|file| folder.join(file));
    let of = |path: PathBuf| match std::fs::metadata(path) {
        Ok(meta) => (meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()),
        Err(_) => (0, 0, 0, 0),
    };
    std::iter::once(path.to_owned()).chain(included).map(of).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use jiff::Timestamp;

    const WEB: &str = "image = \"web:1\"\nmode = \"monitor\"\n[[listen]]\nexe = \"/a\"\nport = \"80\"\n";

    fn listen(port: u16) -> Act {
        Act::Listen { exe: "/a".into(), port }
    }

    fn seen() -> Seen {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        Seen { count: 1, first: at, last: at, containers: ["a".to_owned()].into() }
    }

    fn web() -> Identity {
        Identity { image: "web:1".into(), ..Identity::default() }
    }

    #[test]
    fn a_bad_change_is_told_once_and_the_former_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.toml");
        std::fs::write(&path, WEB).unwrap();
        let mut store = Store::new(folder.path());
        assert_eq!(store.refresh(), [News::Changed("web".into())]);
        assert!(store.refresh().is_empty());
        std::fs::write(&path, format!("{WEB}colour = 1\n")).unwrap();
        let news = store.refresh();
        assert!(
            matches!(&news[..], [News::Refused { keeps: true, why, .. }] if why.contains("web.toml:6: listen[0].colour")),
            "{news:?}"
        );
        assert!(store.refresh().is_empty(), "told once");
        assert!(store.of(&web()).unwrap().1.expects(&listen(80)));
        std::fs::write(&path, WEB.replace("80", "8080")).unwrap();
        assert_eq!(store.refresh(), [News::Changed("web".into())]);
        let profile = store.of(&web()).unwrap().1;
        assert!(profile.expects(&listen(8080)) && !profile.expects(&listen(80)));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(store.refresh(), [News::Gone("web".into())]);
        assert!(store.of(&web()).is_none());
    }

    #[test]
    fn a_change_of_what_is_included_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("shared")).unwrap();
        let shared = folder.path().join("shared/a.toml");
        std::fs::write(&shared, "[[listen]]\nexe = \"/a\"\nport = \"1\"\n").unwrap();
        let text = "image = \"web:1\"\nmode = \"monitor\"\ninclude = [\"shared/a.toml\"]\n";
        std::fs::write(folder.path().join("web.toml"), text).unwrap();
        let mut store = Store::new(folder.path());
        store.refresh();
        std::fs::write(&shared, "[[listen]]\nexe = \"/a\"\nport = \"22\"\n").unwrap();
        assert_eq!(store.refresh(), [News::Changed("web".into())]);
        assert!(store.of(&web()).unwrap().1.expects(&listen(22)));
    }

    #[test]
    fn learning_makes_a_file_and_heeds_what_was_changed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::new(&folder.path().join("b"));
        let (name, added) = store.learn(&web(), vec![(listen(80), seen())]).unwrap().unwrap();
        assert_eq!((name.as_str(), added.new.len()), ("web=1", 1));
        assert!(store.refresh().is_empty(), "what it wrote itself is no news");
        let path = store.path("web=1");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("[[listen]]", "# by hand\n[[listen]]")).unwrap();
        store.learn(&web(), vec![(listen(81), seen())]).unwrap().unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("# by hand"));
        let text = std::fs::read_to_string(&path).unwrap().replace("\"learn\"", "\"monitor\"");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(store.learn(&web(), vec![(listen(82), seen())]).unwrap(), None, "it was promoted meanwhile");
        let frozen = text.replace("mode = \"monitor\"", "mode = \"learn\"\nfrozen = true");
        std::fs::write(&path, &frozen).unwrap();
        assert_eq!(store.learn(&web(), vec![(listen(82), seen())]).unwrap(), None, "frozen");
        std::fs::write(&path, "broken").unwrap();
        assert!(store.learn(&web(), vec![(listen(82), seen())]).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "broken", "it is not for us to throw away");
    }
}
