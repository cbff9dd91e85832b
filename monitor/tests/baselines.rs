//! A baseline against recordings, as `bulkhead baseline promote` compares them: what is missing is listed, and what is
//! listed, once added, is all that was missing. An attack is not among it.
#![expect(clippy::unwrap_used, reason = "tests")]

use monitor::baseline::entry::{Entry as Expected, What};
use monitor::baseline::{Baseline, Identity};
use monitor::config::Loaded;
use monitor::pipeline::Compiled;
use monitor::pipeline::replay::{Replay, Totals};
use monitor::recording::{Entry, Reader};
use std::path::{Path, PathBuf};

fn recording(id: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings").join(format!("{id}.rec.gz"))
}

/// The image that the recording is about.
fn identity(path: &Path) -> Identity {
    let mut reader = Reader::open(path).unwrap();
    while let Some(entry) = reader.next_entry().unwrap() {
        if let Entry::Container(container) = entry
            && let Some(identity) = Identity::of(&container)
        {
            return identity;
        }
    }
    unreachable!("no container is named")
}

fn against(path: &Path, baseline: &Baseline) -> (Vec<(What, u64)>, Totals) {
    let compiled = Compiled::new(&Loaded::builtin().unwrap()).unwrap();
    Replay::new(&compiled).against(&mut Reader::open(path).unwrap(), baseline.clone()).unwrap()
}

#[test]
fn what_is_listed_is_all_that_is_missing() {
    for id in ["bn-03-redis", "bn-05-tomcat", "bn-06-apache"] {
        let path = recording(id);
        let mut baseline = Baseline::new(identity(&path));
        let (missing, totals) = against(&path, &baseline);
        assert!(!missing.is_empty() && totals.compared > 0, "{id}");
        baseline.entries = missing.into_iter().map(|(what, _)| Expected { what, seen: None }).collect();
        let (missing, totals) = against(&path, &baseline);
        assert!(missing.is_empty() && totals.compared > 0, "{id}: {missing:?}");
        baseline.identity.digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(against(&path, &baseline).1.compared, 0, "{id}: of another image");
    }
}

#[test]
fn an_attack_is_not_counted_against_it() {
    let path = recording("rs-01-bash-devtcp");
    let baseline = Baseline::new(identity(&path));
    let (missing, totals) = against(&path, &baseline);
    assert!(totals.compared > 0 && totals.findings > 0);
    let lines: Vec<String> = missing.iter().map(|(what, _)| what.to_string()).collect();
    assert!(lines.iter().all(|line| !line.contains("bash") && !line.contains("203.0.113.66")), "{lines:?}");
}

/// What only a baseline tells from honest work.
#[test]
fn a_web_shell_deviates() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios/reverse-shells.toml");
    let table: toml::Table = std::fs::read_to_string(scenarios).unwrap().parse().unwrap();
    let id = "rs-54-web-shell";
    let scenario = table["scenario"].as_array().unwrap().iter().find(|s| s["id"].as_str() == Some(id)).unwrap();
    let text = format!("image = \"x:1\"\nmode = \"monitor\"\n{}", scenario["baseline"].as_str().unwrap());
    let path = recording(id);
    let baseline = Baseline { identity: identity(&path), ..Baseline::parse(Path::new("x.toml"), &text).unwrap() };
    let (missing, totals) = against(&path, &baseline);
    let lines: Vec<String> = missing.iter().map(|(what, _)| what.to_string()).collect();
    assert!(totals.compared > 0 && lines.iter().any(|line| line.contains("php") && line.contains("dash")), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("php")), "what the server's own start does is expected: {lines:?}");
}
