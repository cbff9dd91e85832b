//! Every scenario within containers is kept as a recording of what the monitor was given when it was played (`cargo xtask scenarios
//! FILES --record tests/recordings`). Here the detectors judge them all again: what is to be found is found, honest work is
//! left alone, and the findings are the same each time.
#![expect(clippy::unwrap_used, reason = "tests")]

use monitor::config::Loaded;
use monitor::finding::FindingKind;
use monitor::output::Alert;
use monitor::pipeline::Compiled;
use monitor::pipeline::replay::{Replay, clock};
use monitor::recording::{Reader, Woven};
use std::path::{Path, PathBuf};

/// A scenario, as far as it concerns this test.
struct Scenario {
    id: String,
    expect: Vec<String>,
    /// It is known not to be found by the detectors alone.
    is_missed: bool,
    recording: PathBuf,
}

fn scenarios() -> Vec<Scenario> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(tests.join("scenarios")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let table: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        let scenarios = table["scenario"].as_array().unwrap().iter();
        for scenario in scenarios.filter(|scenario| !is_about_the_host(scenario)) {
            let id = scenario["id"].as_str().unwrap().to_owned();
            let expect = scenario.get("expect").and_then(toml::Value::as_array).cloned().unwrap_or_default();
            let expect = expect.iter().map(|kind| kind.as_str().unwrap().to_owned()).collect();
            let recording = tests.join("recordings").join(format!("{id}.rec.gz"));
            // With a baseline it is found: see the tests of baselines.
            let is_missed = ["miss", "baseline"].iter().any(|key| scenario.get(key).is_some());
            all.push(Scenario { id, expect, is_missed, recording });
        }
    }
    all
}

/// What goes on on the host, or in files of it, is not recorded: paths of the machine would be in it.
fn is_about_the_host(scenario: &toml::Value) -> bool {
    scenario.get("host_run").is_some() || scenario.to_string().contains("{scratch}")
}

fn judge(compiled: &Compiled, recording: &Path) -> (Vec<FindingKind>, String) {
    let mut reader = Reader::open(recording).unwrap();
    let (host, clock) = (reader.head().host.clone(), clock(reader.head()));
    let (mut kinds, mut rows) = (Vec::new(), String::new());
    let totals = Replay::new(compiled).run(&mut reader, |judged| {
        kinds.push(judged.finding.kind);
        rows.push_str(&serde_json::to_string(&Alert::new(&judged.finding, &host, &clock)).unwrap());
    });
    assert_eq!(totals.unwrap().lost, 0, "{}", recording.display());
    (kinds, rows)
}

#[test]
fn beside_each_other_they_are_judged_as_each_by_itself() {
    let compiled = Compiled::new(&Loaded::builtin().unwrap()).unwrap();
    let (mut woven, mut alone) = (Woven::default(), Vec::new());
    for scenario in scenarios() {
        woven.add(&mut Reader::open(&scenario.recording).unwrap()).unwrap();
        alone.extend(judge(&compiled, &scenario.recording).0);
    }
    let clock = clock(woven.head().unwrap());
    let mut runs = [0, 1].map(|_| (Replay::new(&compiled), Vec::new(), String::new()));
    for (replay, kinds, rows) in &mut runs {
        for number in 0..2 {
            let round = woven.round(number);
            let found = |judged: monitor::pipeline::replay::Judged| {
                kinds.push(judged.finding.kind);
                rows.push_str(&serde_json::to_string(&Alert::new(&judged.finding, "", &clock)).unwrap());
            };
            replay.read(&mut Reader::new(&*round).unwrap(), found).unwrap();
        }
        assert_eq!(replay.totals().events, 2 * woven.events());
        kinds.sort_unstable();
    }
    let [(_, kinds, rows), (_, _, again)] = runs;
    let mut wanted = alone.repeat(2);
    wanted.sort_unstable();
    assert_eq!(kinds, wanted);
    assert!(rows == again, "judged otherwise the second time");
}

#[test]
fn every_recorded_scenario_is_judged_as_it_was_meant() {
    let compiled = Compiled::new(&Loaded::builtin().unwrap()).unwrap();
    let mut wrong = Vec::new();
    for scenario in scenarios() {
        if !scenario.recording.exists() {
            wrong.push(format!("{}: no recording; make one with `cargo xtask scenarios … --record`", scenario.id));
            continue;
        }
        let (kinds, rows) = judge(&compiled, &scenario.recording);
        let is_wanted = |kind: &FindingKind| scenario.expect.iter().any(|wanted| wanted == kind.name());
        let right = if scenario.expect.is_empty() { kinds.is_empty() } else { kinds.iter().any(is_wanted) };
        if !right && !scenario.is_missed {
            wrong.push(format!("{}: found {kinds:?}, expected {:?}", scenario.id, scenario.expect));
        }
        if judge(&compiled, &scenario.recording).1 != rows {
            wrong.push(format!("{}: judged otherwise the second time", scenario.id));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
