//! One boot for somebody else's job: files and a disk of its own, and every line of its results handed
//! over as it comes.

use super::guest::{self, Outcome};
use super::matrix::Boot;
use super::payload::Payload;
use super::qemu::Qemu;
use super::{cache_dir, disk, kernels, scratch_folder};
use crate::lab;
use crate::lab::process::Interrupt;
use crate::lab::workshop::Workshop;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the results are looked at.
const GLANCE: Duration = Duration::from_millis(300);

/// A job.
pub struct Errand<'a> {
    /// Kernel, security modules and cgroups.
    pub boot: Boot,
    /// The daemon; it lies in the job's folder, `/guest`.
    pub daemon: &'a Path,
    /// Programs, put there too without their debugging symbols: name and file.
    pub programs: Vec<(String, PathBuf)>,
    /// Further files, put there: name and file.
    pub files: Vec<(String, PathBuf)>,
    /// A second disk, `/dev/vdb`; writes to it are lost.
    pub disk: PathBuf,
    /// Lines of sh.
    pub job: String,
    /// Processor time that it may use.
    pub limit: Duration,
}

impl Errand<'_> {
    /// Boots, runs the job, and gives `on_line` what it writes.
    pub fn run(&self, interrupt: &Interrupt, on_line: impl FnMut(&str) + Send) -> Result<Outcome> {
        let cache = cache_dir();
        fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
        let qemu = Qemu::ready(&cache, interrupt)?;
        let workshop = Workshop::new(&lab::cache_dir(), &cache.join("scratch"), interrupt);
        let disks = [disk::ready(&cache, &workshop)?, self.disk.clone()];
        let kernels = kernels(std::slice::from_ref(&self.boot), &cache, interrupt)?;
        let kernel = kernels.get(&self.boot.series).context("no such kernel")?;
        let scratch = scratch_folder(&cache)?;
        let payload = Payload::pack(self.daemon, &self.programs, &self.files, &scratch);
        fs::remove_dir_all(&scratch).context("remove a scratch folder")?;
        let folder = cache.join("boots").join(format!("{}-{}", self.boot.slug(), std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let initramfs = payload?.initramfs(&self.boot, kernel, &self.job, &folder)?;
        let ended = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| follow(&folder.join("results"), &ended, on_line));
            let outcome = guest::boot(&qemu, &self.boot, kernel, &disks, &initramfs, &folder, self.limit, interrupt);
            ended.store(true, Ordering::Relaxed);
            outcome
        });
        fs::remove_file(initramfs).context("remove an initramfs")?;
        outcome
    }
}

/// Reads whole lines until the guest has ended and there are no more.
fn follow(path: &Path, ended: &AtomicBool, mut on_line: impl FnMut(&str)) {
    let mut open: Option<BufReader<File>> = None;
    let mut line = Vec::new();
    loop {
        let last = ended.load(Ordering::Relaxed);
        if open.is_none() {
            open = File::open(path).ok().map(BufReader::new);
        }
        while let Some(n) = open.as_mut().and_then(|reader| reader.read_until(b'\n', &mut line).ok())
            && n > 0
            && line.ends_with(b"\n")
        {
            on_line(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
        if last {
            return;
        }
        std::thread::sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn lines_are_whole_whatever_pieces_they_come_in() {
        let path = std::env::temp_dir().join(format!("bulkhead-errand-{}", std::process::id()));
        let ended = AtomicBool::new(false);
        let mut lines = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| follow(&path, &ended, |line| lines.push(line.to_owned())));
            for piece in ["one\r\ntw", "o\nthree\nhal"] {
                use std::io::Write as _;
                let mut file = File::options().create(true).append(true).open(&path).unwrap();
                file.write_all(piece.as_bytes()).unwrap();
                std::thread::sleep(GLANCE * 2);
            }
            ended.store(true, Ordering::Relaxed);
        });
        fs::remove_file(&path).unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
    }
}
