//! The scenario format (`tests/scenarios/*.toml`): reading it, finding the files, filling in what
//! only a run knows.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One scenario.
#[derive(Clone, Debug, Deserialize)]
pub struct Scenario {
    /// Unique and stable.
    pub id: String,
    /// For the reader.
    #[serde(default)]
    pub title: String,
    /// ATT&CK technique; empty for benign.
    #[serde(default)]
    pub technique: String,
    /// Name of the image.
    pub image: String,
    /// Container labels.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Further `docker run` arguments.
    #[serde(default)]
    pub engine_args: Vec<String>,
    /// Entries of a baseline that the container is compared with (docs/baselines.md); empty: with none.
    #[serde(default)]
    pub baseline: String,
    /// sh script run in the container before the clock starts.
    #[serde(default)]
    pub setup: String,
    /// sh script run before `run` in a second container, made from the same image with the same arguments.
    #[serde(default)]
    pub beside: String,
    /// sh script run on the host after `run`.
    #[serde(default)]
    pub host_run: String,
    /// What is judged: run with `sh -c` through the runtime's exec.
    #[serde(default)]
    pub run: String,
    /// Who runs it.
    #[serde(default = "root")]
    pub user: String,
    /// Longest `run`, seconds.
    #[serde(default = "ten")]
    pub timeout_s: u64,
    /// One of these kinds must be found; none: nothing may be.
    #[serde(default)]
    pub expect: Vec<String>,
    /// Path that exists if the payload ran; empty where there is none.
    #[serde(default)]
    pub effect: String,
    /// Weakest rung on which prevention is promised.
    #[serde(default)]
    pub min_rung: Rung,
    /// How much is expected of the detection.
    #[serde(default)]
    pub tier: Tier,
    /// Why it is known not to be found; empty: it has to be.
    #[serde(default)]
    pub miss: String,
    /// Start the image's own entrypoint instead of a sleeping PID 1.
    #[serde(default)]
    pub entrypoint: bool,
    /// Reference under which the container is made.
    #[serde(default)]
    pub tag_as: String,
    /// Files of the web server.
    #[serde(default)]
    pub serve: BTreeMap<String, Served>,
    /// What the shell listeners send.
    #[serde(default)]
    pub shell: Shell,
    /// Keys this version does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, toml::Value>,
}

/// A file of the web server.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Served {
    /// Its text.
    Text(String),
    /// A program of `tests/subjects`.
    Subject {
        /// Its name.
        subject: String,
    },
}

/// The listener's side of a shell.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Shell {
    /// Sent to whoever connects.
    #[serde(default)]
    pub send: String,
}

/// A rung of the ladder, as far as promises go.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// Detection only: prevention is promised nowhere.
    Alert,
    /// A signal or a cgroup program stops the act.
    #[default]
    Signal,
    /// Only an LSM hook can stop it in time.
    Lsm,
}

/// How much is expected of the detection of an attack.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Must be found in the default configuration.
    #[default]
    M,
    /// Should be found.
    S,
    /// Hard: measured, not demanded.
    H,
}

impl Tier {
    /// As written in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::M => "M",
            Self::S => "S",
            Self::H => "H",
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    scenario: Vec<Scenario>,
}

fn root() -> String {
    "root".into()
}

fn ten() -> u64 {
    10
}

impl Scenario {
    /// Whether part of it happens on the host's side, or on the host's network.
    pub fn is_on_host(&self) -> bool {
        let mut before = "";
        let on_its_network = self.engine_args.iter().any(|arg| {
            let joined = matches!(before, "--network" | "--net") && arg == "host";
            before = arg;
            joined || matches!(arg.as_str(), "--network=host" | "--net=host")
        });
        !self.host_run.is_empty() || on_its_network
    }

    /// Nothing may be found in it.
    pub fn is_benign(&self) -> bool {
        self.expect.is_empty()
    }

    /// Every text that may name a path, for changing them all alike.
    pub fn texts_mut(&mut self) -> Vec<&mut String> {
        let mut texts = vec![
            &mut self.setup,
            &mut self.beside,
            &mut self.run,
            &mut self.host_run,
            &mut self.effect,
            &mut self.shell.send,
            &mut self.baseline,
        ];
        texts.extend(self.engine_args.iter_mut());
        texts.extend(self.labels.iter_mut());
        for file in self.serve.values_mut() {
            if let Served::Text(text) = file {
                texts.push(text);
            }
        }
        texts
    }

    /// The baseline's file, for a container made from `image`; `None` if it has none. What is not in it is told.
    pub fn baseline_of(&self, image: &str) -> Option<String> {
        let workload = &self.id;
        (!self.baseline.is_empty())
            .then(|| format!("image = {image:?}\nworkload = {workload:?}\nmode = \"monitor\"\n\n{}", self.baseline))
    }

    /// Labels of its container.
    pub fn labels(&self) -> Vec<String> {
        let workload = (!self.baseline.is_empty()).then(|| format!("bulkhead.workload={}", self.id));
        self.labels.iter().cloned().chain(workload).collect()
    }

    /// Whether a scratch folder is spoken of.
    pub fn wants_scratch(&self) -> bool {
        self.clone().texts_mut().iter().any(|text| text.contains("{scratch}"))
    }

    /// `effect` lies on the host.
    pub fn effect_on_host(&self) -> bool {
        self.effect.starts_with("{scratch}")
    }

    /// Puts the scratch folder's path where it is spoken of.
    pub fn fill_scratch(&mut self, path: &Path) {
        let path = path.to_string_lossy();
        for text in self.texts_mut() {
            if text.contains("{scratch}") {
                *text = text.replace("{scratch}", &path);
            }
        }
    }
}

/// Reads every scenario of `paths`: files, and the `*.toml` of folders. Ids are unique over all.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    let mut seen = HashSet::new();
    for path in files(paths)? {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        for scenario in parse(&text).with_context(|| format!("reading {}", path.display()))? {
            for key in scenario.unknown.keys() {
                eprintln!("{}: {}: unknown key `{key}` ignored", path.display(), scenario.id);
            }
            if !seen.insert(scenario.id.clone()) {
                bail!("{}: a scenario `{}` exists already", path.display(), scenario.id);
            }
            scenarios.push(scenario);
        }
    }
    Ok(scenarios)
}

/// The files that `paths` name, folders opened.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside: Vec<PathBuf> = fs::read_dir(path)
            .with_context(|| format!("reading {}", path.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// Reads one file's text.
pub fn parse(text: &str) -> Result<Vec<Scenario>> {
    let file: File = toml::from_str(text)?;
    for scenario in &file.scenario {
        if scenario.id.is_empty() {
            bail!("a scenario has an empty id");
        }
        if scenario.run.is_empty() && scenario.host_run.is_empty() && !scenario.entrypoint && scenario.tag_as.is_empty()
        {
            bail!("{}: nothing to run", scenario.id);
        }
        if !scenario.miss.is_empty() && scenario.is_benign() {
            bail!("{}: nothing is expected, so nothing can be missed", scenario.id);
        }
        if scenario.effect.is_empty() || scenario.effect.starts_with('/') || scenario.effect_on_host() {
            continue;
        }
        bail!("{}: `effect` is an absolute path, or starts with {{scratch}}", scenario.id);
    }
    Ok(file.scenario)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const FULL: &str = r#"
        [[scenario]]
        id = "a"
        title = "t"
        technique = "T1"
        image = "debian-tools"
        labels = ["bulkhead.mode=protect"]
        engine_args = ["-v", "{scratch}/etc:/mnt/etc"]
        setup = ""
        host_run = "sh {scratch}/etc/cron"
        run = "true"
        user = "root"
        timeout_s = 3
        expect = ["reverse_shell"]
        effect = "{scratch}/tmp/pwned"
        min_rung = "alert"
        tier = "H"
        miss = "no structure tells it"
        later = 1
        [scenario.serve]
        "x.sh" = "touch {scratch}/x"
        "fm" = { subject = "fm" }
        [scenario.shell]
        send = "id\n"
    "#;

    #[test]
    fn every_key_is_read() {
        let scenario = parse(FULL).unwrap().remove(0);
        assert_eq!(scenario.min_rung, Rung::Alert);
        assert_eq!((scenario.timeout_s, scenario.tier.name()), (3, "H"));
        assert_eq!(scenario.miss, "no structure tells it");
        assert_eq!(scenario.shell.send, "id\n");
        assert!(matches!(&scenario.serve["fm"], Served::Subject { subject } if subject == "fm"));
        assert_eq!(scenario.unknown.len(), 1);
        assert!(scenario.effect_on_host());
        assert_eq!(scenario.baseline_of("x:1"), None);
    }

    #[test]
    fn a_baseline_is_its_containers_own() {
        let text = "[[scenario]]\nid = 'b'\nimage = 'x'\nrun = 'y'\nbaseline = '[[exec]]'\n";
        let scenario = parse(text).unwrap().remove(0);
        let file = "image = \"x:1\"\nworkload = \"b\"\nmode = \"monitor\"\n\n[[exec]]";
        assert_eq!(scenario.baseline_of("x:1").unwrap(), file);
        assert_eq!(scenario.labels(), ["bulkhead.workload=b"]);
    }

    #[test]
    fn defaults() {
        let text = "[[scenario]]\nid = 'b'\nimage = 'busybox'\nrun = 'true'\n";
        let scenario = parse(text).unwrap().remove(0);
        assert!(scenario.is_benign());
        assert_eq!((scenario.user.as_str(), scenario.timeout_s), ("root", 10));
        assert_eq!((scenario.min_rung, scenario.tier), (Rung::Signal, Tier::M));
        assert!(!scenario.wants_scratch());
    }

    #[test]
    fn scratch_is_filled_in_everywhere() {
        let mut scenario = parse(FULL).unwrap().remove(0);
        scenario.fill_scratch(Path::new("/s"));
        assert_eq!(scenario.effect, "/s/tmp/pwned");
        assert_eq!(scenario.engine_args[1], "/s/etc:/mnt/etc");
        assert!(matches!(&scenario.serve["x.sh"], Served::Text(text) if text == "touch /s/x"));
        assert!(!scenario.wants_scratch());
    }

    #[test]
    fn only_its_network_makes_a_container_one_of_the_host() {
        let on_host = |arguments: &[&str]| {
            let mut scenario = parse("[[scenario]]\nid = 'b'\nimage = 'x'\nrun = 'y'\n").unwrap().remove(0);
            scenario.engine_args = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            scenario.is_on_host()
        };
        assert!(on_host(&["--network", "host"]) && on_host(&["--net=host"]));
        assert!(!on_host(&["--add-host", "pool:203.0.113.66"]) && !on_host(&["-v", "/scratch/host-1/etc:/mnt"]));
        assert!(parse(FULL).unwrap().remove(0).is_on_host());
    }

    #[test]
    fn what_cannot_run_is_refused() {
        assert!(parse("[[scenario]]\nid = 'b'\nimage = 'x'\n").is_err());
        assert!(parse("[[scenario]]\nid = 'b'\nimage = 'x'\nrun = 'y'\neffect = 'z'\n").is_err());
        assert!(parse("[[scenario]]\nid = 'b'\nimage = 'x'\nrun = 'y'\nmin_rung = 'z'\n").is_err());
        assert!(parse("[[scenario]]\nid = 'b'\nimage = 'x'\nrun = 'y'\nmiss = 'z'\n").is_err());
    }
}
