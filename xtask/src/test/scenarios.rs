//! The scenario stage: which files are played in which mode, through `cargo xtask scenarios`, whose rows
//! and summary are a contract (design.md section 8).

use super::tally::{Outcome, Tally};
use crate::process::tee;
use crate::workspace;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files played before all others; the quick form plays the first of them.
const FIRST_FILES: &[&str] = &["seed.toml", "first.toml", "benign.toml"];

#[derive(Deserialize)]
struct Row {
    id: String,
    passed: bool,
    #[serde(default)]
    skipped: bool,
    #[serde(default)]
    missed: bool,
}

/// Plays the scenarios on this daemon: all files in monitor mode, and again in protect mode; if `quick`, the first file in
/// monitor mode.
pub fn play(quick: bool, only: Option<&str>, daemon: &Path) -> Result<Tally> {
    let scratch = Scratch::new()?;
    let mut total = Tally::default();
    for (mode, files) in rounds(&scenario_files()?, quick) {
        let files = match only {
            Some(word) => select(&files, word, &scratch.0)?,
            None => files,
        };
        if !files.is_empty() {
            total.add(play_files(mode, &files, daemon, &scratch.0)?);
        }
    }
    Ok(total)
}

fn rounds(files: &[PathBuf], quick: bool) -> Vec<(&'static str, Vec<PathBuf>)> {
    let rank = |file: &Path| FIRST_FILES.iter().position(|name| file.ends_with(name));
    let mut first: Vec<PathBuf> = files.iter().filter(|file| rank(file).is_some()).cloned().collect();
    first.sort_by_key(|file| rank(file));
    if quick {
        first.truncate(1);
        return vec![("monitor", first)];
    }
    let others = files.iter().filter(|file| rank(file).is_none()).cloned();
    let all: Vec<PathBuf> = first.into_iter().chain(others).collect();
    vec![("monitor", all.clone()), ("protect", all)]
}

fn scenario_files() -> Result<Vec<PathBuf>> {
    let folder = workspace::root().join("tests/scenarios");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("list {}", folder.display()))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

fn play_files(mode: &str, files: &[PathBuf], daemon: &Path, scratch: &Path) -> Result<Tally> {
    let rows = scratch.join("rows.json");
    let myself = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(myself);
    command.arg("scenarios").args(files).args(["--mode", mode, "--json"]).arg(&rows);
    // Whoever builds something meanwhile is not waited for.
    command.arg("--monitor").arg(daemon).current_dir(workspace::root());
    let (status, output) = tee(&mut command)?;
    let mut tally = Tally::of_summary(&output, status.success());
    tally.outcomes = outcomes(&fs::read_to_string(&rows).unwrap_or_default());
    Ok(tally)
}

fn outcomes(rows: &str) -> Vec<(String, Outcome)> {
    let rows = rows.lines().filter_map(|line| serde_json::from_str::<Row>(line).ok());
    // What is known not to be found is neither a pass nor a failure.
    rows.filter(|row| !row.missed)
        .map(|row| {
            let outcome = match (row.skipped, row.passed) {
                (true, _) => Outcome::Skipped,
                (false, true) => Outcome::Passed,
                (false, false) => Outcome::Failed,
            };
            (row.id, outcome)
        })
        .collect()
}

/// Copies of the files with only the scenarios whose id or title contains the word.
fn select(files: &[PathBuf], word: &str, scratch: &Path) -> Result<Vec<PathBuf>> {
    let mut selected = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let kept = select_in(&text, word).with_context(|| format!("parse {}", file.display()))?;
        if let (Some(kept), Some(name)) = (kept, file.file_name()) {
            let copy = scratch.join(name);
            fs::write(&copy, kept).with_context(|| format!("write {}", copy.display()))?;
            selected.push(copy);
        }
    }
    Ok(selected)
}

fn select_in(text: &str, word: &str) -> Result<Option<String>> {
    let mut file: toml::Table = toml::from_str(text)?;
    let Some(toml::Value::Array(scenarios)) = file.get_mut("scenario") else {
        return Ok(None);
    };
    let contains = |scenario: &toml::Value, key| {
        scenario.get(key).and_then(toml::Value::as_str).is_some_and(|value| value.contains(word))
    };
    scenarios.retain(|scenario| contains(scenario, "id") || contains(scenario, "title"));
    if scenarios.is_empty() {
        return Ok(None);
    }
    Ok(Some(toml::to_string(&file)?))
}

/// A folder for this run's files, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = workspace::target_dir().join(format!("xtask-test-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on its absence; the next `cargo clean` takes what is left.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn quick_plays_the_first_file_and_full_everything_twice() {
        let files = paths(&["t/benign.toml", "t/extra.toml", "t/first.toml", "t/seed.toml"]);
        let quick = rounds(&files, true);
        assert_eq!(quick, [("monitor", paths(&["t/seed.toml"]))]);
        let full = rounds(&files, false);
        assert_eq!(full.len(), 2);
        assert_eq!(full[1].0, "protect");
        assert_eq!(full[1].1, paths(&["t/seed.toml", "t/first.toml", "t/benign.toml", "t/extra.toml"]));
    }

    #[test]
    fn selects_scenarios_with_all_their_tables() {
        let text = "[[scenario]]\nid = \"rs-1\"\ntitle = \"x\"\n[scenario.serve]\n\"x.sh\" = \"touch /tmp/p\\n\"\n\
                    [[scenario]]\nid = \"dx-1\"\ntitle = \"y\"\n";
        let kept = select_in(text, "rs-").unwrap().unwrap();
        let table: toml::Table = toml::from_str(&kept).unwrap();
        assert_eq!(table["scenario"].as_array().unwrap().len(), 1);
        assert_eq!(table["scenario"][0]["serve"]["x.sh"].as_str(), Some("touch /tmp/p\n"));
        assert_eq!(select_in(text, "nothing").unwrap(), None);
    }

    #[test]
    fn reads_rows() {
        let rows = "{\"id\":\"a\",\"passed\":true,\"found\":[]}\n{\"id\":\"b\",\"passed\":false}\n\
                    {\"id\":\"c\",\"passed\":false,\"skipped\":true}\n\
                    {\"id\":\"d\",\"passed\":false,\"missed\":true}\n";
        let expected = [("a", Outcome::Passed), ("b", Outcome::Failed), ("c", Outcome::Skipped)]
            .map(|(id, outcome)| (id.to_owned(), outcome));
        assert_eq!(outcomes(rows), expected);
    }
}
