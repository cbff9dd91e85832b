//! Which test binaries the workspace has, as cargo reports them.

use crate::process::capture;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::PathBuf;

/// Target name of the binary with the tests that need root and a kernel.
pub const PRIVILEGED: &str = "privileged";

/// A compiled test program.
#[derive(Debug, PartialEq, Eq)]
pub struct TestBinary {
    /// Name of its cargo target.
    pub name: String,
    /// The program.
    pub executable: PathBuf,
    /// Folder of its package's manifest.
    pub package_dir: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Compiles every test of the workspace and lists the programs.
pub fn build() -> Result<Vec<TestBinary>> {
    // First for people to watch, with cargo's own messages; then, with nothing left to compile, for us.
    super::compile_tests()?;
    let mut command = crate::process::cargo();
    command.current_dir(crate::workspace::root()).args([
        "test",
        "--locked",
        "--workspace",
        "--no-run",
        "--quiet",
        "--message-format=json",
    ]);
    parse(&capture(&mut command)?)
}

/// Test programs among cargo's messages.
pub fn parse(messages: &str) -> Result<Vec<TestBinary>> {
    let mut binaries = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("read cargo's message")?;
        let is_test = message.reason == "compiler-artifact" && message.profile.is_some_and(|profile| profile.test);
        if let (true, Some(executable), Some(target), Some(manifest)) =
            (is_test, message.executable, message.target, message.manifest_path)
        {
            let package_dir = manifest.parent().map(PathBuf::from).unwrap_or_default();
            binaries.push(TestBinary { name: target.name, executable, package_dir });
        }
    }
    Ok(binaries)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn keeps_test_programs_only() {
        let messages = r#"{"reason":"build-script-executed","package_id":"p"}
{"reason":"compiler-artifact","manifest_path":"/w/monitor/Cargo.toml","target":{"name":"bulkhead","kind":["bin"]},"profile":{"test":false},"executable":"/t/bulkhead"}
{"reason":"compiler-artifact","manifest_path":"/w/monitor/Cargo.toml","target":{"name":"privileged","kind":["test"]},"profile":{"test":true},"executable":"/t/deps/privileged-1"}
{"reason":"compiler-artifact","manifest_path":"/r/serde/Cargo.toml","target":{"name":"serde","kind":["lib"]},"profile":{"test":false},"executable":null}
{"reason":"build-finished","success":true}"#;
        let expected = TestBinary {
            name: PRIVILEGED.to_owned(),
            executable: "/t/deps/privileged-1".into(),
            package_dir: "/w/monitor".into(),
        };
        assert_eq!(parse(messages).unwrap(), [expected]);
    }
}
