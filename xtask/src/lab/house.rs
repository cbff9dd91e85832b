//! What every lab has, whatever makes its containers: one at a time in a cache folder, a folder under
//! /run, a network, a parent cgroup. All but the cache goes when the house is dropped, and what a killed
//! run left is taken away at the next start.

use super::cache_dir;
use super::leftovers;
use super::network::Network;
use super::process::Interrupt;
use super::workshop::Workshop;
use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folders that an engine makes outside its own, removed again (if empty) when they were not there before.
const SHARED_FOLDERS: [&str; 4] = ["/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"];

/// What a later run must know to clean up after this one.
#[derive(Serialize, Deserialize)]
struct State {
    run_dir: PathBuf,
    cgroup: String,
    /// Folders that were not there before and go again if they are empty.
    absent_before: Vec<PathBuf>,
}

/// What differs from machine to machine.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Multiplies every limit and settling time: 1 on a machine of today.
    pub slowness: u32,
    /// A folder with what is not to be built here: `images.json` says which images the lab's cache has,
    /// `subjects` has the programs of tests/subjects.
    pub prebuilt: Option<PathBuf>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { slowness: 1, prebuilt: None }
    }
}

/// The lab's own places.
pub struct House {
    network: Network,
    paths: Paths,
    cgroup: String,
    interrupt: Interrupt,
    terms: Terms,
    absent_before: Vec<PathBuf>,
    /// Held as long as the lab lives: one lab at a time in one cache folder.
    _lock: File,
}

/// Files and folders.
pub struct Paths {
    cache: PathBuf,
    run: PathBuf,
}

impl Paths {
    /// An engine's data root: its images stay between runs.
    pub fn data(&self) -> PathBuf {
        self.cache.join("docker")
    }
    /// Unpacked images of a lab without an engine, and its containers.
    pub fn bare(&self) -> PathBuf {
        self.cache.join("bare")
    }
    /// An engine's API.
    pub fn socket(&self) -> PathBuf {
        self.run.join("docker.sock")
    }
    /// An engine's process id.
    pub fn pid_file(&self) -> PathBuf {
        self.run.join("docker.pid")
    }
    /// An engine's state of running containers.
    pub fn exec(&self) -> PathBuf {
        self.run.join("exec")
    }
    /// An engine's configuration.
    pub fn config(&self) -> PathBuf {
        self.run.join("daemon.json")
    }
    /// An engine's log.
    pub fn log(&self) -> PathBuf {
        self.cache.join("dockerd.log")
    }
    /// Configuration of an engine's client.
    pub fn client(&self) -> PathBuf {
        self.run.join("cli")
    }
    fn monitor_pid_file(&self) -> PathBuf {
        self.run.join("monitor.pid")
    }
    fn state(&self) -> PathBuf {
        self.cache.join("engine.json")
    }
    fn scratch(&self) -> PathBuf {
        self.cache.join("scratch")
    }
}

impl House {
    /// Takes the cache folder, clears up, and makes network and folders.
    pub fn open(interrupt: &Interrupt, terms: Terms) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("the lab needs root: it makes network namespaces, cgroups and mounts");
        }
        let cache = cache_dir();
        fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
        let lock = lock(&cache)?;
        clean_up_after_crash(&cache);
        let id = std::process::id();
        // /run keeps the socket paths below the 108 bytes of sockaddr_un wherever the checkout lies.
        let paths = Paths { cache, run: PathBuf::from(format!("/run/bulkhead-lab-{id}")) };
        let house = Self {
            network: Network::new(interrupt)?,
            cgroup: format!("bulkhead-lab-{id}"),
            interrupt: interrupt.clone(),
            terms,
            absent_before: SHARED_FOLDERS.iter().map(PathBuf::from).filter(|p| !p.exists()).collect(),
            paths,
            _lock: lock,
        };
        // From here on Drop cleans up, also when a step fails.
        house.furnish()?;
        Ok(house)
    }

    fn furnish(&self) -> Result<()> {
        let paths = &self.paths;
        fs::create_dir_all(&paths.run).with_context(|| format!("making {}", paths.run.display()))?;
        fs::create_dir_all(paths.scratch())?;
        let state = State {
            run_dir: paths.run.clone(),
            cgroup: self.cgroup.clone(),
            absent_before: self.absent_before.clone(),
        };
        fs::write(paths.state(), serde_json::to_vec(&state)?).context("noting what is to be cleaned up")
    }

    /// Files and folders.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Name of the containers' parent cgroup, one component.
    pub fn cgroup_name(&self) -> &str {
        &self.cgroup
    }

    /// Parent cgroup of every container, as seen from the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.cgroup)
    }

    /// A limit or settling time of an idle machine of today, for this one.
    pub fn patient(&self, time: Duration) -> Duration {
        time * self.terms.slowness
    }

    /// A folder with what is not to be built here.
    pub fn prebuilt(&self) -> Option<&Path> {
        self.terms.prebuilt.as_deref()
    }

    /// Where whoever runs a monitor under this engine notes its process id, so that it is ended even
    /// when the run was killed. Its command line must name a path in [`House::cache`].
    pub fn monitor_pid_file(&self) -> PathBuf {
        self.paths.monitor_pid_file()
    }

    /// The network everything lives in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A folder for sockets and the like, gone when the engine is.
    pub fn run_dir(&self) -> &Path {
        &self.paths.run
    }

    /// Where root file systems are made.
    pub fn workshop(&self) -> Workshop {
        Workshop::new(&self.paths.cache, &self.paths.scratch(), &self.interrupt)
    }

    /// A fresh folder on the cache's own file system, gone when the engine is.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.paths.scratch().join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Where images and base file systems are kept between runs.
    pub fn cache(&self) -> &Path {
        &self.paths.cache
    }

    /// What ends the run early.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }
}

impl Drop for House {
    fn drop(&mut self) {
        clear(&self.paths, &self.cgroup, &self.absent_before);
    }
}

fn clear(paths: &Paths, cgroup: &str, absent_before: &[PathBuf]) {
    leftovers::end_process(&paths.monitor_pid_file(), &paths.cache);
    leftovers::end_process(&paths.pid_file(), &paths.data());
    leftovers::end_process(&paths.exec().join("containerd/containerd.pid"), &paths.exec());
    leftovers::remove_cgroup(cgroup);
    leftovers::unmount_below(&paths.data());
    leftovers::unmount_below(&paths.run);
    // An interrupted debootstrap has left /proc mounted.
    leftovers::unmount_below(&paths.scratch());
    for path in [paths.run.clone(), paths.scratch()] {
        let _absent = fs::remove_dir_all(path);
    }
    let _absent = fs::remove_file(paths.state());
    for folder in
        absent_before.iter().filter(|path| SHARED_FOLDERS.iter().any(|shared| path.as_path() == Path::new(shared)))
    {
        // Only if empty: another engine may have moved in.
        let _in_use = fs::remove_dir(folder);
    }
}

fn clean_up_after_crash(cache: &Path) {
    let Some(state) =
        fs::read(cache.join("engine.json")).ok().and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok())
    else {
        return;
    };
    let ours =
        state.cgroup.starts_with("bulkhead-lab-") && state.run_dir.to_string_lossy().starts_with("/run/bulkhead-lab-");
    if ours {
        let paths = Paths { cache: cache.to_owned(), run: state.run_dir };
        clear(&paths, &state.cgroup, &state.absent_before);
    }
}

fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "another run uses the lab in {}; wait for it, or set BULKHEAD_LAB_DIR to another folder",
            cache.display()
        );
    }
    Ok(file)
}
