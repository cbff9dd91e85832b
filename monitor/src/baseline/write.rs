//! Writing a baseline: what stands in the file already keeps its comments, everything has its place, and the file is the
//! old one or the new one whatever happens.

use super::entry::{Layer, Seen, What};
use super::file::Baseline;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, value};

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A step failed; the file is as it was.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// Which.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is there is not TOML.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Why.
        source: toml_edit::TomlError,
    },
}

const HEAD: &str = "\
# A Bulkhead baseline: what the containers of this image do. `bulkhead baseline show` prints it as lines,
# docs/baselines.md tells what the keys mean. Comments stay when it is written again.
";

/// The kinds, in the order of the file.
const KINDS: [&str; 4] = ["exec", "connect", "listen", "file"];

/// The text of a baseline, out of the text that is there now (none: a new file).
///
/// # Errors
/// The old text is not TOML.
pub fn render(baseline: &Baseline, old: Option<&str>) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = old.unwrap_or(HEAD).parse()?;
    if old.is_none() {
        // A comment without a key behind it belongs to the end of the file.
        document.set_trailing("");
    }
    head(baseline, document.as_table_mut());
    if old.is_none()
        && let Some((mut key, _)) = document.as_table_mut().iter_mut().next()
    {
        key.leaf_decor_mut().set_prefix(HEAD);
    }
    let mut place = 1;
    for kind in KINDS {
        let known = document.remove(kind).and_then(|item| item.into_array_of_tables().ok()).unwrap_or_default();
        let mut known: Vec<(What, Table)> =
            known.into_iter().filter_map(|table| Some((read(kind, &table)?, table))).collect();
        let mut tables = ArrayOfTables::new();
        for entry in baseline.entries.iter().filter(|entry| kind_of(&entry.what) == kind) {
            let at = known.iter().position(|(what, _)| *what == entry.what);
            let mut table = at.map_or_else(|| fresh(&entry.what), |at| known.swap_remove(at).1);
            match &entry.seen {
                Some(seen) => table["seen"] = value(inline(seen)),
                None => drop(table.remove("seen")),
            }
            table.set_position(Some(place));
            place += 1;
            tables.push(table);
        }
        if !tables.is_empty() {
            document.insert(kind, Item::ArrayOfTables(tables));
        }
    }
    Ok(document.to_string())
}

fn head(baseline: &Baseline, table: &mut Table) {
    let identity = &baseline.identity;
    let mut set = |key: &str, text: &str| {
        // The image may be written in another way that means the same.
        if !text.is_empty() && !table.contains_key(key) {
            table.insert(key, value(text));
        }
    };
    set("image", &identity.image);
    set("container", &identity.container);
    set("digest", &identity.digest);
    set("workload", &identity.workload);
    put(table, "mode", baseline.stage.name());
    if baseline.frozen || table.contains_key("frozen") {
        put(table, "frozen", baseline.frozen);
    }
}

/// Sets a value and leaves the comment beside it.
fn put(table: &mut Table, key: &str, new: impl Into<toml_edit::Value>) {
    let mut new = new.into();
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => drop(table.insert(key, Item::Value(new))),
    }
}

const fn kind_of(what: &What) -> &'static str {
    match what {
        What::Exec { .. } => "exec",
        What::Connect { .. } => "connect",
        What::Listen { .. } => "listen",
        What::File { .. } => "file",
    }
}

/// What a table of the file says; `None` if it says nothing that is accepted.
fn read(kind: &str, table: &Table) -> Option<What> {
    let text = |key: &str| table.get(key)?.as_str();
    Some(match kind {
        "exec" => What::Exec {
            parent: text("parent")?.parse().ok()?,
            exe: text("exe")?.parse().ok()?,
            layer: match text("layer") {
                Some(word) => toml::Value::from(word).try_into().ok()?,
                None => Layer::Image,
            },
            form: match text("text") {
                Some(word) => Some(toml::Value::from(word).try_into().ok()?),
                None => None,
            },
            user: match table.get("user") {
                Some(user) => Some(u32::try_from(user.as_integer()?).ok()?),
                None => None,
            },
        },
        "connect" => What::Connect {
            exe: text("exe")?.parse().ok()?,
            to: text("to")?.parse().ok()?,
            port: text("port")?.parse().ok()?,
            protocol: text("protocol")?.parse().ok()?,
        },
        "listen" => What::Listen { exe: text("exe")?.parse().ok()?, port: text("port")?.parse().ok()? },
        _ => What::File {
            exe: text("exe")?.parse().ok()?,
            path: text("path")?.parse().ok()?,
            access: toml::Value::from(text("access")?).try_into().ok()?,
        },
    })
}

fn fresh(what: &What) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    let mut set = |key: &str, text: String| drop(table.insert(key, value(text)));
    match what {
        What::Exec { parent, exe, layer, form, user } => {
            set("parent", parent.to_string());
            set("exe", exe.to_string());
            if *layer != Layer::Image {
                set("layer", layer.name().into());
            }
            if let Some(form) = form {
                set("text", form.name().into());
            }
            if let Some(user) = user {
                table.insert("user", value(i64::from(*user)));
            }
        }
        What::Connect { exe, to, port, protocol } => {
            set("exe", exe.to_string());
            set("to", to.to_string());
            set("port", port.to_string());
            set("protocol", protocol.to_string());
        }
        What::Listen { exe, port } => {
            set("exe", exe.to_string());
            set("port", port.to_string());
        }
        What::File { exe, path, access } => {
            set("exe", exe.to_string());
            set("path", path.to_string());
            set("access", access.name().into());
        }
    }
    table
}

fn inline(seen: &Seen) -> InlineTable {
    let mut table = InlineTable::new();
    table.insert("count", i64::try_from(seen.count).unwrap_or(i64::MAX).into());
    table.insert("first", seen.first.to_string().into());
    table.insert("last", seen.last.to_string().into());
    table.insert("containers", seen.containers.iter().map(String::as_str).collect::<Array>().into());
    table
}

/// Writes a baseline; comments of the file that is there are kept.
///
/// # Errors
/// The file is not TOML, or cannot be written: then it is as it was.
pub fn save(baseline: &Baseline, path: &Path) -> Result<(), WriteError> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(WriteError::Io { operation: "read", path: path.into(), source }),
    };
    let text = render(baseline, old.as_deref()).map_err(|source| WriteError::Syntax { path: path.into(), source })?;
    if old.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    replace(path, &text)
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> WriteError {
    let path = path.to_owned();
    move |source| WriteError::Io { operation, path, source }
}

/// Puts `text` in place of a file: written beside it, on disk before it gets the name.
///
/// # Errors
/// A step failed; the file is as it was.
pub fn replace(path: &Path, text: &str) -> Result<(), WriteError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let written = (|| {
        let mut file = File::create(&beside).map_err(io("create", &beside))?;
        file.write_all(text.as_bytes()).map_err(io("write", &beside))?;
        file.sync_all().map_err(io("write", &beside))?;
        std::fs::rename(&beside, path).map_err(io("replace", path))
    })();
    if written.is_err() {
        // The disk may be full: what was begun takes room.
        let _ = std::fs::remove_file(&beside);
    }
    written?;
    // The name is on disk when its folder is.
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("write", folder))
}

/// Holds the folder against another writer (the daemon, or a command) until it is dropped.
///
/// # Errors
/// The lock cannot be made.
pub fn lock(folder: &Path) -> Result<File, WriteError> {
    let path = folder.join(".lock");
    let file = File::create(&path).map_err(io("lock", &path))?;
    file.lock().map_err(io("lock", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::baseline::entry::{Access, Act, Destination, Ports, Protocol, Text};
    use crate::baseline::file::{Identity, Stage};
    use crate::baseline::merge;
    use jiff::Timestamp;

    fn seen() -> Seen {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        Seen { count: 2, first: at, last: at, containers: ["0123456789ab".to_owned()].into() }
    }

    fn sample() -> Baseline {
        let identity = Identity { image: "nginx:1".into(), workload: "shop/web".into(), ..Identity::default() };
        let mut baseline = Baseline::new(identity);
        let exec =
            |exe: &str, layer, form| Act::Exec { parent: "(start)".into(), exe: exe.into(), layer, form, user: 33 };
        let acts = [
            exec("/usr/sbin/nginx", Layer::Image, None),
            exec("/tmp/tmp.aB3dE9xYzQ/run", Layer::Upper, Some(Text::Script)),
            Act::Connect {
                exe: "/a".into(),
                peer: "[2001:db8::1]:443".parse().unwrap(),
                names: Vec::new(),
                protocol: Protocol(6),
            },
            Act::Connect {
                exe: "/a".into(),
                peer: "10.0.0.1:5432".parse().unwrap(),
                names: vec!["db".into()],
                protocol: Protocol(6),
            },
            Act::Listen { exe: "/a".into(), port: 80 },
            Act::File { exe: "/a".into(), path: "/etc/cron.d/\"x\"".into(), access: Access::Write },
        ];
        merge::add(&mut baseline.entries, &[], acts.into_iter().map(|act| (act, seen())));
        baseline
    }

    fn parse(text: &str) -> Baseline {
        Baseline::parse(Path::new("x.toml"), text).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = render(&sample(), None).unwrap();
        assert!(text.starts_with("# A Bulkhead baseline"), "{text}");
        assert_eq!(parse(&text), sample(), "{text}");
        assert_eq!(render(&parse(&text), Some(&text)).unwrap(), text, "and writing it again changes nothing");
    }

    #[test]
    fn comments_and_what_was_written_by_hand_stay() {
        let old = "# ours, ticket 7\nimage = \"docker.io/library/nginx:1\" # the front\nmode = \"learn\" # until Friday\n\n\
                   # the certificate renewal\n[[exec]]\nparent = \"(start)\"\nexe = \"/usr/bin/certbot\" # weekly\n\n\
                   # the service\n[[listen]]\nexe = \"/a\"\nport = \"80\"\n";
        let mut baseline = parse(old);
        let new =
            Act::Exec { parent: "(start)".into(), exe: "/bin/a".into(), layer: Layer::Image, form: None, user: 0 };
        merge::add(&mut baseline.entries, &[], [(new, seen()), (Act::Listen { exe: "/a".into(), port: 80 }, seen())]);
        baseline.stage = Stage::Monitor;
        let text = render(&baseline, Some(old)).unwrap();
        for kept in [
            "# ours, ticket 7\nimage = \"docker.io/library/nginx:1\" # the front",
            "mode = \"monitor\" # until Friday",
            "# the certificate renewal\n[[exec]]\nparent = \"(start)\"\nexe = \"/usr/bin/certbot\" # weekly",
            "# the service\n[[listen]]",
        ] {
            assert!(text.contains(kept), "{kept}\n---\n{text}");
        }
        assert_eq!(parse(&text), baseline);
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("/bin/a") < at("/usr/bin/certbot") && at("certbot") < at("[[listen]]"), "{text}");
    }

    #[test]
    fn an_entry_that_is_gone_is_gone() {
        let mut baseline = sample();
        let old = render(&baseline, None).unwrap();
        baseline.entries.retain(|entry| !matches!(entry.what, What::Connect { to: Destination::Name(_), .. }));
        let text = render(&baseline, Some(&old)).unwrap();
        assert!(!text.contains("\"db\"") && text.contains("2001:db8"), "{text}");
        baseline.entries.retain(|entry| !matches!(entry.what, What::Connect { port: Ports { .. }, .. }));
        assert!(!render(&baseline, Some(&text)).unwrap().contains("[[connect]]"));
    }

    #[test]
    fn a_failed_write_leaves_the_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        replace(&path, "old").unwrap();
        // A folder under the temporary name stands for a disk that takes nothing.
        std::fs::create_dir(folder.path().join(".x.toml.new")).unwrap();
        assert!(replace(&path, "new").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    }
}
