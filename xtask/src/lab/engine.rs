//! A Docker engine of the lab's own: own data folder, own socket, own bridge, own cgroup. Images stay
//! cached between runs; everything else goes when the [`Engine`] is dropped, and what a killed run
//! left is taken away at the next start.

use super::leftovers;
use super::network::{BRIDGE, Network};
use super::process::{self, Interrupt};
use super::workshop::Workshop;
use super::{ATTACKER, cache_dir};
use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// dockerd and its containerd are up within two seconds on an idle machine; the rest is for a busy one.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A plain call of the engine's API.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Folders the engine makes outside its own, removed again (if empty) when they were not there before.
const SHARED_FOLDERS: [&str; 4] = ["/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"];

/// What a later run must know to clean up after this one.
#[derive(Serialize, Deserialize)]
struct State {
    run_dir: PathBuf,
    cgroup: String,
    /// Folders that were not there before and go again if they are empty.
    absent_before: Vec<PathBuf>,
}

/// The running engine.
pub struct Engine {
    dockerd: Option<Child>,
    network: Network,
    paths: Paths,
    cgroup: String,
    interrupt: Interrupt,
    absent_before: Vec<PathBuf>,
    /// Held as long as the engine lives: one lab at a time in one cache folder.
    _lock: File,
}

struct Paths {
    cache: PathBuf,
    run: PathBuf,
}

impl Paths {
    fn data(&self) -> PathBuf {
        self.cache.join("docker")
    }
    fn socket(&self) -> PathBuf {
        self.run.join("docker.sock")
    }
    fn pid_file(&self) -> PathBuf {
        self.run.join("docker.pid")
    }
    fn exec(&self) -> PathBuf {
        self.run.join("exec")
    }
    fn config(&self) -> PathBuf {
        self.run.join("daemon.json")
    }
    fn monitor_pid_file(&self) -> PathBuf {
        self.run.join("monitor.pid")
    }
    fn https_pid_file(&self) -> PathBuf {
        self.run.join("https.pid")
    }
    fn log(&self) -> PathBuf {
        self.cache.join("dockerd.log")
    }
    fn state(&self) -> PathBuf {
        self.cache.join("engine.json")
    }
    fn scratch(&self) -> PathBuf {
        self.cache.join("scratch")
    }
}

impl Engine {
    /// Starts the engine; ends with an error, and nothing left behind, when it cannot.
    pub fn start(interrupt: &Interrupt) -> Result<Self> {
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
        let mut engine = Self {
            dockerd: None,
            network: Network::new(interrupt)?,
            cgroup: format!("bulkhead-lab-{id}"),
            interrupt: interrupt.clone(),
            absent_before: SHARED_FOLDERS.iter().map(PathBuf::from).filter(|p| !p.exists()).collect(),
            paths,
            _lock: lock,
        };
        // From here on Drop cleans up, also when a step fails.
        engine.launch()?;
        Ok(engine)
    }

    fn launch(&mut self) -> Result<()> {
        let paths = &self.paths;
        fs::create_dir_all(&paths.run).with_context(|| format!("making {}", paths.run.display()))?;
        fs::create_dir_all(paths.scratch())?;
        let state = State {
            run_dir: paths.run.clone(),
            cgroup: self.cgroup.clone(),
            absent_before: self.absent_before.clone(),
        };
        fs::write(paths.state(), serde_json::to_vec(&state)?)?;
        // An empty file of our own, or dockerd would read the machine's /etc/docker/daemon.json.
        fs::write(paths.config(), "{}")?;
        let log = File::create(paths.log()).with_context(|| format!("making {}", paths.log().display()))?;
        let mut command = self.dockerd_command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches the whole foreground group; the engine must outlive it to be cleaned up.
            .process_group(0);
        let child =
            self.network.inside(move || command.spawn())?.context("starting dockerd (Debian package docker.io)")?;
        self.dockerd = Some(child);
        self.wait_until_up()?;
        self.remove_containers();
        Ok(())
    }

    fn dockerd_command(&self) -> Command {
        let paths = &self.paths;
        let mut command = Command::new("dockerd");
        command
            .args(["--bridge", BRIDGE, "--dns", &ATTACKER.to_string()])
            .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .args(["--ip-forward=false", "--userland-proxy=false"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--cgroup-parent", &self.cgroup()])
            .args(["--host", &format!("unix://{}", paths.socket().display())])
            .arg("--config-file")
            .arg(paths.config())
            .arg("--data-root")
            .arg(paths.data())
            .arg("--exec-root")
            .arg(paths.exec())
            .arg("--pidfile")
            .arg(paths.pid_file())
            .env_remove("DOCKER_HOST");
        if Path::new("/proc/net/if_inet6").exists() {
            command.args(["--ipv6", "--fixed-cidr-v6", "2001:db8::/64"]);
        }
        command
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let died = match self.dockerd.as_mut() {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if let Some(status) = died {
                bail!("dockerd ended with {status}; its last words:\n{}", self.log_tail());
            }
            if self.paths.socket().exists()
                && process::run(self.docker().arg("version"), CALL_LIMIT, &self.interrupt)?.success()
            {
                return Ok(());
            }
            if self.interrupt.is_set() {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("dockerd is not up after {} s:\n{}", START_LIMIT.as_secs(), self.log_tail());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.paths.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// A `docker` command that talks to this engine and reads nobody's configuration.
    pub fn docker(&self) -> Command {
        let packaged = Path::new("/usr/bin/docker");
        let mut command = Command::new(if packaged.exists() { packaged } else { Path::new("docker") });
        command
            .env("DOCKER_HOST", format!("unix://{}", self.paths.socket().display()))
            .env("DOCKER_CONFIG", self.paths.run.join("cli"))
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs `docker ARGUMENTS…`, which must succeed, and returns what it printed, trimmed.
    pub fn call<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let text = process::must(self.docker().args(arguments), CALL_LIMIT, &self.interrupt)?;
        Ok(text.trim().to_owned())
    }

    /// The engine's API socket.
    pub fn socket(&self) -> PathBuf {
        self.paths.socket()
    }

    /// Parent cgroup of every container, as seen from the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.cgroup)
    }

    /// Where whoever runs a monitor under this engine notes its process id, so that it is ended even
    /// when the run was killed. Its command line must name a path in [`Engine::cache`].
    pub fn monitor_pid_file(&self) -> PathBuf {
        self.paths.monitor_pid_file()
    }

    /// Where the HTTPS server's process id is noted, for the same reason; its command line names
    /// [`Engine::run_dir`].
    pub fn https_pid_file(&self) -> PathBuf {
        self.paths.https_pid_file()
    }

    /// The network everything lives in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A folder for sockets and the like, gone when the engine is.
    pub fn run_dir(&self) -> &Path {
        &self.paths.run
    }

    /// Where root file systems are made for this engine's images.
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

    fn remove_containers(&self) {
        let never = Interrupt::default();
        let Ok(list) = process::run(self.docker().args(["ps", "-aq"]), CALL_LIMIT, &never) else {
            return;
        };
        let ids: Vec<&str> = list.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            let _left_to_the_cgroup =
                process::run(self.docker().args(["rm", "-f", "-v"]).args(ids), CALL_LIMIT, &never);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.paths.socket().exists() {
            self.remove_containers();
        }
        if let Some(mut child) = self.dockerd.take() {
            process::terminate(&mut child, Duration::from_secs(20));
        }
        clear(&self.paths, &self.cgroup, &self.absent_before);
    }
}

fn clear(paths: &Paths, cgroup: &str, absent_before: &[PathBuf]) {
    leftovers::end_process(&paths.monitor_pid_file(), &paths.cache);
    leftovers::end_process(&paths.https_pid_file(), &paths.run);
    leftovers::end_process(&paths.pid_file(), &paths.data());
    leftovers::end_process(&paths.exec().join("containerd/containerd.pid"), &paths.exec());
    leftovers::remove_cgroup(cgroup);
    leftovers::unmount_below(&paths.data());
    leftovers::unmount_below(&paths.run);
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
