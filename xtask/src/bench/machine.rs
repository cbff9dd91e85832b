//! The machine the numbers belong to.

use crate::process::capture;
use crate::workspace;
use serde::Serialize;
use std::fs;
use std::process::Command;

/// Without this a number means nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor, as it names itself.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Main memory.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Distribution.
    pub system: String,
    /// UTC date.
    pub date: String,
    /// Commit, with `+` after it if the tree differed from it; empty outside a repository.
    pub commit: String,
}

/// Describes this machine. What cannot be read stays empty.
pub fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name", ':'),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: memory_bytes(&read("/proc/meminfo")),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        system: field(&read("/etc/os-release"), "PRETTY_NAME", '=').trim_matches('"').to_owned(),
        date: jiff::Timestamp::now().strftime("%F").to_string(),
        commit: commit(),
    }
}

fn field(text: &str, name: &str, separator: char) -> String {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

fn memory_bytes(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal", ':');
    kib.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

fn commit() -> String {
    let git = |arguments: &[&str]| capture(Command::new("git").arg("-C").arg(workspace::root()).args(arguments));
    let Ok(id) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|text| !text.trim().is_empty());
    format!("{}{}", id.trim(), if changed { "+" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields() {
        assert_eq!(field("model name\t: A CPU\nmodel\t: 1\n", "model name", ':'), "A CPU");
        assert_eq!(memory_bytes("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2 << 20);
        assert_eq!(field("", "x", ':'), "");
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_date() {
        let machine = describe();
        assert!(!machine.kernel.is_empty());
        assert_eq!(machine.date.len(), 10);
    }
}
