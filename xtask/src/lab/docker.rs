//! A Docker engine of the lab's own: own data folder, own socket, own bridge, own cgroup. Images stay
//! cached between runs.

mod containers;
mod images;

use super::ATTACKER;
use super::container::{Container, Recipe};
use super::house::{House, Paths};
use super::network::BRIDGE;
use super::process::{self, Finished, Interrupt};
use super::runtime::{Runtime, Store};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// dockerd and its containerd are up within two seconds on an idle machine; the rest is for a busy one.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A plain call of the engine's API. It waits for the disk, which on a busy machine has gigabytes to write first.
const CALL_LIMIT: Duration = Duration::from_secs(240);

/// The running engine; its containers and itself are ended when dropped.
pub struct Docker {
    house: Arc<House>,
    dockerd: Option<Child>,
}

/// The engine's command line client.
pub fn client(paths: &Paths) -> Command {
    let packaged = Path::new("/usr/bin/docker");
    let mut command = Command::new(if packaged.exists() { packaged } else { Path::new("docker") });
    command
        .env("DOCKER_HOST", format!("unix://{}", paths.socket().display()))
        .env("DOCKER_CONFIG", paths.client())
        .env_remove("DOCKER_CONTEXT");
    command
}

impl Docker {
    /// Starts it in `house`.
    pub fn start(house: Arc<House>) -> Result<Self> {
        let mut docker = Self { house, dockerd: None };
        docker.launch()?;
        Ok(docker)
    }

    fn paths(&self) -> &Paths {
        self.house.paths()
    }

    fn launch(&mut self) -> Result<()> {
        let paths = self.paths();
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
        let child = self
            .house
            .network()
            .inside(move || command.spawn())?
            .context("starting dockerd (Debian package docker.io)")?;
        self.dockerd = Some(child);
        self.wait_until_up()?;
        self.remove_containers();
        Ok(())
    }

    fn dockerd_command(&self) -> Command {
        let paths = self.paths();
        let mut command = Command::new("dockerd");
        command
            .args(["--bridge", BRIDGE, "--dns", &ATTACKER.to_string()])
            .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .args(["--ip-forward=false", "--userland-proxy=false"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--cgroup-parent", &self.house.cgroup()])
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
            if self.paths().socket().exists()
                && process::run(self.docker().arg("version"), CALL_LIMIT, self.house.interrupt())?.success()
            {
                return Ok(());
            }
            if self.house.interrupt().is_set() {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("dockerd is not up after {} s:\n{}", START_LIMIT.as_secs(), self.log_tail());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.paths().log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn docker(&self) -> Command {
        client(self.paths())
    }

    /// Runs `docker ARGUMENTS…`, which must succeed, and returns what it printed, trimmed.
    fn call<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let text = process::must(self.docker().args(arguments), CALL_LIMIT, self.house.interrupt())?;
        Ok(text.trim().to_owned())
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

impl Runtime for Docker {
    fn refuses(&self, _recipe: &Recipe) -> Option<String> {
        None
    }

    fn run(&self, recipe: &Recipe) -> Result<Container> {
        containers::run(self, recipe)
    }

    fn exec(&self, container: &Container, user: &str, script: &str, limit: Duration) -> Result<Finished> {
        let mut command = self.docker();
        command.args(["exec", "-u", user, &container.id, "sh", "-c", script]);
        process::run(&mut command, limit, self.house.interrupt())
    }

    fn exists(&self, container: &Container, path: &str) -> bool {
        containers::exists(self, container, path)
    }

    fn remove(&self, container: &Container) -> Result<()> {
        process::must(self.docker().args(["rm", "-f", "-v", &container.id]), CALL_LIMIT, &Interrupt::default())
            .map(|_id| ())
    }

    fn images(&self) -> &dyn Store {
        self
    }

    fn api_socket(&self) -> Option<PathBuf> {
        Some(self.paths().socket())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.paths().socket().exists() {
            self.remove_containers();
        }
        if let Some(mut child) = self.dockerd.take() {
            process::terminate(&mut child, Duration::from_secs(20));
        }
    }
}
