//! How fast the detectors judge, on one core: the recordings of all scenarios, those of honest work, and single ones that
//! are mostly program starts, connections or opens. `bulkhead replay --repeat` measures; here is what it is given.

use super::machine;
use crate::build::{self, Profile};
use crate::process::run as run_command;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What is measured, and the beginnings of the recordings' names.
const MIXES: &[(&str, &[&str])] = &[
    ("everything, an attack in two of three", &[""]),
    ("honest work", &["bn-"]),
    ("mostly program starts", &["bn-18-dpkg", "bn-23-configure", "bn-44-check-agent", "bn-73-watcher"]),
    ("mostly connections", &["bn-06-apache", "bn-08-many-peers", "bn-45-acme-loop"]),
    ("many opens", &["bn-21-pip-sdist", "bn-84-accounts"]),
];

/// Measures and prints.
pub fn run(times: u64) -> Result<()> {
    let daemon = build::daemon(Profile::Release)?;
    let folder = workspace::root().join("tests/recordings");
    let mut all: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    all.sort();
    let machine = machine::describe();
    println!("{}; kernel {}; {}; commit {}", machine.processor, machine.kernel, machine.date, machine.commit);
    for (name, beginnings) in MIXES {
        let is_meant = |path: &PathBuf| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.ends_with(".rec.gz") && beginnings.iter().any(|beginning| file.starts_with(beginning))
        };
        let files: Vec<&PathBuf> = all.iter().filter(|path| is_meant(path)).collect();
        if files.is_empty() {
            bail!("no recordings for {name} in {}", folder.display());
        }
        println!("\n{name}:");
        // As many events for few recordings as for many.
        let rounds = times * (all.len() / files.len()).max(1) as u64;
        run_command(
            Command::new(&daemon)
                .args(["replay", "--config", "/dev/null", "--repeat", &rounds.to_string()])
                .args(files),
        )
        .context("judge recordings")?;
    }
    Ok(())
}
