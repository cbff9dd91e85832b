//! What io_uring does for a container without a system call, judged by a daemon that has neither LSM nor fentry for
//! it. This program is the attacker as well: `uring …` in its arguments.

use crate::container::Container;
use crate::daemon::{ALERT_WAIT, is_alert, outcome};
use crate::lab::Peer;
use crate::pace;
use crate::shared::{self, Watch};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use subjects::uring;

/// How often each way to write is tried.
const TRIES: usize = 10;
/// Ways to open and write, and whether the folder is named by a symbolic link of another name.
const WAYS: &[(&str, bool)] = &[
    ("", false),
    ("openat2", false),
    ("worker", false),
    ("polled", false),
    ("direct", false),
    ("existing", false),
    ("chain", false),
    ("chain existing", false),
    ("chain direct", false),
    ("chain direct existing polled", false),
    ("chain silent direct", false),
    ("", true),
    ("direct", true),
    ("chain existing", true),
    ("chain direct worker", true),
];

/// Plays the attacker if the arguments say so.
pub fn act() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if arguments.first() != Some(&"uring") {
        return None;
    }
    subjects::life::end_after(subjects::life::LIMIT);
    let outcome = match *arguments {
        ["uring", "write", path, ref how @ ..] => uring::write(path, how)?,
        ["uring", "save", from, path, ref how @ ..] => uring::save(from, path, how)?,
        ["uring", "ask", path] => uring::ask(path),
        ["uring", verb, from, to] => uring::name(verb, from, to)?,
        _ => return None,
    };
    if let Err(why) = &outcome {
        eprintln!("{why}");
    }
    Some(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A daemon with the last doors only, and a container with a folder of the host.
struct Stage {
    mode: &'static str,
    container: Container,
    watch: Arc<Watch>,
    host: tempfile::TempDir,
    me: &'static str,
}

impl Stage {
    fn new(mode: &'static str) -> Result<Self> {
        let watch = shared::watch_by_last_doors(mode)?;
        let host = tempfile::tempdir()?;
        let container = Container::start_with(&watch.group, Some(host.path()))?;
        // The container has the host's root, not what is mounted on it.
        fs::copy(std::env::current_exe()?, host.path().join("attacker")).context("copy this program")?;
        Ok(Self { mode, container, watch, host, me: "/mnt/attacker" })
    }

    /// Plays it and waits for the alert about the file, dealt with as the mode says.
    fn play(&self, kind: &str, act: &str, file: &str) -> Result<()> {
        self.container.run(&format!("{} uring {act}", self.me))?;
        let what = format!("{} {kind} of {file} after {act}", self.mode);
        let alert = self.watch.daemon.await_row(&what, ALERT_WAIT, |row| {
            let path = row["file"]["path"].as_str().unwrap_or_default();
            is_alert(row, kind, self.container.id()) && path.ends_with(file)
        })?;
        let expected = if self.mode == "protect" { "killed" } else { "observed" };
        ensure!(outcome(&alert) == expected, "{what}: outcome {}", outcome(&alert));
        Ok(())
    }

    fn holds(&self, file: &str) -> bool {
        fs::read_to_string(self.container.path(file)).is_ok_and(|text| text.contains("# lab"))
    }
}

/// Keys are found however they are written, and in `protect` not a byte of them is.
pub fn ring_writes_are_judged() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let stage = Stage::new(mode)?;
        let tries = if mode == "protect" { pace::times(TRIES) } else { 1 };
        for (way, (how, linked)) in WAYS.iter().enumerate() {
            for number in 0..tries {
                let home = format!("/home/{way}-{number}");
                let file = format!("{home}/.ssh/authorized_keys");
                stage.container.run(&format!("mkdir -p {home}/.ssh; ln -s .ssh {home}/x"))?;
                if how.contains("existing") {
                    fs::write(stage.container.path(&file), "old\n").context("make the file")?;
                }
                let path = if *linked { format!("{home}/x/authorized_keys") } else { file.clone() };
                // A path as it was given is known by its last three components.
                let known = format!("/{way}-{number}/.ssh/authorized_keys");
                stage.play("persistence_ssh_key", &format!("write {path} {how}"), &known)?;
                ensure!(stage.holds(&file) == (mode == "monitor"), "{mode}: wrong content of {file} after `{how}`");
            }
        }
    }
    Ok(())
}

/// Names that are made for files, and a runtime's socket under another name.
pub fn ring_names_are_judged() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let stage = Stage::new(mode)?;
        for verb in ["rename", "link", "symlink"] {
            let job = format!("/etc/cron.d/by-{verb}");
            stage.container.run("mkdir -p /etc/cron.d; echo '# lab' > /tmp/x")?;
            stage.play("persistence_cron", &format!("{verb} /tmp/x {job}"), &job)?;
            let made = fs::symlink_metadata(stage.container.path(&job)).is_ok();
            ensure!(mode == "protect" || made, "monitor mode touched it, or the act is broken: {verb}");
        }
        let received = serve(&stage)?;
        stage.container.run(&format!("{} uring ask /mnt/innocent", stage.me))?;
        stage.watch.daemon.await_alert("docker_socket", stage.container.id()).with_context(|| mode)?;
        let received = received.load(Ordering::SeqCst);
        ensure!((received > 0) == (mode == "monitor"), "{mode}: the runtime received {received} bytes");
    }
    Ok(())
}

/// What is fetched and saved through io_uring is known when it is run, whoever holds the file meanwhile.
pub fn ring_downloads_are_tainted() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let stage = Stage::new(mode)?;
        let peer = Peer::shell(stage.container.listen()?, "touch /tmp/ran\n", pace::wait(Duration::from_secs(3)))?;
        for how in ["", "direct", "chain direct polled"] {
            let file = format!("/tmp/s{}", how.len());
            let save = format!("rm -f /tmp/ran; {} uring save 127.0.0.1:{} {file} {how}", stage.me, peer.port);
            stage.container.run(&save)?;
            let saved = fs::read_to_string(stage.container.path(&file)).unwrap_or_default();
            ensure!(saved.contains("touch"), "{mode}: the download itself did not work: `{how}`");
            stage.container.run(&format!("sh {file}"))?;
            let what = format!("{mode} download_exec of {file}");
            stage.watch.daemon.await_row(&what, ALERT_WAIT, |row| {
                is_alert(row, "download_exec", stage.container.id()) && row["file"]["path"] == file.as_str()
            })?;
            let ran = fs::symlink_metadata(stage.container.path("/tmp/ran")).is_ok();
            ensure!(ran == (mode == "monitor"), "{mode}: wrong effect after `{how}`");
        }
    }
    shared::retire_last();
    Ok(())
}

/// A stand-in for a runtime, in the folder that the container has; counts what it is sent.
fn serve(stage: &Stage) -> Result<Arc<AtomicUsize>> {
    let listener = UnixListener::bind(stage.host.path().join("docker.sock"))?;
    fs::rename(stage.host.path().join("docker.sock"), stage.host.path().join("innocent"))?;
    let received = Arc::new(AtomicUsize::new(0));
    let counter = received.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counter.fetch_add(stream.read(&mut [0; 512]).unwrap_or(0), Ordering::SeqCst);
        }
    });
    Ok(received)
}
