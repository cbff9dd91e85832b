//! Connections of a baseline in `protect`: what it does not have never leaves the machine's own kernel.

use crate::baselines::{Play, job, play_with};
use crate::container::{Container, Group};
use crate::daemon::outcome;
use crate::lab::Peer;
use crate::pace;
use crate::restart::Bpffs;
use crate::shared;
use anyhow::{Context, Result, ensure};
use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

/// From each of [`TASKS`] at once, on a host.
const TIMES: usize = 100;
const TASKS: usize = 4;

fn times() -> usize {
    pace::times(TIMES)
}

/// Any program, and these connections.
fn baseline(connects: &[(&str, &str, u16, &str)]) -> String {
    let mut text = String::from("image = \"play:1\"\nmode = \"protect\"\n");
    for form in ["", "text = \"argument\"\n", "text = \"script\"\n", "text = \"stdin\"\n"] {
        text += &format!("[[exec]]\nparent = \"*\"\nexe = \"*\"\n{form}");
    }
    for (exe, to, port, protocol) in connects {
        text += &format!("[[connect]]\nexe = \"{exe}\"\nto = \"{to}\"\nport = \"{port}\"\nprotocol = \"{protocol}\"\n");
    }
    text
}

/// Connects and says something, by what bash has built in; where that fails, `/tmp/FAILED` gets a byte.
fn say(kind: &str, port: u16, failed: &str) -> String {
    format!("(exec 3<>/dev/{kind}/127.0.0.1/{port} && echo hello >&3) 2> /dev/null || printf x >> /tmp/{failed}")
}

/// As often as that, from as many tasks at once.
fn often(command: &str) -> String {
    let times = times();
    let round = format!("i=0; while [ $i -lt {times} ]; do {command}; i=$((i+1)); done");
    format!("bash -c 'for t in $(seq {TASKS}); do ({round}) & done; wait'")
}

/// Somebody who waits for connections and takes none.
struct Silent(TcpListener);

impl Silent {
    fn in_container(container: &Container) -> Result<Self> {
        let listener = container.listen()?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    fn port(&self) -> Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// How many handshakes were completed with it.
    fn reached(&self) -> usize {
        std::iter::from_fn(|| self.0.accept().ok()).count()
    }
}

fn length(container: &Container, path: &str) -> u64 {
    std::fs::metadata(container.path(path)).map_or(0, |meta| meta.len())
}

fn received(socket: &UdpSocket) -> usize {
    let mut bytes = [0; 64];
    std::iter::from_fn(|| socket.recv(&mut bytes).ok()).count()
}

fn play(group: Group, containers: [Container; 2]) -> Result<Play> {
    play_with(group, containers, "runtime_exec = \"deny\"", Some(shared::pins()?.pins("keep")))
}

/// By another port, by another program, by another protocol, by the second datagram of a socket: not a byte leaves, and
/// what the baseline has works each time. What it has by name is let pass on its port, and told.
pub fn unexpected_connections_never_leave() -> Result<()> {
    let group = Group::make()?;
    let containers = [Container::start(&group)?, Container::start(&group)?];
    let play = play(group, containers)?;
    let [one, two] = &play.containers;
    let good = Peer::shell(one.listen()?, "", pace::wait(Duration::from_secs(2)))?;
    let (other, named) = (Silent::in_container(one)?, Silent::in_container(one)?);
    let [told, secret] = [one.listen_udp()?, one.listen_udp()?];
    let (told_port, secret_port) = (told.local_addr()?.port(), secret.local_addr()?.port());
    play.write(&baseline(&[
        ("/usr/bin/bash", "127.0.0.0/8", good.port, "tcp"),
        ("/usr/bin/perl", "127.0.0.1", told_port, "udp"),
        ("/usr/bin/perl", "api.play.example", named.port()?, "tcp"),
    ]))?;

    one.run(&often(&say("tcp", other.port()?, "refused")))?;
    ensure!(other.reached() == 0, "a connection got through");
    ensure!(length(one, "/tmp/refused") == (times() * TASKS) as u64, "{} were refused", length(one, "/tmp/refused"));
    let alert = play.daemon.await_alert("baseline_connect", one.id())?;
    ensure!(outcome(&alert) == "denied", "outcome {}: {}", outcome(&alert), alert["message"]);
    ensure!(alert["bulkhead"]["enforced_by"] == "cgroup", "enforced by {}", alert["bulkhead"]["enforced_by"]);

    one.run(&often(&say("tcp", good.port, "failed")))?;
    ensure!(length(one, "/tmp/failed") == 0, "{} of what it has failed", length(one, "/tmp/failed"));
    let whole = times() * TASKS * "hello\n".len();
    let until = Instant::now() + pace::wait(Duration::from_secs(5));
    while good.received() < whole && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(good.received() == whole, "{} of {whole} bytes came", good.received());

    let perl = |port: u16| {
        format!(
            "perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); \
             connect(S, sockaddr_in({port}, INADDR_LOOPBACK)) or die; syswrite(S, \"x\")'"
        )
    };
    ensure!(!one.run(&perl(good.port))?.success(), "another program connects");
    one.run(&format!("bash -c '{}'", say("udp", secret_port, "datagrams")))?;
    let both = format!(
        "perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0); \
         for my $p ({told_port}, {secret_port}, {told_port}) {{ send(S, \"x\", 0, sockaddr_in($p, INADDR_LOOPBACK)) }}'"
    );
    one.run(&both)?;
    ensure!(received(&told) == 2, "datagrams that the baseline has do not arrive");
    ensure!(received(&secret) == 0, "a datagram got through");

    ensure!(one.run(&perl(named.port()?))?.success(), "what may have the name is refused");
    ensure!(named.reached() == 1, "it did not arrive");
    play.daemon.await_row("the one by name", pace::wait(Duration::from_secs(8)), |row| {
        row["event"]["action"] == "baseline_connect" && row["bulkhead"]["outcome"] == "observed"
    })?;

    // The same profile, another container.
    let far = Silent::in_container(two)?;
    two.run(&format!("bash -c '{}'", say("tcp", far.port()?, "refused")))?;
    ensure!(far.reached() == 0 && length(two, "/tmp/refused") == 1, "a connection got through");
    Ok(())
}

/// The service itself is held to it, with the daemon and without; a session from outside is told of only.
pub fn connections_are_held_without_a_daemon() -> Result<()> {
    let (group, pins) = (Group::make()?, Bpffs::mount()?);
    let service = "bash -c 'while :; do if [ -e /job ]; then . /job; rm /job; fi; sleep 0.2; done'";
    let containers = [Container::start_as(&group, service)?, Container::start(&group)?];
    let mut play = play_with(group, containers, "", Some(pins.pins("keep")))?;
    let container = &play.containers[0];
    let good = Peer::shell(container.listen()?, "", pace::wait(Duration::from_secs(2)))?;
    let evil = Silent::in_container(container)?;
    play.write(&baseline(&[("/usr/bin/bash", "127.0.0.1", good.port, "tcp")]))?;
    let both = format!("{}; {}", say("tcp", evil.port()?, "refused"), say("tcp", good.port, "failed"));
    job(container, &both)?;
    ensure!(evil.reached() == 0 && length(container, "/tmp/refused") == 1, "a connection got through");
    ensure!(length(container, "/tmp/failed") == 0, "what it has is refused");
    let session = format!("bash -c '{}'", say("tcp", evil.port()?, "session"));
    container.run(&session)?;
    ensure!(evil.reached() == 1 && length(container, "/tmp/session") == 0, "a session from outside was held to it");

    play.daemon.kill_9().context("kill the daemon")?;
    let container = &play.containers[0];
    job(container, &both)?;
    ensure!(evil.reached() == 0 && length(container, "/tmp/refused") == 2, "it ended with the daemon");
    ensure!(length(container, "/tmp/failed") == 0, "what it has is refused");
    Ok(())
}
