//! Time spent in each BPF program, as the kernel counts it while `kernel.bpf_stats_enabled` is on. The
//! counting itself costs some tens of nanoseconds a run, so this is a pass of its own.

use anyhow::{Context, Result};
use aya::programs::{ProgramInfo, loaded_programs};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The switch, put back on drop to what it was.
pub struct Statistics {
    previous: Option<String>,
}

impl Statistics {
    /// Switches counting on.
    pub fn enable() -> Result<Self> {
        let previous = fs::read_to_string(SWITCH).with_context(|| format!("read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        Ok(Self { previous: Some(previous) })
    }

    /// Puts the switch back.
    pub fn restore(mut self) -> Result<()> {
        match self.previous.take() {
            Some(previous) => fs::write(SWITCH, previous.trim()).with_context(|| format!("write {SWITCH}")),
            None => Ok(()),
        }
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Some(previous) = self.previous.take()
            && let Err(error) = fs::write(SWITCH, previous.trim())
        {
            eprintln!("bench: {SWITCH} is left on: {error}");
        }
    }
}

/// A loaded program and its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    name: String,
    run_time_ns: u64,
    run_cnt: u64,
}

/// What one program cost in one workload.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct ProgramTime {
    /// Name in the kernel: the first 15 characters of the function's.
    pub program: String,
    /// Runs for each operation of the workload.
    pub runs_per_operation: f64,
    /// Nanoseconds for each run.
    pub ns_per_run: f64,
    /// Nanoseconds for each operation.
    pub ns_per_operation: f64,
}

/// Programs loaded now, by id.
pub type Programs = BTreeMap<u32, Program>;

/// Looks at all of them.
pub fn programs() -> Result<Programs> {
    // One that goes while they are listed is not missed.
    loaded_programs().flatten().map(|info| Ok((info.id(), counted(&info)?))).collect()
}

/// Counters stand in what /proc tells of a descriptor (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c).
fn counted(info: &ProgramInfo) -> Result<Program> {
    let fd = info.fd().context("open a BPF program")?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let name = info.name_as_str().unwrap_or_default().to_owned();
    Ok(Program { name, run_time_ns: field(&text, "run_time_ns:"), run_cnt: field(&text, "run_cnt:") })
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

/// What the programs that are not `foreign` (loaded before the daemon started) did between two looks, for
/// each of so many operations; the dearest first.
pub fn spent(foreign: &Programs, before: &Programs, after: &Programs, operations: u32) -> Vec<ProgramTime> {
    let mut times: Vec<ProgramTime> = after
        .iter()
        .filter(|(id, _)| !foreign.contains_key(id))
        .filter_map(|(id, program)| {
            let earlier = before.get(id);
            let runs = program.run_cnt - earlier.map_or(0, |earlier| earlier.run_cnt.min(program.run_cnt));
            let ns = program.run_time_ns - earlier.map_or(0, |earlier| earlier.run_time_ns.min(program.run_time_ns));
            (runs > 0).then(|| ProgramTime {
                program: program.name.clone(),
                runs_per_operation: runs as f64 / f64::from(operations),
                ns_per_run: ns as f64 / runs as f64,
                ns_per_operation: ns as f64 / f64::from(operations),
            })
        })
        .collect();
    times.sort_by(|a, b| b.ns_per_operation.total_cmp(&a.ns_per_operation));
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, run_time_ns: u64, run_cnt: u64) -> Program {
        Program { name: name.to_owned(), run_time_ns, run_cnt }
    }

    #[test]
    fn counts_only_the_daemons_own_programs_and_only_the_difference() {
        let foreign = Programs::from([(1, program("other", 5, 5))]);
        let before = Programs::from([(1, program("other", 5, 5)), (2, program("exec", 0, 0)), (3, Program::default())]);
        let after =
            Programs::from([(1, program("other", 900, 9)), (2, program("exec", 4000, 20)), (3, Program::default())]);
        let times = spent(&foreign, &before, &after, 10);
        let expected = ProgramTime {
            program: "exec".to_owned(),
            runs_per_operation: 2.0,
            ns_per_run: 200.0,
            ns_per_operation: 400.0,
        };
        assert_eq!(times, [expected]);
    }

    #[test]
    fn counters_are_read_by_name() {
        let text = "prog_type:\t26\nrun_time_ns:\t1234\nrun_cnt:\t5\nrecursion_misses:\t0\n";
        assert_eq!((field(text, "run_time_ns:"), field(text, "run_cnt:"), field(text, "other:")), (1234, 5, 0));
    }
}
