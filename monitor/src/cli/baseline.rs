//! `bulkhead baseline`: the files of the folder, looked at and changed. A running daemon reads what changes within a
//! second; none is needed.

mod edit;
mod promote;

use super::{CliError, CliResult, ConfigArg, Exit, print};
use crate::baseline::entry::Entry;
use crate::baseline::store::{make, names};
use crate::baseline::write::{self, WriteError, lock, replace};
use crate::baseline::{Baseline, Stage, merge};
use crate::output::escape::shown;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// `bulkhead baseline`.
#[derive(Clone, Debug, Args)]
pub struct BaselineArgs {
    /// Folder of the baselines [default: as in the configuration]
    #[arg(long, value_name = "DIR", global = true)]
    pub folder: Option<PathBuf>,
    /// Configuration file [default: /etc/bulkhead/bulkhead.toml if it exists, else built-in defaults]
    #[arg(long, short, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: BaselineCommand,
}

/// What to do with baselines.
#[derive(Clone, Debug, Subcommand)]
pub enum BaselineCommand {
    /// All of them, one a line
    List,
    /// One of them, an entry a line
    Show {
        /// Its name, or the beginning of it
        name: String,
    },
    /// What one has and the other has not; exits 1 if there is anything
    Diff {
        /// A name, or a file
        old: String,
        /// Another
        new: String,
    },
    /// Change the text of one in $VISUAL or $EDITOR; what is not accepted changes nothing
    Edit {
        /// Its name, or the beginning of it
        name: String,
    },
    /// Check all of them, or files; changes nothing
    Validate {
        /// Files [default: all of the folder]
        files: Vec<PathBuf>,
    },
    /// Add the entries of files (from another host) to one
    Merge {
        /// Its name, or the beginning of it
        name: String,
        /// Files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print one, as a file or as a Kubernetes ConfigMap
    Export {
        /// Its name, or the beginning of it
        name: String,
        /// As a ConfigMap of this name
        #[arg(long, value_name = "NAME")]
        configmap: Option<String>,
    },
    /// Put a file into the folder, under the name that belongs to it
    Import {
        /// The file
        file: PathBuf,
        /// Also in place of one that is there
        #[arg(long)]
        force: bool,
    },
    /// From learn to monitor, or from monitor to protect, after a look at what it would have stopped
    Promote(PromoteArgs),
    /// From protect to monitor, or from monitor to learn
    Demote {
        /// Its name, or the beginning of it
        name: String,
    },
    /// Learn nothing more, but stay in the mode
    Freeze {
        /// Its name, or the beginning of it
        name: String,
        /// Learn again
        #[arg(long)]
        off: bool,
    },
    /// Remove one
    Forget {
        /// Its name
        name: String,
    },
}

/// `bulkhead baseline promote`.
#[derive(Clone, Debug, Args)]
pub struct PromoteArgs {
    /// Its name, or the beginning of it
    pub name: String,
    /// Recordings of its containers (`bulkhead record`) that are compared with it
    #[arg(long = "recording", value_name = "FILE")]
    pub recordings: Vec<PathBuf>,
    /// Acts in the recordings that it may not expect
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub budget: u64,
    /// Seconds since its last new entry
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub quiet: u64,
    /// Although it is not quiet, not compared with anything, or over the budget
    #[arg(long)]
    pub force: bool,
}

impl From<WriteError> for CliError {
    fn from(error: WriteError) -> Self {
        Self::failure(error.to_string())
    }
}

/// The folder, and how its files are named.
struct Shelf {
    folder: PathBuf,
}

pub(super) fn main(args: &BaselineArgs) -> CliResult {
    let config = ConfigArg { config: args.config.clone() };
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => config.load()?.config.baseline.folder,
    };
    let shelf = Shelf { folder };
    match &args.command {
        BaselineCommand::List => shelf.list(),
        BaselineCommand::Show { name } => shelf.show(name),
        BaselineCommand::Diff { old, new } => shelf.diff(old, new),
        BaselineCommand::Edit { name } => edit::main(&shelf, name, &edit::editor()),
        BaselineCommand::Validate { files } => shelf.validate(files),
        BaselineCommand::Merge { name, files } => shelf.merge(name, files),
        BaselineCommand::Export { name, configmap } => shelf.export(name, configmap.as_deref()),
        BaselineCommand::Import { file, force } => shelf.import(file, *force),
        BaselineCommand::Promote(args) => promote::main(&shelf, args, &config),
        BaselineCommand::Demote { name } => shelf.change(name, |baseline| {
            baseline.stage = match baseline.stage {
                Stage::Protect => Stage::Monitor,
                Stage::Monitor => Stage::Learn,
                Stage::Learn => return Err(CliError::failure("it learns already: there is nothing below that")),
            };
            Ok(format!("its mode is {}", baseline.stage.name()))
        }),
        BaselineCommand::Freeze { name, off } => shelf.change(name, |baseline| {
            baseline.frozen = !off;
            Ok(if *off { "it learns again, if its mode is learn" } else { "it learns nothing more" }.to_owned())
        }),
        BaselineCommand::Forget { name } => shelf.forget(name),
    }
}

impl Shelf {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }

    /// The one name that is meant.
    fn find(&self, wanted: &str) -> Result<String, CliError> {
        let names = names(&self.folder);
        if names.iter().any(|name| name == wanted) {
            return Ok(wanted.to_owned());
        }
        let mut fitting = names.into_iter().filter(|name| name.starts_with(wanted));
        match (fitting.next(), fitting.next()) {
            (Some(name), None) => Ok(name),
            (Some(one), Some(other)) => {
                Err(CliError::new(Exit::Usage, format!("`{wanted}` may be {one} or {other}: say more of it")))
            }
            _ => {
                let folder = self.folder.display();
                Err(CliError::new(Exit::Usage, format!("no baseline in {folder} is named `{wanted}`")))
            }
        }
    }

    fn load(&self, wanted: &str) -> Result<(String, Baseline), CliError> {
        let name = self.find(wanted)?;
        let baseline = Baseline::load(&self.path(&name))?;
        Ok((name, baseline))
    }

    fn list(&self) -> CliResult {
        let mut out = String::new();
        let mut exit = Exit::Ok;
        for name in names(&self.folder) {
            match Baseline::load(&self.path(&name)) {
                Ok(baseline) => {
                    let frozen = if baseline.frozen { ", frozen" } else { "" };
                    let (mode, count) = (baseline.stage.name(), baseline.all().count());
                    let _ = writeln!(out, "{:<50} {mode:<8} {count:>4} entries{frozen}", shown(&name));
                }
                Err(error) => {
                    let _ = writeln!(out, "{:<50} not accepted: {}", shown(&name), shown(&error.to_string()));
                    exit = Exit::Usage;
                }
            }
        }
        print(&out)?;
        Ok(exit)
    }

    fn show(&self, wanted: &str) -> CliResult {
        let (name, baseline) = self.load(wanted)?;
        let mut out = about(&name, &baseline);
        for entry in baseline.all() {
            let _ = writeln!(out, "{}{}", shown(&entry.what.to_string()), seen(entry));
        }
        print(&out)?;
        Ok(Exit::Ok)
    }

    fn diff(&self, old: &str, new: &str) -> CliResult {
        let open = |wanted: &str| match Path::new(wanted) {
            path if path.is_file() => Ok((wanted.to_owned(), Baseline::load(path)?)),
            _ => self.load(wanted),
        };
        let ((old_name, old), (new_name, new)) = (open(old)?, open(new)?);
        let lines = differences(&old, &new);
        let common = new.all().filter(|entry| old.all().any(|other| other.what == entry.what)).count();
        let mut out = format!("--- {}+++ {}", about(&old_name, &old), about(&new_name, &new));
        lines.iter().for_each(|line| {
            let _ = writeln!(out, "{}", shown(line));
        });
        let _ = writeln!(out, "{} differ, {common} are the same", lines.len());
        print(&out)?;
        Ok(if lines.is_empty() { Exit::Ok } else { Exit::Failure })
    }

    fn validate(&self, files: &[PathBuf]) -> CliResult {
        let all: Vec<PathBuf> = match files {
            [] => names(&self.folder).iter().map(|name| self.path(name)).collect(),
            files => files.to_vec(),
        };
        let mut out = String::new();
        let mut known: Vec<(PathBuf, Baseline)> = Vec::new();
        for path in all {
            let baseline = Baseline::load(&path)?;
            if let Some((other, _)) = known.iter().find(|(_, other)| other.identity == baseline.identity) {
                let (path, other) = (path.display(), other.display());
                return Err(CliError::new(Exit::Usage, format!("{path}: image: {other} is about the same containers")));
            }
            let _ = writeln!(out, "{}: ok ({} entries)", path.display(), baseline.all().count());
            known.push((path, baseline));
        }
        print(&out)?;
        Ok(Exit::Ok)
    }

    /// Changes a baseline and writes it, with the folder held.
    fn change(&self, wanted: &str, change: impl FnOnce(&mut Baseline) -> Result<String, CliError>) -> CliResult {
        let name = self.find(wanted)?;
        let _lock = lock(&self.folder)?;
        let mut baseline = Baseline::load(&self.path(&name))?;
        let done = change(&mut baseline)?;
        write::save(&baseline, &self.path(&name))?;
        print(&format!("{name}: {done}\n"))?;
        Ok(Exit::Ok)
    }

    fn merge(&self, wanted: &str, files: &[PathBuf]) -> CliResult {
        let mut others: Vec<Entry> = Vec::new();
        for file in files {
            others.extend(Baseline::load(file)?.all().cloned());
        }
        self.change(wanted, |baseline| {
            let included = baseline.included.clone();
            others.retain(|other| !included.iter().any(|entry| entry.what == other.what));
            let added = merge::join(&mut baseline.entries, &others);
            if added.refused > 0 {
                return Err(CliError::failure(format!("it would have more than {} entries", merge::ENTRIES)));
            }
            Ok(format!("{} new entries, {} merged", added.new.len(), added.merged.len()))
        })
    }

    fn export(&self, wanted: &str, configmap: Option<&str>) -> CliResult {
        let (name, _) = self.load(wanted)?;
        let text = super::read(&self.path(&name))?;
        let out = match configmap {
            None => text,
            Some(map) if is_object_name(map) => as_configmap(map, &name, &text),
            Some(map) => {
                return Err(CliError::new(
                    Exit::Usage,
                    format!("`{map}` is no name of a ConfigMap: lower-case letters, digits, - and ."),
                ));
            }
        };
        print(&out)?;
        Ok(Exit::Ok)
    }

    fn import(&self, file: &Path, force: bool) -> CliResult {
        let baseline = Baseline::load(file)?;
        let text = super::read(file)?;
        make(&self.folder)?;
        let _lock = lock(&self.folder)?;
        let name = baseline.identity.stem();
        let path = self.path(&name);
        if path.exists() && !force {
            return Err(CliError::failure(format!("{} is there already: `merge`, or --force", path.display())));
        }
        // What it includes must be there too.
        Baseline::parse(&path, &text)?;
        replace(&path, &text)?;
        print(&format!("{name}: imported, its mode is {}\n", baseline.stage.name()))?;
        Ok(Exit::Ok)
    }

    fn forget(&self, wanted: &str) -> CliResult {
        let name = self.find(wanted)?;
        if name != wanted {
            return Err(CliError::new(Exit::Usage, format!("to remove {name}, name it in full")));
        }
        let _lock = lock(&self.folder)?;
        let path = self.path(&name);
        std::fs::remove_file(&path).map_err(|e| CliError::failure(format!("{}: {e}", path.display())))?;
        print(&format!("{name}: removed\n"))?;
        Ok(Exit::Ok)
    }
}

fn about(name: &str, baseline: &Baseline) -> String {
    let identity = &baseline.identity;
    let facts = [
        ("image", &identity.image),
        ("container", &identity.container),
        ("digest", &identity.digest),
        ("workload", &identity.workload),
    ];
    let facts: Vec<String> =
        facts.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| format!("{key} {}", shown(text))).collect();
    let frozen = if baseline.frozen { ", frozen" } else { "" };
    format!("{}: {}, mode {}{frozen}\n", shown(name), facts.join(", "), baseline.stage.name())
}

fn seen(entry: &Entry) -> String {
    match &entry.seen {
        Some(seen) => {
            let (count, replicas) = (seen.count, seen.containers.len());
            format!("  [{count} times in {replicas} containers, {} to {}]", seen.first, seen.last)
        }
        None => "  [by hand]".to_owned(),
    }
}

/// `+` and `-` lines in the order of the file.
fn differences(old: &Baseline, new: &Baseline) -> Vec<String> {
    let without = |a: &Baseline, b: &Baseline, sign: char| {
        let only = a.all().filter(|entry| !b.all().any(|other| other.what == entry.what));
        only.map(|entry| (merge::key(&entry.what), format!("{sign} {}", entry.what))).collect::<Vec<_>>()
    };
    let mut lines = without(old, new, '-');
    lines.extend(without(new, old, '+'));
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn is_object_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed) && !name.starts_with(['-', '.'])
}

/// Keys of a ConfigMap have letters, digits, `-`, `_` and `.`. Whom a baseline is about stands in the file, not in its name.
fn as_configmap(map: &str, name: &str, text: &str) -> String {
    let key: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let mut out = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {map}\ndata:\n  {key}.toml: |\n");
    for line in text.lines() {
        let _ = if line.is_empty() { writeln!(out) } else { writeln!(out, "    {line}") };
    }
    out
}

#[cfg(test)]
#[path = "baseline/tests.rs"]
mod tests;
