//! Flat or not, all or not.

use super::rows::Identified;
use serde_json::{Value, json};
use std::time::Duration;

/// Memory may differ by so much between the first and the second half.
const TOLERANCE: f64 = 0.1;

/// Samples of the monitor's resident memory, bytes.
#[derive(Debug, Default)]
pub struct Memory {
    first: Vec<u64>,
    second: Vec<u64>,
}

impl Memory {
    /// Notes a sample taken after `done` of `count` containers.
    pub fn note(&mut self, done: usize, count: usize, bytes: u64) {
        if done < count / 2 { self.first.push(bytes) } else { self.second.push(bytes) }
    }

    /// Medians of the two halves, bytes; `None` if one has no sample.
    fn medians(&self) -> Option<(u64, u64)> {
        Some((median(&self.first)?, median(&self.second)?))
    }

    fn peak(&self) -> u64 {
        self.first.iter().chain(&self.second).copied().max().unwrap_or(0)
    }

    /// Growth of the second half over the first as a share of the first.
    fn change(&self) -> Option<f64> {
        let (first, second) = self.medians()?;
        (first > 0).then(|| (second as f64 - first as f64) / first as f64)
    }

    fn is_flat(&self) -> bool {
        self.change().is_some_and(|change| change.abs() <= TOLERANCE)
    }
}

fn median(samples: &[u64]) -> Option<u64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// Everything about a run.
#[derive(Debug)]
pub struct Verdict {
    /// Containers asked for.
    pub count: usize,
    /// From the first container's start to the last one's removal.
    pub took: Duration,
    /// What the monitor said.
    pub identified: Identified,
    /// What it needed.
    pub memory: Memory,
    /// Its status at the end.
    pub status: Value,
}

impl Verdict {
    fn counter(&self, name: &str) -> u64 {
        self.status.pointer(name).and_then(Value::as_u64).unwrap_or(0)
    }

    fn failures(&self) -> Vec<String> {
        let found = &self.identified;
        let mut failures = Vec::new();
        if found.made != self.count {
            failures.push(format!("{} of {} containers were made", found.made, self.count));
        }
        if found.by_id != found.made {
            failures.push(format!("{} missed ({})", found.made - found.by_id, found.missed.join(", ")));
        }
        let unnamed = found.by_id - found.named_at_once - found.named_later;
        if unnamed > 0 {
            failures.push(format!("{unnamed} without name and image ({})", found.unnamed.join(", ")));
        }
        if !self.memory.is_flat() {
            failures.push("resident memory is not flat".to_owned());
        }
        let lost = self.counter("/events_lost");
        if lost > 0 {
            failures.push(format!("{lost} events lost"));
        }
        failures
    }

    /// All identified, nothing lost, memory flat.
    pub fn is_green(&self) -> bool {
        self.failures().is_empty()
    }

    /// One line a number.
    pub fn table(&self) -> String {
        let found = &self.identified;
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let (first, second) = self.memory.medians().unwrap_or_default();
        let rows = [
            ("containers made", found.made.to_string()),
            ("identified by id", found.by_id.to_string()),
            ("named in the first alert", found.named_at_once.to_string()),
            ("named by an amendment", found.named_later.to_string()),
            ("resident, first half (median)", mib(first)),
            ("resident, second half (median)", mib(second)),
            ("resident, change", format!("{:+.1} %", self.memory.change().unwrap_or_default() * 100.0)),
            ("resident, peak", mib(self.memory.peak())),
            ("events judged", self.counter("/events_judged").to_string()),
            ("events lost", self.counter("/events_lost").to_string()),
            ("engine inspections dropped", self.counter("/engine/inspections_dropped").to_string()),
            ("containers remembered at the end", self.counter("/containers/gone").to_string()),
            ("processes remembered at the end", self.counter("/processes").to_string()),
            ("seconds", self.took.as_secs().to_string()),
        ];
        rows.iter().map(|(name, value)| format!("{name:<34} {value}\n")).collect()
    }

    /// The last line.
    pub fn closing_line(&self) -> String {
        let failures = self.failures();
        if failures.is_empty() {
            return format!("churn: {} containers, all identified, memory flat", self.identified.made);
        }
        format!("churn: FAILED: {}", failures.join("; "))
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let found = &self.identified;
        let (first, second) = self.memory.medians().unwrap_or_default();
        json!({
            "containers": found.made,
            "identified": found.by_id,
            "named_at_once": found.named_at_once,
            "named_by_amendment": found.named_later,
            "missed": found.missed,
            "unnamed": found.unnamed,
            "rss_first_half_bytes": first,
            "rss_second_half_bytes": second,
            "rss_peak_bytes": self.memory.peak(),
            "seconds": self.took.as_secs(),
            "status": self.status,
            "failures": self.failures(),
            "passed": self.is_green(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(made: usize, by_id: usize, named: usize, second: u64) -> Verdict {
        let mut memory = Memory::default();
        for n in 0..10 {
            memory.note(n, 20, 100);
            memory.note(10 + n, 20, second);
        }
        let identified = Identified { made, by_id, named_at_once: named, ..Identified::default() };
        Verdict { count: 20, took: Duration::from_secs(1), identified, memory, status: json!({ "events_lost": 0 }) }
    }

    #[test]
    fn green_is_all_of_it() {
        assert!(verdict(20, 20, 20, 110).is_green());
        assert!(verdict(20, 20, 20, 90).is_green());
        for bad in [
            verdict(19, 19, 19, 100),
            verdict(20, 19, 19, 100),
            verdict(20, 20, 19, 100),
            verdict(20, 20, 20, 111),
            verdict(20, 20, 20, 89),
        ] {
            assert!(!bad.is_green());
            assert!(bad.closing_line().starts_with("churn: FAILED: "));
        }
        let lossy = Verdict { status: json!({ "events_lost": 1 }), ..verdict(20, 20, 20, 100) };
        assert!(!lossy.is_green());
    }

    #[test]
    fn no_samples_are_not_flat() {
        assert!(!Memory::default().is_flat());
    }
}
