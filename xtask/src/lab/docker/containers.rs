//! `docker run` and what is asked of a container afterwards.

use super::super::ATTACKER;
use super::super::container::{Container, Recipe, SLEEP};
use super::super::process::{self, Interrupt};
use super::super::runtime::Store as _;
use super::{CALL_LIMIT, Docker};
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;

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
fn arguments(recipe: &Recipe) -> Vec<String> {
    let mut arguments: Vec<String> = ["run", "-d", "--add-host"].map(str::to_owned).to_vec();
    arguments.push(format!("attacker:{ATTACKER}"));
    for label in &recipe.labels {
        arguments.extend(["--label".to_owned(), label.clone()]);
    }
    arguments.extend(recipe.engine_args.iter().cloned());
    let image = if recipe.copy_as.is_empty() { &recipe.image } else { &recipe.copy_as };
    if recipe.entrypoint {
        arguments.push(image.clone());
    } else {
        // --init reaps the orphans that scenarios leave behind.
        arguments.extend(["--init", "--entrypoint", SLEEP[0]].map(str::to_owned));
        arguments.extend([image.clone(), SLEEP[1].to_owned()]);
    }
    arguments
}

/// Makes and starts a container.
pub fn run(docker: &Docker, recipe: &Recipe) -> Result<Container> {
    if !recipe.copy_as.is_empty() {
        docker.copy(&recipe.image, &recipe.copy_as)?;
    }
    let id = docker.call(arguments(recipe))?;
    let text = docker.call(["inspect", "--format", "{{json .}}", &id])?;
    let inspected: Inspected = serde_json::from_str(&text).context("reading `docker inspect`")?;
    let settings = inspected.network_settings;
    let addresses = [settings.ip_address, settings.global_ipv6_address];
    let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    Ok(Container { id, pid: inspected.state.pid, addresses })
}

/// Whether `path` exists in the container, links resolved as the container would.
pub fn exists(docker: &Docker, container: &Container, path: &str) -> bool {
    let root = format!("/proc/{}/root", container.pid);
    if container.pid != 0
        && let Ok(root) = rustix::fs::open(&root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        return rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok();
    }
    // PID 1 has ended: the engine still knows the container's file system.
    let source = format!("{}:{path}", container.id);
    process::run(docker.docker().args(["cp", &source, "-"]), CALL_LIMIT, &Interrupt::default())
        .is_ok_and(|finished| finished.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_arguments_come_before_the_image() {
        let recipe = Recipe {
            image: "lab/x:1".into(),
            copy_as: String::new(),
            labels: vec!["a=b".into()],
            engine_args: vec!["-v".into(), "/a:/b".into()],
            entrypoint: false,
        };
        assert_eq!(
            arguments(&recipe).join(" "),
            "run -d --add-host attacker:203.0.113.66 --label a=b -v /a:/b \
             --init --entrypoint sleep lab/x:1 3600"
        );
    }
}
