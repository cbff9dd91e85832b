//! Scenarios on another kernel: one boot of a guest in which this very program plays them, in containers
//! without an engine. Images and programs are built here and brought along on a disk; the rows come back
//! as they are made.

use super::Args;
use super::file::{Scenario, Served};
use super::report::{self, Report, Summary};
use super::verdict::Row;
use crate::lab::house::Terms;
use crate::lab::images::{self, Images};
use crate::lab::process::{self, Interrupt};
use crate::lab::runtime::Kind;
use crate::lab::{Engine, cache_dir};
use crate::vm;
use crate::vm::errand::Errand;
use crate::vm::guest::End;
use crate::vm::matrix::{self, Boot, Layout};
use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How much slower an emulated machine is taken to be, unless told.
const SLOWNESS: u32 = 5;

/// Plays at a time in a guest of two emulated processors, unless told.
const JOBS: u32 = 2;

/// Room for what containers write, beside the images.
const ROOM_MIB: u64 = 600;

/// Making a disk of some gigabytes.
const DISK_LIMIT: Duration = Duration::from_secs(900);

/// What a boot and the start of the monitor may take, and one play on average.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
const PLAY_LIMIT: Duration = Duration::from_secs(60);

/// Every image asked for, by name: its reference, or why there is none.
type Built = BTreeMap<String, Result<String, String>>;

/// Plays `scenarios` on `args.kernel`.
pub fn run<W: Write + Send>(
    args: &Args,
    scenarios: &[Scenario],
    binary: &Path,
    mut report: Report<W>,
    interrupt: &Interrupt,
) -> Result<Summary> {
    let series = matrix::parse_series(&args.kernel).map_err(|why| anyhow!("--kernel {}: {why}", args.kernel))?;
    let boot = Boot { series, lsm: !args.no_lsm, layout: args.cgroup.unwrap_or(Layout::V2) };
    let (built, mut files) = build(args, scenarios, interrupt)?;
    let stage = Folder::make(vm::cache_dir().join(format!("stage-{}", std::process::id())))?;
    let list = stage.0.join(images::LIST);
    fs::write(&list, serde_json::to_vec(&built)?).context("writing the list of images")?;
    files.push((format!("stage/{}", images::LIST), list));
    let plays = scenarios.len() as u32 * args.repeat;
    let errand = Errand {
        boot,
        daemon: binary,
        programs: vec![("xtask".to_owned(), std::env::current_exe().context("finding this program")?)],
        job: job(args, &mut files)?,
        files,
        disk: disk(&built, interrupt)?,
        limit: BOOT_LIMIT + PLAY_LIMIT * plays,
    };
    let mut kernel = String::new();
    let mut rows = 0;
    let outcome = errand.run(interrupt, |line| {
        if let Some(release) = line.strip_prefix("@kernel ") {
            release.clone_into(&mut kernel);
        } else if let Some(row) = report::from_json(line) {
            rows += 1;
            if let Err(error) = report.row(&with_title(row, scenarios)) {
                eprintln!("lab: {error:#}");
            }
        } else if !line.starts_with('@') {
            eprintln!("guest: {line}");
        }
    });
    let outcome = outcome?;
    if interrupt.is_set() {
        bail!("interrupted");
    }
    if let End::Died(why) = &outcome.end {
        bail!("the guest ended after {rows} of {plays} rows: {why} ({})", outcome.console.display());
    }
    if rows != plays {
        bail!("{rows} of {plays} rows came from the guest ({})", outcome.console.display());
    }
    report.line(&format!("kernel {kernel} ({}), {} s under emulation", errand.boot, outcome.took.as_secs()))?;
    report.finish()
}

fn with_title(mut row: Row, scenarios: &[Scenario]) -> Row {
    if let Some(scenario) = scenarios.iter().find(|scenario| scenario.id == row.id) {
        row.title.clone_from(&scenario.title);
    }
    row
}

/// Images of all scenarios, and the programs that the web server gives out.
fn build(args: &Args, scenarios: &[Scenario], interrupt: &Interrupt) -> Result<(Built, Vec<(String, PathBuf)>)> {
    let engine = Engine::start(Kind::Bare, Terms { slowness: 1, prebuilt: None }, interrupt)?;
    let mut images = Images::new(&args.images);
    let names: BTreeSet<&String> = scenarios.iter().map(|scenario| &scenario.image).collect();
    let built = names.into_iter().map(|name| (name.clone(), images.reference(&engine, name))).collect();
    let mut programs = BTreeSet::new();
    for file in scenarios.iter().flat_map(|scenario| scenario.serve.values()) {
        if let Served::Subject { subject } = file {
            programs.insert(subject);
        }
    }
    let mut files = Vec::new();
    for name in programs {
        files.push((format!("stage/subjects/{name}"), images::subject(&engine, name)?));
    }
    Ok((built, files))
}

/// What the guest is to do: this program with the same arguments, on what was brought along.
fn job(args: &Args, files: &mut Vec<(String, PathBuf)>) -> Result<String> {
    let mut line = format!(
        "env BULKHEAD_LAB_DIR=/mnt ./xtask scenarios --engine bare --prebuilt /guest/stage \
         --monitor /guest/bulkhead --json /dev/ttyS1 --mode {} --repeat {} --slowness {} --jobs {}",
        args.mode.name(),
        args.repeat,
        if args.slowness == 1 { SLOWNESS } else { args.slowness },
        args.jobs.unwrap_or(JOBS),
    );
    if let Some(seed) = args.shuffle {
        line.push_str(&format!(" --shuffle {seed}"));
    }
    if let Some(word) = &args.only {
        if !word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            bail!("--only {word}: ids are letters, digits and dashes");
        }
        line.push_str(&format!(" --only {word}"));
    }
    for (number, file) in super::file::files(&args.files)?.into_iter().enumerate() {
        let name = format!("scenarios/{number:03}.toml");
        line.push_str(&format!(" {name}"));
        files.push((name, file));
    }
    // The table is printed here, from the rows.
    let script = format!("mount -t ext4 -o noatime /dev/vdb /mnt && {line} > /dev/null");
    Ok(format!("section scenarios sh -c {}\n", vm::quoted(&script)))
}

/// A disk with the images, as they lie in the lab's cache. Made once for a set of them.
fn disk(built: &Built, interrupt: &Interrupt) -> Result<PathBuf> {
    let references: Vec<&String> = built.values().filter_map(|reference| reference.as_ref().ok()).collect();
    let key = Sha256::digest(format!("{references:?} {ROOM_MIB}"));
    let key: String = key.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let cache = vm::cache_dir();
    let disk = cache.join(format!("images-{key}.img"));
    if disk.exists() {
        return Ok(disk);
    }
    eprintln!("vm: making the disk with the images, once for these {}", references.len());
    // Beside the images, as links between file systems cannot be.
    let tree = Folder::make(cache_dir().join("scratch").join(format!("disk-{}", std::process::id())))?;
    fill(&tree.0, &references, interrupt)?;
    let mut du = Command::new("du");
    let used = process::must(du.args(["-sm", "--apparent-size"]).arg(&tree.0), DISK_LIMIT, interrupt)?;
    let mib: u64 = used.split_whitespace().next().and_then(|n| n.parse().ok()).context("reading du's answer")?;
    // Small files fill their last block by half.
    let size = format!("{}M", mib + mib / 2 + ROOM_MIB);
    let part = disk.with_extension("part");
    let _absent = fs::remove_file(&part);
    let mut mkfs = Command::new("mke2fs");
    mkfs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&tree.0).arg(&part).arg(size);
    process::must(&mut mkfs, DISK_LIMIT, interrupt)?;
    fs::rename(&part, &disk).with_context(|| format!("keeping {}", disk.display()))?;
    Ok(disk)
}

/// A folder of this run, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _absent = fs::remove_dir_all(&self.0);
    }
}

fn fill(tree: &Path, references: &[&String], interrupt: &Interrupt) -> Result<()> {
    let folder = tree.join("bare/images");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for reference in references {
        let image = cache_dir().join("bare/images").join(crate::lab::bare::folder_name(reference));
        process::must(Command::new("cp").arg("-al").arg(image).arg(&folder), DISK_LIMIT, interrupt)?;
    }
    Ok(())
}
