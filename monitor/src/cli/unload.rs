//! `bulkhead unload`: detaches and removes what a daemon has left pinned.

use super::{CliError, CliResult, Exit, UnloadArgs, handover, require_root};
use crate::kernel::pins::{self, PinError, Unlocked};
use std::time::Duration;

pub(super) fn main(args: &UnloadArgs) -> CliResult {
    let loaded = args.config.load()?;
    require_root("unload")?;
    super::log::start(crate::config::Level::Warn);
    let root = &loaded.config.pins.root;
    let nothing = || super::print("nothing is pinned\n").map(|_| Exit::Ok);
    if root.as_os_str().is_empty() {
        return nothing();
    }
    let Some(unlocked) = Unlocked::existing(root).map_err(handover::failure)? else { return nothing() };
    let pins = match unlocked.lock(Duration::ZERO) {
        Ok(pins) => pins,
        Err(PinError::Busy(_)) => {
            let why = format!("a daemon runs and has the pins in {}: stop it first", root.display());
            return Err(CliError::failure(why));
        }
        Err(error) => return Err(handover::failure(error)),
    };
    let removed = pins.remove_all().map_err(handover::failure)?;
    drop(unlocked);
    crate::canary::remove_home();
    if let Err(error) = pins::unmount(root) {
        tracing::warn!(%error, root = %root.display(), "the BPF file system stays mounted");
    }
    if removed == pins::Removed::default() {
        return nothing();
    }
    let text = format!(
        "removed {} links and {} maps from {}: no program of Bulkhead is attached any more\n",
        removed.links,
        removed.maps,
        root.display()
    );
    super::print(&text)?;
    Ok(Exit::Ok)
}
