//! `host_run`: what happens on the host's side, in the runner's own cgroup: the stand-in for a cron
//! job of the host. It sees the lab's network and its names; when it ends nothing of it runs on.

use crate::lab::process::{self, pidfd, wait_pidfd};
use crate::lab::{ATTACKER, Engine};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The lab's names over the machine's, in a mount namespace of the script's own.
const PRELUDE: &str = "mount --bind \"$1/hosts\" /etc/hosts; \
    [ -e /etc/resolv.conf ] && mount --bind \"$1/resolv.conf\" /etc/resolv.conf; exec sh -c \"$0\"";

/// A script that runs on the host.
pub struct HostRun {
    child: Mutex<Child>,
    pid: u32,
    ended: OwnedFd,
    output: PathBuf,
}

impl HostRun {
    /// Starts `script`.
    pub fn start(engine: &Engine, script: &str) -> Result<Self> {
        let folder = engine.run_dir().join("host");
        fs::create_dir_all(&folder).context("making the host script's folder")?;
        fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{ATTACKER} attacker\n"))?;
        fs::write(folder.join("resolv.conf"), format!("nameserver {ATTACKER}\n"))?;
        let output = folder.join("output");
        let file = File::create(&output).context("making the host script's output")?;
        let mut command = Command::new("unshare");
        command
            // A process namespace whose end is the end of everything in it.
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(["sh", "-c", PRELUDE, script])
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = engine.network().inside(move || command.spawn())?.context("starting host_run")?;
        let pid = child.id();
        Ok(Self { child: Mutex::new(child), pid, ended: pidfd(pid)?, output })
    }

    /// Process id at the root of the script's tree.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The script has ended.
    pub fn has_ended(&self) -> bool {
        wait_pidfd(&self.ended, Instant::now(), &process::Interrupt::default())
    }

    /// Ends it, and returns what it said.
    pub fn end(self) -> String {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        process::terminate(&mut child, Duration::from_millis(500));
        let _status = child.wait();
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}
