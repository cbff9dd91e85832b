//! The scenario and image files are data that nobody compiles: this is their type check.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the keys are checked by being read")]
struct Scenario {
    id: String,
    title: String,
    #[serde(default)]
    technique: String,
    image: String,
    tag_as: Option<String>,
    entrypoint: Option<bool>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    engine_args: Vec<String>,
    #[serde(default)]
    baseline: String,
    #[serde(default)]
    setup: String,
    #[serde(default)]
    beside: String,
    #[serde(default)]
    host_run: String,
    run: String,
    #[serde(default)]
    user: String,
    #[serde(default = "ten")]
    timeout_s: u64,
    expect: Vec<String>,
    #[serde(default)]
    effect: String,
    #[serde(default = "signal")]
    min_rung: String,
    #[serde(default)]
    tier: String,
    #[serde(default)]
    miss: String,
    #[serde(default)]
    serve: BTreeMap<String, Served>,
    shell: Option<Shell>,
}

/// The runner's defaults.
fn ten() -> u64 {
    10
}

fn signal() -> String {
    "signal".to_owned()
}

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "the values are checked by being read")]
enum Served {
    Text(String),
    Subject { subject: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the key is checked by being read")]
struct Shell {
    send: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the keys are checked by being read")]
struct Image {
    description: String,
    base: String,
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    entrypoint: Vec<String>,
    #[serde(default)]
    setup: String,
    #[serde(default)]
    file: Vec<ImageFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageFile {
    path: String,
    mode: Option<String>,
    content: Option<String>,
    from: Option<String>,
    subject: Option<String>,
}

/// The kinds of design.md section 2.
const KINDS: [&str; 22] = [
    "miner",
    "reverse_shell",
    "shell_connect",
    "download_exec",
    "drift",
    "fileless_exec",
    "persistence_ssh_key",
    "persistence_cron",
    "persistence_other",
    "image_denylist",
    "ioc",
    "kubelet_access",
    "docker_socket",
    "metadata_access",
    "escape",
    "credential_access",
    "baseline_exec",
    "baseline_connect",
    "baseline_file",
    "recon",
    "tamper",
    "event_loss",
];

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let mut files = std::fs::read_dir(tests_dir().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect::<Vec<_>>();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

#[test]
fn scenarios() {
    let mut ids = BTreeSet::new();
    for path in toml_files("scenarios") {
        let benign = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("benign"));
        for scenario in read::<File>(&path).scenario {
            let id = &scenario.id;
            assert!(ids.insert(id.clone()), "{id}: twice");
            assert!(tests_dir().join(format!("images/{}.toml", scenario.image)).exists(), "{id}: {}", scenario.image);
            assert_eq!(scenario.expect.is_empty(), benign, "{id}: benign scenarios, and only they, expect nothing");
            assert!(scenario.expect.iter().all(|kind| KINDS.contains(&kind.as_str())), "{id}");
            assert!(matches!(scenario.min_rung.as_str(), "alert" | "signal" | "lsm"), "{id}");
            assert!(matches!(scenario.tier.as_str(), "" | "M" | "S" | "H"), "{id}");
            assert!(scenario.miss.is_empty() || !benign, "{id}");
            assert!((1..=90).contains(&scenario.timeout_s), "{id}");
            assert!(scenario.effect.is_empty() || scenario.effect.starts_with(['/', '{']), "{id}");
            if scenario.min_rung != "alert" && !benign {
                assert!(!scenario.effect.is_empty(), "{id}: prevention is promised but nothing shows it");
                assert!(scenario.host_run.is_empty(), "{id}: the host is alert-only");
            }
            assert!(scenario.baseline.parse::<toml::Table>().is_ok(), "{id}: {}", scenario.baseline);
            shell_syntax(id, &scenario);
        }
    }
}

/// A scenario that fails for its syntax tests nothing. Every script is for sh; those of `host_run` as well.
fn shell_syntax(id: &str, scenario: &Scenario) {
    for script in [&scenario.setup, &scenario.beside, &scenario.run, &scenario.host_run] {
        let checked = std::process::Command::new("sh").args(["-n", "-c", script]).output().unwrap();
        assert!(checked.status.success(), "{id}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn images() {
    for path in toml_files("images") {
        let image = read::<Image>(&path);
        let name = path.display();
        let known = image.base == "debootstrap"
            || image.base == "busybox"
            || image
                .base
                .strip_prefix("image:")
                .is_some_and(|base| path.with_file_name(format!("{base}.toml")).exists());
        assert!(known, "{name}: base {}", image.base);
        for file in image.file {
            assert!(file.path.starts_with('/'), "{name}: {}", file.path);
            let sources = [&file.content, &file.from, &file.subject].into_iter().flatten().count();
            assert_eq!(sources, 1, "{name}: {}: one of content, from and subject", file.path);
            assert!(file.mode.is_none_or(|mode| u32::from_str_radix(&mode, 8).is_ok()), "{name}: {}", file.path);
            if let Some(from) = file.from {
                assert!(path.with_file_name(&from).exists(), "{name}: {from}");
            }
            assert!(file.subject.is_none_or(|subject| ["fm", "lx", "lab-pool"].contains(&subject.as_str())), "{name}");
        }
    }
}
