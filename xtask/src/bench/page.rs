//! The results for people: a table on the terminal, a page for the documentation.

use super::pressure::{EXECS_PER_S, OPENS_PER_S, Pressure};
use super::report::{Results, Row};
use super::worker::Work;
use std::fmt::Write;

const MIB: f64 = 1024.0 * 1024.0;

/// The table printed at the end.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<9} {:<10} {:>12} {:>12} {:>12} {:>12}",
        "work", "place", "without", "with", "added", "of it BPF"
    );
    for row in &results.workloads {
        let cells = cells(row);
        let _ = writeln!(
            text,
            "{:<9} {:<10} {:>12} {:>12} {:>12} {:>12}",
            row.work.name(),
            row.place,
            cells[0],
            cells[1],
            cells[2],
            cells[3]
        );
    }
    for (name, value) in facts(results) {
        let _ = writeln!(text, "{name}: {value}");
    }
    text
}

/// docs/performance.md.
pub fn page(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = String::from(INTRODUCTION);
    let _ = writeln!(
        text,
        "## Measured\n\n{}, {} cores, {:.1} GiB; kernel {}; {}; {}; commit {}; medians of {} rounds.\n",
        machine.processor,
        machine.cores,
        machine.memory_bytes as f64 / MIB / 1024.0,
        machine.kernel,
        machine.system,
        machine.date,
        if machine.commit.is_empty() { "unknown" } else { &machine.commit },
        results.rounds
    );
    text.push_str("| work | place | without | with | added | of it in BPF programs |\n|---|---|---:|---:|---:|---:|\n");
    for row in &results.workloads {
        let cells = cells(row).join(" | ");
        let _ = writeln!(text, "| {} | {} | {cells} |", row.work.name(), row.place);
    }
    text.push_str("\n| the daemon | |\n|---|---:|\n");
    for (name, value) in facts(results) {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    programs(&mut text, &results.workloads);
    text
}

/// Without, with, added, BPF: in the work's customary unit.
fn cells(row: &Row) -> [String; 4] {
    let render = |ns: f64| match row.work {
        Work::Exec | Work::Connect => format!("{:.2} µs", ns / 1e3),
        Work::Open | Work::Getppid => format!("{ns:.1} ns"),
    };
    let bpf = row.bpf_ns.map_or_else(|| "not measured".to_owned(), render);
    [render(row.without_ns), render(row.with_ns), render(row.added_ns), bpf]
}

fn facts(results: &Results) -> Vec<(String, String)> {
    let daemon = &results.daemon;
    let mut facts = vec![
        ("start to READY".to_owned(), format!("{:.0} ms", daemon.start_to_ready_ms)),
        ("resident at rest".to_owned(), format!("{:.1} MiB", daemon.resting_rss_bytes / MIB)),
        ("resident at most, in the rounds".to_owned(), format!("{:.1} MiB", daemon.peak_rss_bytes as f64 / MIB)),
        ("processor time a round".to_owned(), format!("{:.2} s", daemon.cpu_s_per_round)),
    ];
    if let Some(pressure) = &results.pressure {
        facts.extend(pressure_facts(pressure));
    }
    facts
}

fn pressure_facts(pressure: &Pressure) -> Vec<(String, String)> {
    let count = |value: Option<u64>| value.map_or_else(|| "not reported".to_owned(), |value| value.to_string());
    let rate = |made: u64| made / pressure.seconds.max(1);
    let name = |what: &str| format!("at {OPENS_PER_S} opens/s and {EXECS_PER_S} execs/s: {what}");
    vec![
        (name("made"), format!("{} opens/s, {} execs/s", rate(pressure.opens_made), rate(pressure.execs_made))),
        (name("events received"), count(pressure.events_received)),
        (name("events lost"), count(pressure.events_lost)),
        (name("processor time"), format!("{:.2} s in {} s", pressure.daemon_cpu_s, pressure.seconds)),
        (name("resident at most"), format!("{:.1} MiB", pressure.daemon_peak_rss_bytes as f64 / MIB)),
    ]
}

/// Programs that cost an operation less were run by others meanwhile.
const LEAST_NS: f64 = 1.0;

fn programs(text: &mut String, rows: &[Row]) {
    text.push_str(
        "\n## BPF time by program\n\n| work | place | program | runs an operation | ns a run | ns an operation |\n",
    );
    text.push_str("|---|---|---|---:|---:|---:|\n");
    for row in rows {
        for time in row.programs.iter().flatten().filter(|time| time.ns_per_operation >= LEAST_NS) {
            let _ = writeln!(
                text,
                "| {} | {} | `{}` | {:.3} | {:.0} | {:.1} |",
                row.work.name(),
                row.place,
                time.program,
                time.runs_per_operation,
                time.ns_per_run,
                time.ns_per_operation
            );
        }
    }
}

/// How the numbers come about, and what they are held against.
const INTRODUCTION: &str = include_str!("performance-head.md");

#[cfg(test)]
mod tests {
    use super::super::kernel_time::ProgramTime;
    use super::super::machine;
    use super::super::report::{Report, Workload};
    use super::*;
    use std::time::Duration;

    fn results() -> Results {
        let mut report = Report::new(machine::describe(), 1);
        for workload in Workload::ALL {
            report.without(workload, 1000.0);
            report.with(workload, 1500.0);
        }
        let time = ProgramTime {
            program: "probe_exec".to_owned(),
            runs_per_operation: 1.0,
            ns_per_run: 400.0,
            ns_per_operation: 400.0,
        };
        report.programs(Workload::ALL[0], vec![time]);
        report.started(Duration::from_millis(250), 12 << 20);
        report.worked(Duration::from_millis(40), 14 << 20);
        report.finish()
    }

    #[test]
    fn the_table_has_a_row_a_workload_and_the_daemons_cost() {
        let text = table(&results());
        assert!(text.contains("exec      host"), "{text}");
        assert!(text.contains("0.40 µs"), "{text}");
        assert!(text.contains("start to READY: 250 ms"), "{text}");
        assert!(text.contains("resident at rest: 12.0 MiB"), "{text}");
        assert!(text.contains("not measured"), "{text}");
    }

    #[test]
    fn the_page_names_machine_and_programs() {
        let text = page(&results());
        assert!(text.contains(&machine::describe().kernel), "{text}");
        assert!(text.contains("| exec | host | `probe_exec` | 1.000 | 400 | 400.0 |"), "{text}");
    }

    #[test]
    fn json_is_one_object() {
        let value = serde_json::to_value(results()).unwrap_or_default();
        assert_eq!(value["workloads"].as_array().map(Vec::len), Some(8));
        assert_eq!(value["workloads"][0]["added_ns"], 500.0);
    }
}
