//! `cargo xtask run`: from a clean clone to the monitor running on this terminal, in one command.

use crate::build::{self, Profile};
use crate::process::{Failure, is_root, render};
use crate::setup::{self, Purpose};
use crate::workspace;
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Sets up, builds, and becomes the daemon. Returns only on failure.
pub fn run(arguments: &[String]) -> Result<()> {
    if !is_root() {
        return Err(Failure::privilege(
            "the monitor loads eBPF programs and needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask run`",
        ));
    }
    let toolchain = setup::run(Purpose::Build)?;
    build::object(&toolchain)?;
    let daemon = build::daemon(Profile::Release)?;
    let mut command = command(&daemon, &workspace::config(), arguments);
    eprintln!("+ {}", render(&command));
    // Replaced rather than started: signals and the terminal are the daemon's own.
    Err(command.exec()).with_context(|| format!("start {}", daemon.display()))
}

fn command(daemon: &Path, config: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(daemon);
    // On a terminal: what is ended is to be gone.
    command.args(["run", "--no-pins"]);
    let names_config = |word: &String| word == "--config" || word.starts_with("--config=");
    if config.exists() && !arguments.iter().any(names_config) {
        command.arg("--config").arg(config);
    }
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        render(&command(Path::new("/x/bulkhead"), Path::new("/dev/null"), &arguments))
    }

    #[test]
    fn uses_the_sample_configuration_unless_another_is_named() {
        assert_eq!(words(&["--mode", "protect"]), "bulkhead run --no-pins --config /dev/null --mode protect");
        assert_eq!(words(&["--config", "mine.toml"]), "bulkhead run --no-pins --config mine.toml");
        assert_eq!(words(&["--config=mine.toml"]), "bulkhead run --no-pins --config=mine.toml");
    }
}
