//! What a container has no business with: the host's root as its own, the accounts' password hashes.

use crate::container::Container;
use crate::daemon::outcome;
use crate::shared;
use anyhow::{Context, Result, ensure};

/// chroot(2) into a folder of the host, without a program of the host's: found, and in `protect` its end.
pub fn host_root_is_escape() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let host = tempfile::tempdir()?;
        let watch = shared::watch(mode)?;
        let container = Container::start_with(&watch.group, Some(host.path()))?;
        container.run("perl -e 'chroot(\"/mnt\") or die; sleep 2; open(F, \">/out\")'")?;
        let alert = watch.daemon.await_alert("escape", container.id()).with_context(|| mode)?;
        ensure!((outcome(&alert) == "observed") == (mode == "monitor"), "{mode}: outcome {}", outcome(&alert));
        ensure!(host.path().join("out").exists() == (mode == "monitor"), "{mode}: wrong effect");
    }
    Ok(())
}

/// Found when a copying tool reads them, not when a program does that checks passwords.
pub fn shadow_reads_are_judged() -> Result<()> {
    let watch = shared::watch("monitor")?;
    let honest = Container::start(&watch.group)?;
    honest.run("su -s /bin/sh nobody -c true; true")?;
    let container = Container::start(&watch.group)?;
    container.run("cat /etc/shadow >/dev/null")?;
    let alert = watch.daemon.await_alert("credential_access", container.id())?;
    ensure!(alert["file"]["path"] == "/etc/shadow", "file {}", alert["file"]);
    ensure!(watch.daemon.alerts("credential_access", honest.id()).is_empty(), "su is found, too");
    Ok(())
}
