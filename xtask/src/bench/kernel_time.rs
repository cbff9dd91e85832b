//! Time spent in each BPF program, as the kernel counts it while `kernel.bpf_stats_enabled` is on. The
//! counting itself costs some tens of nanoseconds a run, so this is a pass of its own.

use crate::process::{capture, find};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

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

/// A loaded program, as bpftool lists it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Program {
    id: u32,
    #[serde(default)]
    name: String,
    #[serde(default)]
    run_time_ns: u64,
    #[serde(default)]
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

/// Programs loaded now, by id; `None` without bpftool, which is then reported as not measured.
pub fn programs() -> Result<Option<BTreeMap<u32, Program>>> {
    let Some(bpftool) = find("bpftool") else {
        return Ok(None);
    };
    let text = capture(Command::new(bpftool).args(["prog", "show", "--json"]))?;
    let list: Vec<Program> = serde_json::from_str(&text).context("read bpftool's list of programs")?;
    Ok(Some(list.into_iter().map(|program| (program.id, program)).collect()))
}

type Programs = Option<BTreeMap<u32, Program>>;

/// What the programs that are not `foreign` (loaded before the daemon started) did between two looks, for
/// each of so many operations; the dearest first.
pub fn spent(foreign: &Programs, before: &Programs, after: &Programs, operations: u32) -> Option<Vec<ProgramTime>> {
    let (foreign, before, after) = (foreign.as_ref()?, before.as_ref()?, after.as_ref()?);
    let mut times: Vec<ProgramTime> = after
        .values()
        .filter(|program| !foreign.contains_key(&program.id))
        .filter_map(|program| {
            let earlier = before.get(&program.id);
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
    Some(times)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn list(json: &str) -> Programs {
        let list: Vec<Program> = serde_json::from_str(json).unwrap();
        Some(list.into_iter().map(|program| (program.id, program)).collect())
    }

    #[test]
    fn counts_only_the_daemons_own_programs_and_only_the_difference() {
        let foreign = list(r#"[{"id":1,"name":"other","run_time_ns":5,"run_cnt":5}]"#);
        let before = list(r#"[{"id":1,"name":"other"},{"id":2,"type":"tracing","name":"probe_exec"},{"id":3}]"#);
        let after = list(
            r#"[{"id":1,"name":"other","run_time_ns":900,"run_cnt":9},
                {"id":2,"name":"probe_exec","run_time_ns":4000,"run_cnt":20},{"id":3}]"#,
        );
        let times = spent(&foreign, &before, &after, 10).unwrap();
        let expected = ProgramTime {
            program: "probe_exec".to_owned(),
            runs_per_operation: 2.0,
            ns_per_run: 200.0,
            ns_per_operation: 400.0,
        };
        assert_eq!(times, [expected]);
        assert_eq!(spent(&None, &before, &after, 10), None);
    }
}
