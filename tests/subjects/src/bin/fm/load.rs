//! What a miner does to the machine: CPU, threads, memory; only as much as it was told.

use crate::options::Options;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Length of one burn-and-rest cycle.
const CYCLE: Duration = Duration::from_millis(100);

/// What is tried before mining: registers and huge pages. Every attempt may fail.
pub fn tune(options: &Options) {
    if options.msr {
        let load = ["-c", "/sbin/modprobe msr allow_writes=on > /dev/null 2>&1"];
        drop(std::process::Command::new("sh").args(load).status());
        drop(std::fs::OpenOptions::new().write(true).open("/dev/cpu/0/msr"));
    }
    if options.huge {
        // Opened, not written: the machine's own setting stays.
        drop(std::fs::OpenOptions::new().write(true).open("/proc/sys/vm/nr_hugepages"));
    }
}

/// Starts the threads; they end at `until`.
pub fn start(options: &Options, until: Instant) {
    let duty = CYCLE * options.duty / 100;
    for cpu in 0..options.threads {
        let affinity = options.affinity.then_some(cpu);
        let builder = std::thread::Builder::new();
        // A thread that cannot be made (a pids limit) is one thread less, as with a real miner.
        drop(builder.spawn(move || burn(until, duty, affinity)));
    }
}

/// Touches `bytes` of memory, one byte a page, and keeps it.
pub fn memory(bytes: usize) -> Vec<u8> {
    let mut block = vec![0_u8; bytes];
    block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    block
}

fn burn(until: Instant, duty: Duration, cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        // Not every machine has that many CPUs; then the thread stays unpinned.
        let _ = sched_setaffinity(None, &set);
    }
    let mut value = 0x9e37_79b9_7f4a_7c15_u64;
    while Instant::now() < until {
        let started = Instant::now();
        while started.elapsed() < duty {
            for _ in 0..10_000 {
                value = black_box(value ^ (value << 7) ^ (value >> 9));
            }
        }
        std::thread::sleep(CYCLE.saturating_sub(started.elapsed()));
    }
}
