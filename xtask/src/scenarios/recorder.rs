//! Keeps what the monitor judged of each scenario as a small recording (`tests/recordings`), so that detectors are
//! tested again in seconds, without containers.

use crate::lab::process::{self, Interrupt};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long the monitor may take to begin one, on a busy machine.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// Where recordings go, and what makes them.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// A file a scenario.
    pub folder: PathBuf,
    /// The monitor's program.
    pub binary: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
}

/// One recording in the making; what there is of it is thrown away unless it is finished.
pub struct Recording {
    child: Child,
    file: PathBuf,
}

impl Recorder {
    /// Begins to record what a container does, or all of them; returns when the monitor has begun.
    pub fn begin(&self, scenario: &str, container: Option<&str>, interrupt: &Interrupt) -> Result<Recording> {
        fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        let file = self.folder.join(format!("{scenario}.rec"));
        let _none = fs::remove_file(&file);
        let mut command = Command::new(&self.binary);
        command.arg("record").arg(&file).arg("--socket").arg(&self.socket);
        match container {
            Some(container) => command.args(["--container", container]),
            // What this machine does besides is nobody's business.
            None => command.arg("--no-host"),
        };
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("starting to record")?;
        let mut recording = Recording { child, file };
        recording.await_begin(interrupt)?;
        Ok(recording)
    }
}

impl Recording {
    fn await_begin(&mut self, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + BEGIN_LIMIT;
        while fs::metadata(&self.file).map_or(0, |meta| meta.len()) == 0 {
            if let Some(status) = self.child.try_wait()? {
                bail!("`bulkhead record` ended with {status}");
            }
            if interrupt.is_set() || Instant::now() > deadline {
                bail!("no recording began");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it and compresses the file.
    pub fn finish(mut self) -> Result<()> {
        process::terminate(&mut self.child, BEGIN_LIMIT);
        let packed = Command::new("gzip").args(["-9", "--no-name", "--force"]).arg(&self.file).status();
        if !packed.context("gzip")?.success() {
            bail!("gzip failed on {}", self.file.display());
        }
        Ok(())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        process::terminate(&mut self.child, BEGIN_LIMIT);
        let _moved = fs::remove_file(&self.file);
    }
}
