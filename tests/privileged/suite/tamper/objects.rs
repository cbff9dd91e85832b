//! Maps, links, pins and files of the daemon, from a container that can reach them.

use super::{Stage, is_refused, stage};
use crate::pace;
use crate::refusals::lsm;
use crate::shared;
use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use monitor_common::own::OWN_INODE;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Maps by number and by pin, links, pins, and files of the daemon's.
pub fn container_cannot_touch_maps_or_pins() -> Result<()> {
    // In this order: what works in `monitor` leaves nothing for anybody else.
    for mode in ["protect", "monitor"] {
        let stage = stage(mode)?;
        maps(&stage).with_context(|| format!("{mode}: maps"))?;
        links(&stage).with_context(|| format!("{mode}: links"))?;
        files(&stage).with_context(|| format!("{mode}: files"))?;
        ensure!(stage.watch.daemon.is_running(), "{mode}: the daemon is gone");
    }
    shared::retire();
    Ok(())
}

impl Stage {
    /// Where the pins are, on the host and in the container.
    fn pinned(&self) -> Result<(PathBuf, String)> {
        let root = self.watch.pins.folder().join("bpf/pins");
        let version = fs::read_dir(&root)?.flatten().next().context("no version is pinned")?.file_name();
        let inside = format!("/mnt/bpf/pins/{}", version.to_string_lossy());
        Ok((root.join(version), inside))
    }
}

impl Stage {
    /// Waits until the kernel half knows that this folder is the daemon's: it is told once a second.
    pub(super) fn await_own(&self, folder: &Path) -> Result<()> {
        let meta = fs::metadata(folder)?;
        let dev = rustix::fs::major(meta.dev()) << 20 | rustix::fs::minor(meta.dev());
        let key = [&meta.ino().to_ne_bytes()[..], &OWN_INODE.to_ne_bytes(), &dev.to_ne_bytes()].concat();
        let key: [u8; 16] = key.try_into().map_err(|_| anyhow!("a key has 16 bytes"))?;
        let pin = self.pinned()?.0.join("maps/OWN");
        let own: HashMap<MapData, [u8; 16], u64> = Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?;
        let deadline = Instant::now() + pace::wait(Duration::from_secs(20));
        while own.get(&key, 0).is_err() {
            ensure!(Instant::now() < deadline, "{} does not become the daemon's own", folder.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn maps(stage: &Stage) -> Result<()> {
    let (pins, inside) = stage.pinned()?;
    let path = pins.join("maps/CLASSES");
    let id = MapInfo::from_pin(&path)?.id();
    let known = || -> Result<bool> {
        let classes: HashMap<MapData, u32, u32> = Map::from_map_data(MapData::from_pin(&path)?)?.try_into()?;
        Ok(classes.get(&monitor_common::hash::program(b"bash"), 0).is_ok())
    };
    let bash = monitor_common::hash::program(b"bash");
    // bpf(2): get a descriptor, then delete what says that bash is a shell.
    let delete = format!(
        "die if $d < 0; my $k = pack(\"L\", {bash}); my $a = pack(\"LLQQQ\", $d, 0, at($k), 0, 0); syscall(321, 3, $a, length $a)"
    );
    let acts = [
        format!("my $a = pack(\"LLL\", {id}, 0, 0); my $d = syscall(321, 14, $a, length $a); {delete}"),
        format!(
            "my $p = \"{inside}/maps/CLASSES\"; my $a = pack(\"QLL\", at($p), 0, 0); my $d = syscall(321, 7, $a, length $a); {delete}"
        ),
    ];
    for act in acts {
        ensure!(known()?, "the map does not hold what is to be deleted");
        let before = stage.count("map");
        stage.perl(&act)?;
        ensure!(known()? == (stage.mode == "protect"), "wrong effect of: {act}; {}", stage.missed());
        stage.found("map", before).with_context(|| act.clone())?;
        let mut classes: HashMap<MapData, u32, u32> = Map::from_map_data(MapData::from_pin(&path)?)?.try_into()?;
        classes.insert(bash, monitor_common::state::CLASS_SHELL | monitor_common::state::CLASS_FLAG_C, 0)?;
    }
    // Reading harms nobody.
    let before = stage.count("map");
    stage.perl(&format!("my $a = pack(\"LLL\", {id}, 0, 8); syscall(321, 14, $a, length $a) >= 0 or die"))?;
    ensure!(stage.lived() && stage.count("map") == before, "a read-only descriptor was taken for an attack");
    Ok(())
}

/// A link of a cgroup can be detached through any descriptor of it.
fn links(stage: &Stage) -> Result<()> {
    let (pins, inside) = stage.pinned()?;
    let id = FdLink::from(PinnedLink::from_pin(pins.join("links/connect4"))?).info()?.id();
    let attached = || -> Result<bool> {
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", stage.watch.daemon.pid()))?.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if text.lines().any(|line| line == format!("link_id:\t{id}")) {
                return Ok(!text.lines().any(|line| line == "cgroup_id:\t0"));
            }
        }
        bail!("the daemon does not hold link {id}")
    };
    ensure!(attached()?, "the link is not attached");
    let before = stage.count("link");
    stage.perl(&format!(
        "my $p = \"{inside}/links/connect4\"; my $a = pack(\"QLL\", at($p), 0, 0); my $d = syscall(321, 7, $a, length $a); \
         die if $d < 0; $a = pack(\"L\", $d); syscall(321, 34, $a, length $a)"
    ))?;
    stage.found("link", before)?;
    ensure!(attached()? == (stage.mode == "protect"), "wrong effect on the link");
    Ok(())
}

fn files(stage: &Stage) -> Result<()> {
    let (pins, inside) = stage.pinned()?;
    let (protect, events) = (stage.mode == "protect", stage.watch.pins.events());
    let before = stage.count("own_file_written");
    stage.container.run("echo evil >> /mnt/events.jsonl")?;
    stage.found("own_file_written", before)?;
    ensure!(fs::read_to_string(&events)?.contains("evil\n") != protect, "wrong effect on the file of all events");

    let before = stage.count("own_file_removed");
    stage.container.run(&format!("mv {inside} /mnt/bpf/pins/aside"))?;
    stage.found("own_file_removed", before)?;
    let moved = pins.with_file_name("aside");
    ensure!(!pins.exists() || protect, "the attack is broken: the version is where it was");
    if moved.exists() {
        ensure!(!(protect && lsm()), "the version was renamed");
        fs::rename(&moved, &pins)?;
    }

    let count =
        || ["links", "maps"].iter().map(|folder| fs::read_dir(pins.join(folder)).map_or(0, Iterator::count)).sum();
    let (all, before): (usize, _) = (count(), stage.count("own_file_removed"));
    stage.container.run(&format!("rm -rf {inside}"))?;
    stage.found("own_file_removed", before)?;
    let left = count();
    // Without LSM the first is gone before the kill.
    let expected = if !protect { 0..=0 } else { all - usize::from(!lsm())..=all };
    ensure!(expected.contains(&left), "{left} of {all} pins are left");
    if protect && lsm() {
        // It is not empty and stays in any case; who is refused is told EPERM.
        let before = stage.count("own_file_removed");
        stage.perl(&format!("rmdir \"{inside}/links\" or $! == 1 or die"))?;
        let row = stage.found("own_file_removed", before).context("rmdir")?;
        ensure!(stage.lived() && is_refused(&row), "rmdir was not refused: {row}");
    }
    Ok(())
}
