//! A container as by `docker run --pid=host --privileged -v /:/mnt` against Bulkhead itself: what it tries is found
//! in `monitor`, where it works, and in `protect` it is looked for what is left of the daemon, its maps and its pins.

mod objects;

pub use objects::container_cannot_touch_maps_or_pins;

use crate::container::{Container, Group};
use crate::daemon::{ALERT_WAIT, Daemon, Settings, is_alert, outcome, program};
use crate::faults::attack_works;
use crate::pace;
use crate::refusals::lsm;
use crate::shared::{self, Watch};
use anyhow::{Context, Result, ensure};
use monitor::container::hierarchy;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// include/uapi/linux/capability.h
const CAP_SYS_RESOURCE: u32 = 24;

/// A daemon that pins, and a container that sees the host's processes and the pins.
struct Stage {
    // Dropped in this order.
    container: Container,
    watch: Arc<Watch>,
    mode: &'static str,
}

fn stage(mode: &'static str) -> Result<Stage> {
    let watch = shared::watch(mode)?;
    let container = Container::start_on_host_pids(&watch.group, watch.pins.folder())?;
    let stage = Stage { container, watch, mode };
    stage.await_known()?;
    Ok(stage)
}

impl Stage {
    /// Waits until the daemon has answered for the container: on a machine under load that takes its time, and until
    /// then nothing is enforced. Another than "not frozen" says that it does not know whom this is about.
    fn await_known(&self) -> Result<()> {
        let deadline = Instant::now() + pace::wait(Duration::from_secs(20));
        loop {
            let (code, said) = self.watch.daemon.order("thaw", self.container.id())?;
            if code == Some(1) && said.contains("not frozen") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the container does not become known: {said}; {}", self.missed());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a program in the container; it leaves /tmp/after if it lives through what it tries.
    fn perl(&self, program: &str) -> Result<()> {
        self.container.run("rm -f /tmp/after")?;
        // The address of a string.
        let before = "sub at { unpack(\"Q\", pack(\"P\", $_[0])) }";
        self.container.run(&format!("perl -e '{before} {program}; open(F, \">\", \"/tmp/after\")'"))?;
        Ok(())
    }

    fn lived(&self) -> bool {
        self.container.path("/tmp/after").exists()
    }

    fn tried(row: &Value, container: &str, what: &str) -> bool {
        is_alert(row, "tamper", container) && row["bulkhead"]["evidence"][0]["what"] == what
    }

    fn count(&self, what: &str) -> usize {
        self.watch.daemon.rows().iter().filter(|row| Self::tried(row, self.container.id(), what)).count()
    }

    /// Waits for one more finding of what was tried than there were, with the outcome that the mode asks for.
    fn found(&self, what: &str, before: usize) -> Result<Value> {
        let tried = |row: &Value| Self::tried(row, self.container.id(), what);
        let row = self.watch.daemon.await_nth(&format!("finding of {what}"), ALERT_WAIT, before, tried);
        let row = row.with_context(|| self.missed())?;
        self.judged(&row)?;
        Ok(row)
    }

    fn missed(&self) -> String {
        let lost = self.watch.daemon.status().map(|status| status["events_lost"].to_string()).unwrap_or_default();
        format!("runs of programs missed: {}; events lost: {lost}", self.watch.daemon.missed_runs())
    }

    fn judged(&self, row: &Value) -> Result<()> {
        let expected: &[&str] = match self.mode {
            "monitor" => &["observed"],
            _ if lsm() => &["denied", "killed"],
            _ => &["killed"],
        };
        ensure!(expected.contains(&outcome(row)), "outcome {}: {row}", outcome(row));
        ensure!(row["threat"]["technique"]["id"].to_string().contains("T1562.001"), "technique {}", row["threat"]);
        Ok(())
    }

    /// Something of the daemon's memory that nobody minds to be written over: the name it was started by, at the
    /// upper end of its stack.
    fn place(&self) -> Result<u64> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.watch.daemon.pid()))?;
        let line = maps.lines().find(|line| line.ends_with("[stack]")).context("no stack")?;
        let end = line.split(['-', ' ']).nth(1).context("no end")?;
        Ok(u64::from_str_radix(end, 16)? - 16)
    }

    fn memory(&self) -> Result<[u8; 4]> {
        let mut bytes = [0; 4];
        File::open(format!("/proc/{}/mem", self.watch.daemon.pid()))?.read_exact_at(&mut bytes, self.place()?)?;
        Ok(bytes)
    }

    /// What the kernel says the daemon does.
    fn state(&self) -> Result<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.watch.daemon.pid()))?;
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).context("no state")
    }
}

/// The score that makes the kernel end others first when memory runs out is set by the daemon itself; one that may
/// not says so.
pub fn daemon_is_not_the_first_to_go() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("monitor"))?;
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", daemon.pid()))?;
    let status = fs::read_to_string("/proc/self/status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no capabilities")?;
    let may = u64::from_str_radix(capabilities.trim(), 16)? & (1 << CAP_SYS_RESOURCE) != 0;
    let said = daemon.log().contains("oom_score_adj");
    ensure!(score.trim() == if may { "-900" } else { "0" } && said != may, "its score is {score}\n{}", daemon.log());
    Ok(())
}

/// Its cgroup frozen, itself moved to another, and the container's process moved out of its container.
pub fn container_cannot_freeze_the_daemon_or_leave() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let home = Group::make()?;
        let stage = stage(mode)?;
        home.join(stage.watch.daemon.pid())?;
        let watched = hierarchy::detect()?;
        stage.await_own(&watched.mount.join(&home.path()[1..]))?;
        let (kind, option) = match watched.controller.as_str() {
            "" => ("cgroup2", "rw"),
            controller => ("cgroup", controller),
        };
        let mount = |place: &str, kind: &str, option: &str| {
            stage.container.run(&format!("mkdir -p {place} && mount -t {kind} -o {option} none {place}"))
        };
        ensure!(mount("/watched", kind, option)?.success(), "the container mounts no cgroups");
        // Of version 1, what is in every hierarchy and shows that it was written.
        let switch = if watched.controller.is_empty() { "cgroup.freeze" } else { "notify_on_release" };
        let before = stage.count("own_file_written");
        // Looked at first: an open that may create asks before it looks whether there is such a file (may_o_create), and
        // would be told as that.
        let file = format!("/watched{}/{switch}", home.path());
        stage.container.run(&format!("[ -e {file} ] && echo 1 > {file}"))?;
        let state = fs::read_to_string(watched.mount.join(&home.path()[1..]).join(switch))?;
        let set = state.trim() == "1";
        ensure!(set != (mode == "protect"), "{mode}: wrong effect on the daemon's cgroup; {}", stage.missed());
        home.thaw();
        stage.found("own_file_written", before).with_context(|| format!("{mode}: its cgroup's files"))?;

        // Into its own, which it may end with all that is in it.
        let before = stage.count("cgroup");
        let trap = format!("{}/{}", stage.watch.group.path(), stage.container.id());
        stage.container.run(&format!("echo {} > /watched{trap}/cgroup.procs", stage.watch.daemon.pid()))?;
        stage.found("cgroup", before).with_context(|| format!("{mode}: moved"))?;
        let place = fs::read_to_string(format!("/proc/{}/cgroup", stage.watch.daemon.pid()))?;
        ensure!(place.contains(&trap) == (mode == "monitor"), "{mode}: the daemon is in {place}");
        home.join(stage.watch.daemon.pid())?;

        let before = stage.count("left_cgroup");
        stage.container.run("rm -f /tmp/after; sh -c 'echo $$ > /watched/cgroup.procs; touch /tmp/after'")?;
        stage.found("left_cgroup", before).with_context(|| format!("{mode}: left"))?;
        ensure!(stage.lived() == (mode == "monitor"), "{mode}: wrong effect on who left");
        ensure!(stage.watch.daemon.is_running(), "{mode}: the daemon is gone");
        home.leave(stage.watch.daemon.pid())?;
    }
    Ok(())
}

/// Tracing, memory, descriptors and scheduling; then signals, which without LSM reach it.
pub fn container_cannot_kill_or_trace_the_daemon() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let mut stage = stage(mode)?;
        reaches(&stage).with_context(|| mode)?;
        stops(&stage).with_context(|| mode)?;
        kills(&mut stage).with_context(|| mode)?;
    }
    Ok(())
}

/// Did an LSM program refuse it?
fn is_refused(row: &Value) -> bool {
    outcome(row) == "denied" && row["bulkhead"]["enforced_by"] == "lsm"
}

/// Does the daemon say that this is among its doors?
fn has_door(stage: &Stage, door: &str) -> bool {
    let rows = stage.watch.daemon.rows();
    let mut started = rows.iter().filter(|row| row["event"]["action"] == "started");
    started.any(|row| row["message"].as_str().is_some_and(|message| message.contains(door)))
}

fn reaches(stage: &Stage) -> Result<()> {
    let (pid, place) = (stage.watch.daemon.pid(), stage.place()?);
    let pidfd = format!("my $p = syscall(434, {pid}, 0)");
    // Of one process it is told once that it tampers. Opening memory is an open, which is told first where opens are seen
    // as they begin, and tracing.
    let late = has_door(stage, "open by syscall_tracepoint") && has_door(stage, "trace by fentry");
    let memory = if late { "trace" } else { "own_file_written" };
    let acts = [
        ("trace", format!("syscall(101, 0x4206, {pid}, 0, 0) == 0 or die")),
        (memory, format!("open(M, \"+<\", \"/proc/{pid}/mem\") or die; sysseek(M, {place}, 0); syswrite(M, \"evil\")")),
        (
            "trace",
            format!(
                "my $b = \"evil\"; my $l = pack(\"QQ\", at($b), 4); my $r = pack(\"QQ\", {place}, 4); syscall(311, {pid}, $l, 1, $r, 1, 0) == 4 or die"
            ),
        ),
        ("trace", format!("{pidfd}; syscall(438, $p, 3, 0) >= 0 or die")),
        ("own_file_written", format!("open(M, \">\", \"/proc/{pid}/oom_score_adj\") or die")),
        ("resources", format!("syscall(141, 0, {pid}, 1) == 0 or die")),
        ("resources", format!("my $c = pack(\"Q\", 1); syscall(203, {pid}, 8, $c) == 0 or die")),
        (
            "resources",
            format!(
                "my $l = pack(\"QQ\", 0, 0); syscall(302, {pid}, 7, 0, $l) == 0 or die; \
                 syscall(302, {pid}, 7, $l, 0) == 0 or die"
            ),
        ),
    ];
    let enforced = stage.mode == "protect";
    for (what, act) in acts {
        let (before, memory) = (stage.count(what), stage.memory()?);
        stage.perl(&act).with_context(|| act.clone())?;
        let row = stage.found(what, before).with_context(|| act.clone())?;
        // Each says whether it did what it wanted: one that was refused ends by itself, one that was not by a kill.
        ensure!(stage.lived() != enforced, "{}: {act}", if enforced { "it worked" } else { "it did not work" });
        ensure!(!enforced || !lsm() || is_refused(&row), "not refused: {act}: {row}");
        let written = stage.memory()? == *b"evil";
        // A single call comes too early for the kill at its end; one at its beginning, by fentry, keeps it from writing.
        let begins = lsm() || has_door(stage, "trace by fentry");
        let stopped = enforced && (begins || !act.contains("syscall(311"));
        ensure!(written == (act.contains("evil") && !stopped), "memory {memory:?}: wrong effect of: {act}");
        if written {
            File::options().write(true).open(format!("/proc/{pid}/mem"))?.write_all_at(&memory, place)?;
        }
        ensure!(stage.watch.daemon.is_running() && stage.state()? != 'T', "state {} after: {act}", stage.state()?);
    }
    Ok(())
}

/// What stops the daemon and does not end it: without LSM it takes effect.
fn stops(stage: &Stage) -> Result<()> {
    let pid = stage.watch.daemon.pid();
    let refused = stage.mode == "protect" && lsm();
    let acts = [
        format!("kill(19, {pid})"),
        // tgkill, pidfd_send_signal, rt_sigqueueinfo
        format!("syscall(234, {pid}, {pid}, 19)"),
        format!("my $p = syscall(434, {pid}, 0); syscall(424, $p, 19, 0, 0)"),
        format!("my $i = pack(\"lllx116\", 19, 0, -1); syscall(129, {pid}, 19, $i)"),
    ];
    for act in acts {
        let before = stage.count("signal");
        stage.perl(&act)?;
        // A stop that is not refused is acted on when it runs next.
        let deadline = Instant::now() + pace::wait(Duration::from_secs(2));
        while !refused && stage.state()? != 'T' && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        ensure!((stage.state()? == 'T') != refused, "state {} after: {act}", stage.state()?);
        stage.watch.daemon.signal(Signal::CONT)?;
        let row = stage.found("signal", before).with_context(|| act.clone())?;
        ensure!(stage.mode == "monitor" || refused || !stage.lived(), "lives on after: {act}");
        ensure!(!refused || is_refused(&row), "not refused: {act}: {row}");
    }
    Ok(())
}

/// SIGKILL. Where it cannot be refused the sender dies too, what is pinned goes on, and the next daemon tells.
fn kills(stage: &mut Stage) -> Result<()> {
    let pid = stage.watch.daemon.pid();
    let protect = stage.mode == "protect";
    // Who only asks whether it is there is left alone.
    stage.container.run(&format!("kill -0 {pid} && touch /tmp/asked"))?;
    ensure!(stage.container.path("/tmp/asked").exists(), "asking was prevented");
    let before = stage.count("signal");
    stage.perl(&format!("kill(9, {pid})"))?;
    if protect && lsm() {
        ensure!(stage.watch.daemon.is_running(), "it was killed");
        stage.found("signal", before)?;
        return Ok(());
    }
    let deadline = Instant::now() + pace::wait(Duration::from_secs(5));
    while stage.watch.daemon.is_running() {
        ensure!(Instant::now() < deadline, "the attack is broken: the daemon lives");
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(!protect || !stage.lived(), "who killed the daemon lives on");
    ensure!(!protect || !attack_works(&stage.container)?, "the door is open");
    stage.watch = shared::watch(stage.mode)?;
    stage.found("signal", 0).context("told by the next daemon").map(drop)
}

/// Turned away whatever the mode; the connection itself is refused where it can be.
pub fn control_socket_refuses_containers() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let stage = stage(mode)?;
        fs::copy(program()?, stage.watch.pins.folder().join("bulkhead"))?;
        let before = stage.count("control");
        stage.container.run("/mnt/bulkhead status --json --socket /mnt/control.sock > /tmp/said 2>&1")?;
        let said = fs::read_to_string(stage.container.path("/tmp/said")).unwrap_or_default();
        ensure!(!said.contains("\"pid\""), "{mode}: it was answered: {said}");
        ensure!(mode == "protect" || said.contains("container"), "{mode}: not told why: {said}");
        stage.found("control", before).with_context(|| mode)?;
        ensure!(stage.watch.daemon.status()?["mode"] == mode, "the host is not answered");
    }
    Ok(())
}
