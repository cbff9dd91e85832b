//! `cargo xtask vm`: the daemon and the privileged tests on other kernels, under QEMU.
//!
//! Kernels come from Debian packages ([`packages`]), the root disk from the machine's own release
//! ([`disk`]); both are cached in `target/vm`. A guest boots ([`guest`]) with the programs in its
//! initramfs ([`payload`]), runs its job and powers off; its results are judged in [`report`].

mod cpio;
mod disk;
pub mod errand;
pub mod guest;
mod kernel;
pub mod matrix;
mod packages;
mod page;
mod passed;
mod payload;
mod qemu;
mod report;
pub mod stage;
mod verified;

use crate::build::{self, Profile};
use crate::lab;
use crate::lab::process::Interrupt;
use crate::lab::workshop::Workshop;
use crate::test::required::MustRun;
use crate::workspace;
use anyhow::{Context, Result, bail};
use kernel::Kernel;
use matrix::{Boot, Layout};
use payload::Payload;
use qemu::Qemu;
use report::Report;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Guests at a time, unless told: software emulation keeps a core busy with each.
const AT_A_TIME: usize = 2;

/// Processor time that a guest may use, in seconds: several times what it needs.
const LIMIT: u64 = 900;

/// What to boot and what to run in it.
#[derive(clap::Args, Debug, Default)]
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
    /// Only load the programs, with `bulkhead check`: no tests.
    #[arg(long, conflicts_with_all = ["only", "run"])]
    check: bool,
    /// Write docs/kernel-support.md and xtask/verified.toml from this run; with --check only the latter.
    #[arg(long, requires = "all")]
    record: bool,
    /// Do not boot again what has passed with the very same programs, tests, kernel and disk.
    #[arg(long, requires = "all")]
    resume: bool,
    /// Processor time that a guest may use.
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT)]
    limit: u64,
    /// Guests at a time: one for each core that has nothing else to do.
    #[arg(long, value_name = "N", default_value_t = AT_A_TIME)]
    jobs: usize,
}

/// Where kernels, the root disk and the logs of the last boots are. `BULKHEAD_VM_DIR` moves it, so that
/// several checkouts share one.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("BULKHEAD_VM_DIR").map_or_else(|| workspace::target_dir().join("vm"), PathBuf::from)
}

/// Boots what was asked for; whether all of it was good.
pub fn run(options: &Options) -> Result<bool> {
    let boots = boots(options)?;
    let interrupt = Interrupt::install()?;
    let floor = prepare(options, Means::ready(&boots, &interrupt)?, interrupt)?;
    if let Some(command) = &options.run {
        return boots.iter().try_fold(true, |good, boot| Ok(floor.run_command(boot, command)? && good));
    }
    let reports = floor.boot_all(&boots)?;
    println!("\n{}", report::table(&reports));
    let mut good = reports.iter().all(Report::is_good);
    let counts = verified::counts(&reports);
    if options.record && good {
        verified::record(&counts)?;
        if !options.check {
            let page = workspace::root().join("docs/kernel-support.md");
            fs::write(&page, page::page(&reports, &floor.must_run.guest_without))
                .with_context(|| format!("write {}", page.display()))?;
        }
    } else if options.record {
        println!("not recorded: only a run in which every guest passed is");
    } else {
        for fault in verified::faults(&counts, &verified::recorded()?) {
            println!("verifier: {fault}");
            good = false;
        }
    }
    println!("{} of {} guests passed", reports.iter().filter(|report| report.is_good()).count(), reports.len());
    Ok(good)
}

/// What boots need and is not built here.
#[derive(Debug)]
struct Means {
    cache: PathBuf,
    qemu: Qemu,
    disk: PathBuf,
    kernels: BTreeMap<String, Kernel>,
}

impl Means {
    /// Finds it in the cache or gets it.
    fn ready(boots: &[Boot], interrupt: &Interrupt) -> Result<Self> {
        if !crate::process::is_root() {
            return Err(crate::process::Failure::privilege("the guests' root disk is made as root"));
        }
        let cache = cache_dir();
        fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
        forget_old_boots(&cache);
        let qemu = Qemu::ready(&cache, interrupt)?;
        let lab = lab::cache_dir();
        fs::create_dir_all(&lab).with_context(|| format!("make {}", lab.display()))?;
        let disk = disk::ready(&cache, &Workshop::new(&lab, &cache.join("scratch"), interrupt))?;
        let kernels = kernels(boots, &cache, interrupt)?;
        Ok(Self { cache, qemu, disk, kernels })
    }
}

/// Builds what runs in guests.
fn prepare(options: &Options, means: Means, interrupt: Interrupt) -> Result<Floor> {
    let Means { cache, qemu, disk, kernels } = means;
    let daemon = match &options.monitor {
        Some(program) => program.clone(),
        None => build::all(Profile::Release)?,
    };
    let tests = if options.run.is_some() || options.check { None } else { Some(payload::build_tests()?) };
    let scratch = scratch_folder(&cache)?;
    let tests: Vec<_> = tests.into_iter().map(|program| ("privileged".to_owned(), program)).collect();
    let payload = Payload::pack(&daemon, &tests, &[], &scratch);
    fs::remove_dir_all(&scratch).context("remove a scratch folder")?;
    let must_run = MustRun::read()?;
    let (only, check, limit, resume) = (options.only.clone(), options.check, options.limit, options.resume);
    let (payload, jobs) = (payload?, options.jobs.max(1));
    Ok(Floor { cache, qemu, disk, payload, kernels, interrupt, must_run, only, check, limit, resume, jobs })
}

fn boots(options: &Options) -> Result<Vec<Boot>> {
    if options.all {
        return Ok(matrix::all());
    }
    let Some(series) = options.kernel.clone() else { bail!("name a kernel (--kernel 6.12), or take them --all") };
    Ok(vec![Boot { series, lsm: !options.no_lsm, layout: options.cgroup }])
}

/// Removes the logs of boots that are a day old and whose run has ended.
fn forget_old_boots(cache: &Path) {
    const KEPT: Duration = Duration::from_secs(24 * 3600);
    for entry in fs::read_dir(cache.join("boots")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let runs = name.rsplit('-').next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed().unwrap_or_default());
        if !runs && age.is_ok_and(|age| age > KEPT) {
            // Logs that stay are only in the way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn scratch_folder(cache: &Path) -> Result<PathBuf> {
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
struct Floor {
    cache: PathBuf,
    qemu: Qemu,
    disk: PathBuf,
    payload: Payload,
    kernels: BTreeMap<String, Kernel>,
    interrupt: Interrupt,
    must_run: MustRun,
    only: Option<String>,
    /// No tests.
    check: bool,
    /// Seconds.
    limit: u64,
    /// What has passed is not booted again.
    resume: bool,
    /// Guests at a time.
    jobs: usize,
}

impl Floor {
    /// Boots some at a time, with a line for each that is done; reports in the order they were asked in.
    fn boot_all(&self, boots: &[Boot]) -> Result<Vec<Report>> {
        let queue = Mutex::new(boots.iter().enumerate());
        let reports = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while let Some((number, boot)) = queue.lock().ok().and_then(|mut queue| queue.next())
                        && !self.interrupt.is_set()
                    {
                        let report = self.boot_one(boot, matrix::is_outermost(boot, boots));
                        match &report {
                            Ok(report) => println!("{}", report.line()),
                            Err(error) => println!("{boot}: {error:#}"),
                        }
                        if let Ok(mut reports) = reports.lock() {
                            reports.insert(number, report);
                        }
                    }
                });
            }
        });
        if self.interrupt.is_set() {
            bail!("interrupted");
        }
        reports.into_inner().unwrap_or_default().into_values().collect()
    }

    fn boot_one(&self, boot: &Boot, outermost: bool) -> Result<Report> {
        let kernel = self.kernels.get(&boot.series).context("no such kernel")?;
        let asked = self.asked(boot, outermost);
        let (outcome, key) = self.power_on(boot, kernel, &self.test_job(&asked))?;
        let mut report = Report::of(boot, &kernel.release, &outcome, asked);
        if let Some(without) = self.must_run.guest_without.get(&boot.series) {
            report.judge_absence(&without.door);
        }
        if report.is_good() {
            passed::keep(&self.cache, &key, &outcome)?;
        }
        Ok(report)
    }

    /// Tests that must run in a guest, by group.
    fn asked(&self, boot: &Boot, outermost: bool) -> BTreeMap<String, Vec<String>> {
        if self.check {
            return BTreeMap::new();
        }
        let mut groups = self.must_run.guest.clone();
        if outermost && let Some(names) = self.must_run.guest_pure.get(&boot.layout.to_string()) {
            groups.insert("responses".to_owned(), names.clone());
        }
        if let Some(without) = self.must_run.guest_without.get(&boot.series) {
            groups.values_mut().for_each(|names| names.retain(|name| !without.tests.contains(name)));
            groups.retain(|_, names| !names.is_empty());
        }
        if let Some(word) = &self.only {
            groups.values_mut().for_each(|names| names.retain(|name| name.contains(word.as_str())));
            groups.retain(|_, names| !names.is_empty());
        }
        groups
    }

    /// Runs one command in a guest, its output passed on.
    fn run_command(&self, boot: &Boot, command: &str) -> Result<bool> {
        let kernel = self.kernels.get(&boot.series).context("no such kernel")?;
        let (outcome, _) = self.power_on(boot, kernel, &format!("section run sh -c {}\n", quoted(command)))?;
        print!("{}", outcome.results);
        println!("{boot} ({}): {:?} after {} s", kernel.release, outcome.end, outcome.cost.as_secs());
        Ok(outcome.end == guest::End::Finished)
    }

    /// Boots; tells also under which key it is known whether it passed.
    fn power_on(&self, boot: &Boot, kernel: &Kernel, job: &str) -> Result<(guest::Outcome, String)> {
        // Named for this run too: others may go on at the same time.
        let folder = self.cache.join("boots").join(format!("{}-{}", boot.slug(), std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let initramfs = self.payload.initramfs(boot, kernel, job, &folder)?;
        let bytes = fs::read(&initramfs).context("read an initramfs")?;
        let key = passed::key(&bytes, &format!("{boot} {} {}", kernel.release, self.disk.display()));
        drop(bytes);
        let before = if self.resume { passed::find(&self.cache, &key) } else { None };
        if let Some(outcome) = before {
            fs::remove_file(initramfs).context("remove an initramfs")?;
            return Ok((outcome, key));
        }
        let limit = Duration::from_secs(self.limit);
        let disks = std::slice::from_ref(&self.disk);
        let outcome = guest::boot(&self.qemu, boot, kernel, disks, &initramfs, &folder, limit, &self.interrupt);
        fs::remove_file(initramfs).context("remove an initramfs")?;
        Ok((outcome?, key))
    }

    /// What tests measured goes to the console: among their verdicts it would hide one.
    fn test_job(&self, asked: &BTreeMap<String, Vec<String>>) -> String {
        let check = "section check ./bulkhead check --json\n";
        if self.check {
            return check.to_owned();
        }
        let names: Vec<&str> = asked.values().flatten().map(String::as_str).collect();
        let chosen = match &self.only {
            Some(word) => format!("./privileged --color never {}", quoted(word)),
            None => format!("env BULKHEAD_TESTS={} ./privileged --color never", names.join(",")),
        };
        format!(
            "{check}\
             export BULKHEAD_BINARY=/guest/bulkhead BULKHEAD_TEST_PACE=5 CARGO_MANIFEST_DIR=/guest/tests/privileged\n\
             section tests {chosen} 2>/dev/console\n"
        )
    }
}

/// As one word of sh.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
