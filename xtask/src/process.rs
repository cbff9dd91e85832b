//! Starting other programs and saying which; the two kinds of failure a command can end with.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

/// Exit status for a missing privilege (`EX_NOPERM` of sysexits.h), as the daemon uses it.
pub const EXIT_NO_PRIVILEGE: u8 = 77;

/// A failure that ends xtask with a status of its own instead of 1.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A missing privilege.
    pub fn privilege(message: impl Into<String>) -> anyhow::Error {
        Self {
            status: EXIT_NO_PRIVILEGE,
            message: message.into(),
        }
        .into()
    }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The file a program name stands for: the first executable on `PATH`, in the system's folders (which an
/// unprivileged `PATH` often lacks), or in cargo's.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .chain(cargo_bin())
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

fn cargo_bin() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))?;
    Some(home.join("bin"))
}

fn is_executable(file: &std::path::Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The cargo that runs this xtask.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command on this terminal after naming it; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", render(command));
    let status = command
        .status()
        .with_context(|| format!("start {}", render(command)))?;
    check(command, status)
}

/// Runs a command quietly and returns what it printed; on failure the error carries its standard error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", render(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            render(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, passing on its standard output line by line and keeping it.
pub fn tee(command: &mut Command) -> Result<(ExitStatus, String)> {
    eprintln!("+ {}", render(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", render(command)))?;
    let mut kept = String::new();
    if let Some(pipe) = child.stdout.take() {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .context("read a test's output")?
            > 0
        {
            let text = String::from_utf8_lossy(&line);
            print!("{text}");
            kept.push_str(&text);
            line.clear();
        }
        std::io::stdout()
            .flush()
            .context("write to standard output")?;
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for {}", render(command)))?;
    Ok((status, kept))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} ended with {status}", render(command));
    }
    Ok(())
}

/// A command as one could type it: the variables it sets, the program's name, its arguments.
pub fn render(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(value?))));
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(quote(name)).chain(command.get_args().map(quote));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy().replace('\x1f', " ");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn renders_what_could_be_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command
            .env("LLVM_PREFIX", "/usr/lib/llvm-22")
            .args(["install", "a b", "it's"]);
        assert_eq!(
            render(&command),
            r"LLVM_PREFIX=/usr/lib/llvm-22 cargo install 'a b' 'it'\''s'"
        );
    }

    #[test]
    fn finds_programs_and_only_programs() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }

    #[test]
    fn tee_keeps_output_and_status() {
        let (status, text) =
            tee(Command::new("sh").args(["-c", "echo one; echo two; exit 3"])).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn capture_reports_standard_error() {
        let error =
            capture(Command::new("sh").args(["-c", "echo broken >&2; exit 1"])).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
}
