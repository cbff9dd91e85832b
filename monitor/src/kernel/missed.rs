//! Runs of programs that the kernel left out. A program of the tracing kind is not run on a CPU on which it is running
//! already: a task was preempted inside of it (`__bpf_prog_enter_recur` and `__bpf_trace_run` count that; programs
//! behind LSM and cgroup hooks have no such guard). What such a run would have seen, nobody has seen.

use super::hooks::IN_PAIRS;
use aya::programs::ProgramFd;
use std::os::fd::{AsFd as _, AsRawFd as _};

/// A program that can be left out, and what is known of it.
struct Watched {
    name: String,
    fd: ProgramFd,
    told: u64,
}

/// Watches the counters.
#[derive(Default)]
pub struct Missed {
    programs: Vec<Watched>,
}

impl Missed {
    /// From now on; what was counted before is known.
    pub fn since_now(programs: impl IntoIterator<Item = (String, ProgramFd)>) -> Self {
        let programs = programs.into_iter().map(|(name, fd)| Watched { told: count(&fd), name, fd });
        Self { programs: programs.collect() }
    }

    /// Programs that were left out since the last time, and how often.
    pub fn grown(&mut self) -> Vec<(String, u64)> {
        let grown = self.programs.iter_mut().filter_map(|program| {
            let now = count(&program.fd);
            let more = now.saturating_sub(program.told);
            program.told = now.max(program.told);
            (more > 0).then(|| (program.name.clone(), more))
        });
        let mut grown: Vec<(String, u64)> = grown.collect();
        let both = IN_PAIRS.iter().all(|name| self.programs.iter().any(|program| program.name == *name));
        if both {
            together(&mut grown);
        }
        grown
    }
}

/// Of a pair, at most as many runs are missed as the luckier one has missed.
fn together(grown: &mut Vec<(String, u64)>) {
    let of = |name: &str| grown.iter().find(|(grown, _)| grown == name).map_or(0, |(_, more)| *more);
    let least = IN_PAIRS.map(of).into_iter().min().unwrap_or(0);
    grown.retain(|(name, _)| *name != IN_PAIRS[0] && *name != IN_PAIRS[1]);
    if least > 0 {
        grown.push((IN_PAIRS[0].to_owned(), least));
    }
}

/// 0 where the kernel (before 5.12) does not tell.
fn count(fd: &ProgramFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    misses(&std::fs::read_to_string(path).unwrap_or_default())
}

fn misses(fdinfo: &str) -> u64 {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{misses, together};

    #[test]
    fn of_a_pair_only_what_both_missed_counts() {
        let of = |counts: &[(&str, u64)]| {
            let mut grown = counts.iter().map(|(name, more)| ((*name).to_owned(), *more)).collect();
            together(&mut grown);
            grown
        };
        assert_eq!(of(&[("process_exec", 7), ("process_exit", 1)]), [("process_exit".to_owned(), 1)]);
        assert_eq!(of(&[("process_exec", 7), ("process_exec_whole", 2)]), [("process_exec_whole".to_owned(), 2)]);
    }

    #[test]
    fn reads_what_the_kernel_prints() {
        assert_eq!(misses("prog_type:\t26\nmemlock:\t4096\nrecursion_misses:\t17\nverified_insns:\t9\n"), 17);
        assert_eq!(misses("prog_type:\t26\n"), 0);
    }
}
