//! HTTPS on 8443, by `openssl s_server`: it gives out the files of the scenario that runs. It speaks
//! with one client at a time, which is what a scenario is.

use super::super::engine::Engine;
use super::super::process;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where it listens.
const PORT: &str = "8443";

/// The running server.
pub struct Https {
    child: Child,
    folder: PathBuf,
}

impl Https {
    /// Makes a certificate of its own and starts the server.
    pub fn start(engine: &Engine) -> Result<Self> {
        let base = engine.run_dir().join("https");
        let folder = base.join("www");
        fs::create_dir_all(&folder).context("making the HTTPS server's folder")?;
        let (key, certificate) = (base.join("key.pem"), base.join("cert.pem"));
        process::must(
            Command::new("openssl")
                // Not RSA: to find its primes takes an emulated processor minutes.
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-nodes", "-days", "2"])
                .args(["-subj", "/CN=attacker", "-addext", "subjectAltName=DNS:attacker"])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
            engine.patient(Duration::from_secs(30)),
            engine.interrupt(),
        )?;
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-quiet", "-WWW", "-accept", PORT])
            .arg("-key")
            .arg(key)
            .arg("-cert")
            .arg(certificate)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = engine.network().inside(move || command.spawn())?.context("starting openssl s_server")?;
        // For whoever cleans up after a run that was killed.
        fs::write(engine.https_pid_file(), child.id().to_string())?;
        Ok(Self { child, folder })
    }

    /// Gives out `files` from now on, besides what was given out before.
    pub fn publish(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        for (name, content) in files {
            if name.split('/').any(|part| part == "..") {
                continue;
            }
            let path = self.folder.join(name.trim_start_matches('/'));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, content).with_context(|| format!("publishing {name}"))?;
        }
        Ok(())
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        process::terminate(&mut self.child, Duration::from_secs(2));
    }
}
