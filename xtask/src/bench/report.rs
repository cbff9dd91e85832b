//! Collects measurements over the rounds and reduces them to medians.

use super::kernel_time::ProgramTime;
use super::machine::Machine;
use super::pressure::Pressure;
use super::worker::Work;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Some work, on the host or in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// What is done.
    pub work: Work,
    /// Whether in a container.
    pub contained: bool,
}

impl Workload {
    /// Every combination, in the order measured and shown.
    pub const ALL: [Self; 8] = {
        let mut all = [Self { work: Work::Exec, contained: false }; 8];
        let mut index = 0;
        while index < all.len() {
            all[index] = Self { work: Work::ALL[index / 2], contained: index % 2 == 1 };
            index += 1;
        }
        all
    };
}

/// Everything measured so far.
pub struct Report {
    machine: Machine,
    rounds: u32,
    without: BTreeMap<Workload, Vec<f64>>,
    with: BTreeMap<Workload, Vec<f64>>,
    programs: BTreeMap<Workload, Vec<ProgramTime>>,
    start_to_ready_ms: Vec<f64>,
    resting_rss_bytes: Vec<f64>,
    cpu_s: Vec<f64>,
    peak_rss_bytes: u64,
    pressure: Option<Pressure>,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is done.
    pub work: Work,
    /// `host` or `container`.
    pub place: &'static str,
    /// Median nanoseconds per operation without the daemon.
    pub without_ns: f64,
    /// With it.
    pub with_ns: f64,
    /// Median of the rounds' differences.
    pub added_ns: f64,
    /// Nanoseconds in BPF programs per operation; `None` if not measured.
    pub bpf_ns: Option<f64>,
    /// The same by program.
    pub programs: Option<Vec<ProgramTime>>,
}

/// The daemon's own cost: medians over its starts, one a round.
#[derive(Clone, Debug, Serialize)]
pub struct DaemonCost {
    /// From exec to `READY=1`.
    pub start_to_ready_ms: f64,
    /// One second after that.
    pub resting_rss_bytes: f64,
    /// Over all rounds.
    pub peak_rss_bytes: u64,
    /// Processor time during one round's workloads.
    pub cpu_s_per_round: f64,
}

/// What is printed and written.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Where and when.
    pub machine: Machine,
    /// Rounds measured.
    pub rounds: u32,
    /// Cost per operation.
    pub workloads: Vec<Row>,
    /// Cost of the daemon.
    pub daemon: DaemonCost,
    /// Events at a fixed rate.
    pub pressure: Option<Pressure>,
}

impl Report {
    /// An empty one.
    pub fn new(machine: Machine, rounds: u32) -> Self {
        Self {
            machine,
            rounds,
            without: BTreeMap::new(),
            with: BTreeMap::new(),
            programs: BTreeMap::new(),
            start_to_ready_ms: Vec::new(),
            resting_rss_bytes: Vec::new(),
            cpu_s: Vec::new(),
            peak_rss_bytes: 0,
            pressure: None,
        }
    }

    /// Notes nanoseconds per operation without the daemon.
    pub fn without(&mut self, workload: Workload, ns: f64) {
        self.without.entry(workload).or_default().push(ns);
    }

    /// Notes nanoseconds per operation with the daemon.
    pub fn with(&mut self, workload: Workload, ns: f64) {
        self.with.entry(workload).or_default().push(ns);
    }

    /// Notes a start of the daemon.
    pub fn started(&mut self, to_ready: Duration, resting_rss_bytes: u64) {
        self.start_to_ready_ms.push(to_ready.as_secs_f64() * 1e3);
        self.resting_rss_bytes.push(resting_rss_bytes as f64);
    }

    /// Notes what a round cost the daemon.
    pub fn worked(&mut self, cpu: Duration, peak_rss_bytes: u64) {
        self.cpu_s.push(cpu.as_secs_f64());
        self.peak_rss_bytes = self.peak_rss_bytes.max(peak_rss_bytes);
    }

    /// Notes the BPF time of a workload.
    pub fn programs(&mut self, workload: Workload, times: Vec<ProgramTime>) {
        self.programs.insert(workload, times);
    }

    /// Notes the fixed-rate pass.
    pub fn pressure(&mut self, pressure: Pressure) {
        self.pressure = Some(pressure);
    }

    /// Reduces to medians.
    pub fn finish(&self) -> Results {
        Results {
            machine: self.machine.clone(),
            rounds: self.rounds,
            workloads: Workload::ALL.into_iter().filter_map(|workload| self.row(workload)).collect(),
            daemon: DaemonCost {
                start_to_ready_ms: median(&self.start_to_ready_ms),
                resting_rss_bytes: median(&self.resting_rss_bytes),
                peak_rss_bytes: self.peak_rss_bytes,
                cpu_s_per_round: median(&self.cpu_s),
            },
            pressure: self.pressure,
        }
    }

    fn row(&self, workload: Workload) -> Option<Row> {
        let (without, with) = (self.without.get(&workload)?, self.with.get(&workload)?);
        // Of each round's own pair: a machine that drifts from round to round does not show up as cost.
        let added: Vec<f64> = without.iter().zip(with).map(|(without, with)| with - without).collect();
        let programs = self.programs.get(&workload).cloned();
        Some(Row {
            work: workload.work,
            place: if workload.contained { "container" } else { "host" },
            without_ns: median(without),
            with_ns: median(with),
            added_ns: median(&added),
            bpf_ns: programs.as_ref().map(|programs| programs.iter().map(|time| time.ns_per_operation).sum()),
            programs,
        })
    }
}

/// The middle value; the mean of the two middle ones of an even number; 0 of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => 0.0,
        (1, Some(value)) => *value,
        (_, Some(value)) => (sorted[middle - 1] + value) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn every_work_is_measured_in_both_places() {
        for work in Work::ALL {
            for contained in [false, true] {
                assert!(Workload::ALL.contains(&Workload { work, contained }));
            }
        }
    }

    #[test]
    fn drift_between_rounds_is_not_cost() {
        let mut report = Report::new(super::super::machine::describe(), 3);
        let workload = Workload::ALL[2];
        for (without, with) in [(100.0, 110.0), (200.0, 210.0), (300.0, 310.0)] {
            report.without(workload, without);
            report.with(workload, with);
        }
        let results = report.finish();
        assert_eq!(results.workloads.len(), 1);
        assert_eq!(results.workloads[0].added_ns, 10.0);
        assert_eq!(results.workloads[0].bpf_ns, None);
    }
}
