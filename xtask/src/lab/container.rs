//! One container of the lab: made, run in, looked into, removed.

use super::engine::Engine;
use super::process::{self, Finished};
use super::{ATTACKER, process::Interrupt};
use anyhow::{Context, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

/// Time for a call of the engine on a loaded machine.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// What a container is made from.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// Image reference.
    pub image: String,
    /// `key=value`.
    pub labels: Vec<String>,
    /// Further `docker run` arguments.
    pub engine_args: Vec<String>,
    /// Start the image's own entrypoint; otherwise a process that only sleeps is PID 1.
    pub entrypoint: bool,
}

/// A running container. [`Container::remove`] it; the engine removes what is forgotten.
#[derive(Clone, Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// PID 1 of the container as the host numbers it; 0 when it has ended already.
    pub pid: u32,
    /// Its addresses on the lab's bridge.
    pub addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
    network_settings: NetworkSettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
}

/// Arguments of `docker run` for `recipe`.
fn run_arguments(recipe: &Recipe) -> Vec<String> {
    let mut arguments: Vec<String> = ["run", "-d", "--add-host"].map(str::to_owned).to_vec();
    arguments.push(format!("attacker:{ATTACKER}"));
    for label in &recipe.labels {
        arguments.extend(["--label".to_owned(), label.clone()]);
    }
    arguments.extend(recipe.engine_args.iter().cloned());
    if recipe.entrypoint {
        arguments.push(recipe.image.clone());
    } else {
        // --init reaps the orphans that scenarios leave behind.
        arguments.extend(["--init", "--entrypoint", "sleep"].map(str::to_owned));
        arguments.extend([recipe.image.clone(), "3600".to_owned()]);
    }
    arguments
}

impl Container {
    /// Makes and starts a container.
    pub fn run(engine: &Engine, recipe: &Recipe) -> Result<Self> {
        let id = engine.call(run_arguments(recipe))?;
        let text = engine.call(["inspect", "--format", "{{json .}}", &id])?;
        let inspected: Inspected = serde_json::from_str(&text).context("reading `docker inspect`")?;
        let settings = inspected.network_settings;
        Ok(Self {
            id,
            pid: inspected.state.pid,
            addresses: [settings.ip_address, settings.global_ipv6_address]
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect(),
        })
    }

    /// The command that runs shell text in the container, through the runtime's exec.
    pub fn exec_command(&self, engine: &Engine, user: &str, script: &str) -> Command {
        let mut command = engine.docker();
        command.args(["exec", "-u", user, &self.id, "sh", "-c", script]);
        command
    }

    /// Runs shell text in the container.
    pub fn exec(&self, engine: &Engine, user: &str, script: &str, limit: Duration) -> Result<Finished> {
        process::run(&mut self.exec_command(engine, user, script), limit, engine.interrupt())
    }

    /// Whether `path` exists in the container, links resolved as the container would.
    pub fn exists(&self, engine: &Engine, path: &str) -> bool {
        let root = format!("/proc/{}/root", self.pid);
        if self.pid != 0
            && let Ok(root) = rustix::fs::open(&root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            return rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok();
        }
        // PID 1 has ended: the engine still knows the container's file system.
        process::run(
            engine.docker().args(["cp", &format!("{}:{path}", self.id), "-"]),
            CALL_LIMIT,
            &Interrupt::default(),
        )
        .is_ok_and(|finished| finished.success())
    }

    /// Removes the container with everything in it.
    pub fn remove(&self, engine: &Engine) -> Result<()> {
        process::must(engine.docker().args(["rm", "-f", "-v", &self.id]), CALL_LIMIT, &Interrupt::default())
            .map(|_id| ())
    }
}

/// Whether `path` exists on the host, a last link not followed.
pub fn exists_on_host(path: &str) -> bool {
    rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_arguments_come_before_the_image() {
        let recipe = Recipe {
            image: "lab/x:1".into(),
            labels: vec!["a=b".into()],
            engine_args: vec!["-v".into(), "/a:/b".into()],
            entrypoint: false,
        };
        let line = run_arguments(&recipe).join(" ");
        assert_eq!(
            line,
            "run -d --add-host attacker:203.0.113.66 --label a=b -v /a:/b \
             --init --entrypoint sleep lab/x:1 3600"
        );
    }
}
