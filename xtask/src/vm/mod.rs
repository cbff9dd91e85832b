//! `cargo xtask vm`: the daemon and the privileged tests on other kernels, under QEMU.
//!
//! Kernels come from Debian packages ([`packages`]), the root disk from the machine's own release
//! ([`disk`]); both are cached in `target/vm`. A guest boots ([`guest`]) with the programs in its
//! initramfs ([`payload`]), runs its job and powers off.

mod cpio;
mod disk;
pub mod errand;
pub mod guest;
mod kernel;
pub mod matrix;
mod packages;
mod payload;

use crate::build::{self, Profile};
use crate::lab;
use crate::lab::process::Interrupt;
use crate::lab::workshop::Workshop;
use crate::workspace;
use anyhow::{Context, Result, bail};
use kernel::Kernel;
use matrix::{Boot, Layout};
use payload::Payload;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Guests at a time: each has two virtual processors, and software emulation keeps a core busy.
const AT_A_TIME: usize = 2;

/// What to boot and what to run in it.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Boot the whole matrix.
    #[arg(long, conflicts_with_all = ["kernel", "no_lsm", "cgroup", "run"])]
    all: bool,
    /// Kernel series of one boot, as 6.12.
    #[arg(long, value_name = "SERIES", value_parser = matrix::parse_series)]
    kernel: Option<String>,
    /// Leave `bpf` out of the guest's security modules.
    #[arg(long)]
    no_lsm: bool,
    /// Cgroup hierarchies of the guest.
    #[arg(long, default_value = "v2")]
    cgroup: Layout,
    /// Only privileged tests whose name contains this.
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// The daemon to test instead of building one.
    #[arg(long, value_name = "PROGRAM")]
    monitor: Option<PathBuf>,
    /// Run this with sh in the guest instead of the tests; `bulkhead` is in the current folder.
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// Longest time a guest may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 420)]
    limit: u64,
}

/// Where kernels, the root disk and the logs of the last boots are. `BULKHEAD_VM_DIR` moves it, so that
/// several checkouts share one.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("BULKHEAD_VM_DIR").map_or_else(|| workspace::target_dir().join("vm"), PathBuf::from)
}

/// Boots what was asked for; whether all of it was good.
pub fn run(options: &Options) -> Result<bool> {
    let boots = boots(options)?;
    if crate::process::find(guest::QEMU.0).is_none() {
        bail!("{} is missing: `apt-get install --no-install-recommends {}`", guest::QEMU.0, guest::QEMU.1);
    }
    if !crate::process::is_root() {
        return Err(crate::process::Failure::privilege("the guests' root disk is made as root"));
    }
    let interrupt = Interrupt::install()?;
    let cache = cache_dir();
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let daemon = match &options.monitor {
        Some(program) => program.clone(),
        None => build::all(Profile::Release)?,
    };
    let tests = if options.run.is_some() { None } else { Some(payload::build_tests()?) };
    let scratch = tempfile_folder(&cache)?;
    let tests: Vec<_> = tests.into_iter().map(|program| ("privileged".to_owned(), program)).collect();
    let payload = Payload::pack(&daemon, &tests, &[], &scratch);
    fs::remove_dir_all(&scratch).context("remove a scratch folder")?;
    let lab = lab::cache_dir();
    fs::create_dir_all(&lab).with_context(|| format!("make {}", lab.display()))?;
    let disk = disk::ready(&cache, &Workshop::new(&lab, &cache.join("scratch"), &interrupt))?;
    let kernels = kernels(&boots, &cache, &interrupt)?;
    let floor = Floor { cache, disk, payload: payload?, kernels, interrupt, options };
    floor.boot_all(boots)
}

fn boots(options: &Options) -> Result<Vec<Boot>> {
    if options.all {
        return Ok(matrix::all());
    }
    let Some(series) = options.kernel.clone() else { bail!("name a kernel (--kernel 6.12), or take them --all") };
    Ok(vec![Boot { series, lsm: !options.no_lsm, layout: options.cgroup }])
}

fn tempfile_folder(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(format!("payload-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn kernels(boots: &[Boot], cache: &Path, interrupt: &Interrupt) -> Result<BTreeMap<String, Kernel>> {
    let archives = packages::Archives::new(cache, interrupt);
    let mut kernels = BTreeMap::new();
    for boot in boots {
        if !kernels.contains_key(&boot.series) {
            let folder = cache.join("kernels").join(&boot.series);
            let kernel = match Kernel::in_folder(&folder) {
                Ok(kernel) => kernel,
                Err(_) => archives.fetch(&boot.series, &folder).with_context(|| format!("kernel {}", boot.series))?,
            };
            kernels.insert(boot.series.clone(), kernel);
        }
    }
    Ok(kernels)
}

/// Everything boots are made from.
struct Floor<'a> {
    cache: PathBuf,
    disk: PathBuf,
    payload: Payload,
    kernels: BTreeMap<String, Kernel>,
    interrupt: Interrupt,
    options: &'a Options,
}

impl Floor<'_> {
    fn boot_all(&self, boots: Vec<Boot>) -> Result<bool> {
        let alone = boots.len() == 1;
        let queue = Mutex::new(boots.into_iter());
        let reports = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    while let Some(boot) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                        let report = self.boot_one(&boot, alone);
                        if let Ok(mut reports) = reports.lock() {
                            reports.push(report);
                        }
                    }
                });
            }
        });
        let reports = reports.into_inner().unwrap_or_default();
        let mut good = true;
        for report in reports {
            good &= report?;
        }
        Ok(good)
    }

    fn boot_one(&self, boot: &Boot, alone: bool) -> Result<bool> {
        let kernel = self.kernels.get(&boot.series).context("no such kernel")?;
        let folder = self.cache.join("boots").join(format!("{}-{}", boot.slug(), std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let initramfs = self.payload.initramfs(boot, kernel, &self.job(), &folder)?;
        let limit = Duration::from_secs(self.options.limit);
        let outcome =
            guest::boot(boot, kernel, std::slice::from_ref(&self.disk), &initramfs, &folder, limit, &self.interrupt)?;
        fs::remove_file(initramfs).context("remove an initramfs")?;
        if alone {
            print!("{}", outcome.results);
        }
        println!(
            "{boot} ({}): {:?} after {} s ({})",
            kernel.release,
            outcome.end,
            outcome.took.as_secs(),
            outcome.console.display()
        );
        Ok(outcome.end == guest::End::Finished)
    }

    fn job(&self) -> String {
        match &self.options.run {
            Some(command) => format!("section run sh -c {}\n", quoted(command)),
            None => {
                let filter = self.options.only.as_deref().map(quoted).unwrap_or_default();
                format!(
                    "section check ./bulkhead check --json\n\
                     section tests env BULKHEAD_BINARY=/guest/bulkhead BULKHEAD_TEST_PACE=5 \
                     CARGO_MANIFEST_DIR=/guest/tests/privileged ./privileged --color never {filter}\n"
                )
            }
        }
    }
}

/// As one word of sh.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
