//! Kernels from Debian packages: found through the machine's own apt configuration and its sibling
//! suites, with package lists of our own, downloaded and unpacked, never installed.

use super::kernel::Kernel;
use crate::lab::process::{self, Interrupt};
use anyhow::{Context, Result, bail};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Lists of several suites over a slow line.
const UPDATE_LIMIT: Duration = Duration::from_secs(600);
/// One kernel: some 50 MB.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Suites that carry kernels other than this release's own, by the archive they are in: releases that are no
/// longer offered by a mirror are left out quietly.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "trixie-backports"];
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];

/// How to get what only apt can bring.
pub const WITHOUT_APT: &str = "kernels for the guests come from Debian packages, and there is no apt here; unpack one \
     by hand with `dpkg-deb -x PACKAGE.deb FOLDER` into the folder that the error names";

/// A private view of the archives.
pub struct Archives<'a> {
    folder: PathBuf,
    interrupt: &'a Interrupt,
}

impl<'a> Archives<'a> {
    /// With its lists below `cache`.
    pub fn new(cache: &Path, interrupt: &'a Interrupt) -> Self {
        Self { folder: cache.join("apt"), interrupt }
    }

    /// Downloads and unpacks the newest kernel of a series such as `6.12` into `into`.
    pub fn fetch(&self, series: &str, into: &Path) -> Result<Kernel> {
        if crate::process::find("apt-get").is_none() {
            bail!("{WITHOUT_APT}: {}", into.display());
        }
        let missing = || {
            format!(
                "no package with a {series} cloud kernel; see what there is with\n  apt-cache {} search --names-only \
                 'linux-image-.*-cloud-amd64'",
                self.options().join(" ")
            )
        };
        let mut candidates = self.candidates(series)?;
        if candidates.is_empty() {
            self.update()?;
            candidates = self.candidates(series)?;
        }
        if candidates.is_empty() {
            bail!("{}", missing());
        }
        match self.first_that_unpacks(&candidates, into) {
            Ok(kernel) => Ok(kernel),
            // Security updates replace files within days: lists that have aged name what is gone.
            Err(_) => {
                self.update()?;
                self.first_that_unpacks(&self.candidates(series)?, into).with_context(missing)
            }
        }
    }

    fn first_that_unpacks(&self, candidates: &[Candidate], into: &Path) -> Result<Kernel> {
        let mut last = None;
        for candidate in candidates {
            match self.unpack(candidate, into) {
                Ok(kernel) => return Ok(kernel),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no package")))
    }

    fn unpack(&self, candidate: &Candidate, into: &Path) -> Result<Kernel> {
        eprintln!("vm: fetching {}", candidate.packages.join(", "));
        let part = into.with_extension("part");
        let _absent = fs::remove_dir_all(&part);
        fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
        let mut download = Command::new("apt-get");
        download.args(self.options()).arg("download").args(&candidate.packages).current_dir(&part);
        process::must(&mut download, DOWNLOAD_LIMIT, self.interrupt)?;
        for entry in fs::read_dir(&part)?.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "deb"))
        {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(entry.path()).arg(&part);
            process::must(&mut unpack, DOWNLOAD_LIMIT, self.interrupt)?;
            fs::remove_file(entry.path())?;
        }
        Kernel::in_folder(&part)?;
        let _absent = fs::remove_dir_all(into);
        // Renamed when complete: an interrupted download leaves no half kernel behind.
        fs::rename(&part, into).with_context(|| format!("keep {}", into.display()))?;
        Kernel::in_folder(into)
    }

    /// Packages of a series, newest first.
    fn candidates(&self, series: &str) -> Result<Vec<Candidate>> {
        let mut search = Command::new("apt-cache");
        search.args(self.options()).args([
            "search",
            "--names-only",
            "^linux-(image|binary|modules)-[0-9].*-cloud-amd64",
        ]);
        let found = process::must(&mut search, UPDATE_LIMIT, self.interrupt).unwrap_or_default();
        let names: BTreeSet<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
        Ok(choose(&names, series))
    }

    fn update(&self) -> Result<()> {
        eprintln!("vm: reading the lists of the suites that carry kernels, once");
        fs::create_dir_all(self.folder.join("lists/partial"))?;
        fs::create_dir_all(self.folder.join("archives/partial"))?;
        let mut targets = Command::new("apt-get");
        targets.args([
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI) $(COMPONENT) $(SIGNED_BY)",
            "Created-By: Packages",
        ]);
        let targets = process::must(&mut targets, UPDATE_LIMIT, self.interrupt)?;
        let sources = sources(&targets);
        if sources.is_empty() {
            bail!("apt's sources have no Debian mirror; kernels for the guests come from there");
        }
        fs::write(self.folder.join("sources.list"), sources)?;
        let mut update = Command::new("apt-get");
        update.args(self.options()).arg("update");
        // A suite that a mirror no longer has is an error of the whole update; what was fetched counts.
        let finished = process::run(&mut update, UPDATE_LIMIT, self.interrupt)?;
        if !finished.success() {
            eprintln!("vm: apt-get update: {}", finished.tail());
        }
        Ok(())
    }

    /// Keeps apt off the machine's own lists and caches, and its hooks from running.
    fn options(&self) -> Vec<String> {
        let folder = self.folder.display();
        [
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::Cache::archives={folder}/archives"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Update::Post-Invoke-Success=".to_owned(),
            "APT::Update::Post-Invoke=".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ]
        .into_iter()
        .flat_map(|setting| ["-o".to_owned(), setting])
        .collect()
    }
}

/// Packages that together are one kernel.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    version: String,
    packages: Vec<String>,
}

/// Kernels of a series among package names, newest first. Since 7.x image, binary and modules are
/// packages of their own.
fn choose(names: &BTreeSet<&str>, series: &str) -> Vec<Candidate> {
    let of_series = |version: &str| {
        let rest = version.strip_prefix(series);
        // Backports to older releases (`~deb11`) only repeat what the release itself has.
        rest.is_some_and(|rest| rest.starts_with(['.', '-', '+'])) && !version.contains("-0.deb")
    };
    let version = |name: &str| -> Option<String> {
        let rest = name.strip_prefix("linux-image-").or_else(|| name.strip_prefix("linux-binary-"))?;
        Some(rest.strip_suffix("-cloud-amd64")?.to_owned())
    };
    let versions: BTreeSet<String> = names
        .iter()
        .filter_map(|name| version(name))
        .filter(|version| of_series(version) && version.contains(['-', '+']))
        .collect();
    let mut versions: Vec<String> = versions.into_iter().collect();
    versions.sort_by(|a, b| by_number(b, a));
    let packages = |version: &str| {
        ["image", "binary", "modules"]
            .map(|part| format!("linux-{part}-{version}-cloud-amd64"))
            .into_iter()
            .filter(|name| names.contains(name.as_str()))
            .collect()
    };
    versions.into_iter().map(|version| Candidate { packages: packages(&version), version }).collect()
}

/// Orders versions by the numbers in them.
fn by_number(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b))
}

/// Sources of the sibling suites on the mirrors that apt already uses, with the same keys.
fn sources(targets: &str) -> String {
    let mut lines = BTreeSet::new();
    for target in targets.lines() {
        let mut fields = target.split_whitespace();
        let (Some(release), Some(uri), Some("main")) = (fields.next(), fields.next(), fields.next()) else { continue };
        // Whatever else the machine has sources of stays out: their suites have other names.
        let suites: &[&str] = match release.split('-').collect::<Vec<_>>().as_slice() {
            ["bullseye" | "bookworm" | "trixie"] => &SUITES,
            ["bullseye" | "bookworm" | "trixie", "security"] => &SECURITY_SUITES,
            _ => continue,
        };
        let signed = fields.next().filter(|key| key.starts_with('/')).unwrap_or(DEBIAN_KEYS);
        let options = if Path::new(signed).exists() { format!("[signed-by={signed}] ") } else { String::new() };
        lines.extend(suites.iter().map(|suite| format!("deb {options}{uri} {suite} main\n")));
    }
    lines.into_iter().collect()
}

/// Keys of every release, where the machine's Debian keeps them.
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_of_the_series_with_all_its_parts() {
        let names = BTreeSet::from([
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ]);
        let found: Vec<String> = choose(&names, "6.1").into_iter().map(|c| c.packages.join(" ")).collect();
        assert_eq!(found, ["linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"]);
        let seven = choose(&names, "7");
        assert_eq!(seven[0].packages.len(), 3, "{seven:?}");
        assert!(choose(&names, "6.2").is_empty());
    }

    #[test]
    fn sources_are_siblings_on_the_same_mirror() {
        let targets = "bookworm http://a.example/debian/ main $(SIGNED_BY)\n\
             bookworm-security http://a.example/debian-security/ main $(SIGNED_BY)\n\
             nodistro http://b.example/ main x\nbookworm http://a.example/debian/ contrib x\n";
        let found = sources(targets);
        assert!(found.contains("http://a.example/debian/ bullseye main"), "{found}");
        assert!(found.contains("http://a.example/debian-security/ bookworm-security main"), "{found}");
        assert!(!found.contains("b.example") && !found.contains("contrib"), "{found}");
    }
}
