//! Images in the engine's own store: `docker import` and back.

use super::super::process;
use super::super::runtime::{Settings, Store};
use super::Docker;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Packing and unpacking an image.
const PACK_LIMIT: Duration = Duration::from_secs(600);

impl Store for Docker {
    fn has(&self, reference: &str) -> bool {
        self.call(["image", "inspect", "--format", "{{.Id}}", reference]).is_ok()
    }

    fn settings(&self, reference: &str) -> Result<Settings> {
        let env = self.call(["image", "inspect", "--format", "{{json .Config.Env}}", reference])?;
        let env: Option<Vec<String>> = serde_json::from_str(&env).context("reading the image's env")?;
        let text = self.call(["image", "inspect", "--format", "{{json .Config.Entrypoint}}", reference])?;
        let entrypoint = serde_json::from_str(&text).context("reading the image's entrypoint")?;
        Ok(Settings { env: env.unwrap_or_default(), entrypoint })
    }

    fn unpack(&self, reference: &str, root: &Path) -> Result<()> {
        let id = self.call(["create", "--entrypoint", "none", reference])?;
        let archive = root.with_extension("tar");
        let interrupt = self.house.interrupt();
        let result = process::must(self.docker().arg("export").arg("-o").arg(&archive).arg(&id), PACK_LIMIT, interrupt)
            .and_then(|_| {
                let mut tar = Command::new("tar");
                process::must(tar.arg("-C").arg(root).arg("-xpf").arg(&archive), PACK_LIMIT, interrupt)
            });
        self.call(["rm", &id])?;
        let _absent = fs::remove_file(archive);
        result.map(|_output| ())
    }

    fn keep(&self, root: &Path, reference: &str, settings: &Settings) -> Result<()> {
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(root)
            .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--one-file-system"])
            .args(["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "-cf", "-", "."])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting tar")?;
        let archive = tar.stdout.take().ok_or_else(|| anyhow!("tar has no output"))?;
        let mut command = self.docker();
        command.arg("import");
        for change in changes(settings)? {
            command.args(["-c", &change]);
        }
        command.args(["-", reference]);
        let finished = process::run_fed(&mut command, Some(archive.into()), PACK_LIMIT, self.house.interrupt())?;
        let packed = tar.wait().context("waiting for tar")?;
        if !finished.success() || !packed.success() {
            bail!("docker import: {}", finished.tail());
        }
        Ok(())
    }

    /// The engine drops the layers with the last tag.
    fn forget_older(&self, reference: &str) {
        let repository = reference.rsplit_once(':').map_or(reference, |(repository, _)| repository);
        let listed = self.call(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository]);
        for old in listed.unwrap_or_default().lines().filter(|tag| *tag != reference) {
            // Still in use by an image built from it: it stays.
            let _in_use = self.call(["image", "rm", old]);
        }
    }

    /// A mere tag would name the shared image too, and a monitor that looks at all names of an image would
    /// accuse every other container made from it.
    fn copy(&self, image: &str, reference: &str) -> Result<()> {
        let made = self.call(["create", image, "true"])?;
        let label = format!("LABEL bulkhead.copy={reference}");
        let copied = self.call(["commit", "--change", &label, &made, reference]);
        self.call(["rm", &made])?;
        copied.map(drop)
    }

    fn forget(&self, reference: &str) {
        let _untagged = self.call(["image", "rm", "-f", "--no-prune", reference]);
    }
}

fn changes(settings: &Settings) -> Result<Vec<String>> {
    let mut changes: Vec<String> = settings.env.iter().map(|pair| env_change(pair)).collect();
    if let Some(words) = &settings.entrypoint {
        changes.push(format!("ENTRYPOINT {}", serde_json::to_string(words)?));
    }
    Ok(changes)
}

fn env_change(pair: &str) -> String {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    format!("ENV {name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_values_survive() {
        assert_eq!(env_change("A=b \"c\""), "ENV A=\"b \\\"c\\\"\"");
    }
}
