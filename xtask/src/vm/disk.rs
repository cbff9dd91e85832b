//! The guests' root disk: the Debian release of this machine, so that programs built here run there, as
//! an ext4 image. Made once; a guest's writes go to a scratch file of QEMU's and are gone with it.

use crate::lab::images::rootfs;
use crate::lab::process;
use crate::lab::workshop::Workshop;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the tests' containers, the lab and scenarios on the host's side use, beyond what every Debian has.
const PACKAGES: [&str; 6] = ["curl", "iproute2", "openssl", "procps", "python3", "tini"];
/// Room for what tests write.
const SIZE: &str = "900M";
const MAKE_LIMIT: Duration = Duration::from_secs(600);

/// The disk's image below `cache`, made if it is not there.
pub fn ready(cache: &Path, workshop: &Workshop) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let key = Sha256::digest(format!("{release}{PACKAGES:?}{SIZE}"));
    let key: String = key.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let image = cache.join(format!("root-{key}.img"));
    if !image.exists() {
        eprintln!("vm: making the guests' root disk, once");
        make(workshop, &image).context("make the guests' root disk")?;
    }
    Ok(image)
}

fn make(workshop: &Workshop, image: &Path) -> Result<()> {
    let root = workshop.scratch("guest-root")?;
    rootfs::debian(workshop, &root)?;
    rootfs::install(workshop, &root, &PACKAGES.map(str::to_owned))?;
    // The machine's resolver is of no use where there is no network.
    fs::write(root.join("etc/resolv.conf"), "")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost guest\n")?;
    let part = image.with_extension("part");
    let _absent = fs::remove_file(&part);
    let mut mkfs = Command::new("mke2fs");
    // Without a journal: a guest that is killed loses nothing that anybody wants.
    mkfs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d"]).arg(&root).arg(&part).arg(SIZE);
    process::must(&mut mkfs, MAKE_LIMIT, workshop.interrupt())?;
    fs::rename(&part, image).with_context(|| format!("keep {}", image.display()))?;
    fs::remove_dir_all(root).context("remove the unpacked root")
}
