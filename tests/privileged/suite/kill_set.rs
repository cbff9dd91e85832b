//! Killing a set that forks faster than it can be killed.

use crate::container::{Container, Group};
use crate::daemon::{Daemon, Settings, outcome};
use crate::lab::Peer;
use anyhow::{Result, ensure};
use std::fs;
use std::time::{Duration, Instant};

/// Generations of the chain; it ends by itself after them.
const GENERATIONS: u32 = 2000;

/// Logs in at a mining pool, and from then on lives for one fork at a time: every generation leaves its
/// number, makes the next in a session of its own and exits.
const CHAIN: &str = r#"use IO::Socket::INET; use POSIX ();
my ($p, $n) = @ARGV;
my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $p, Proto => "tcp") or exit 3;
syswrite $s, qq({"id":1,"method":"login","params":{"login":"4tester","pass":"x","agent":"XMRig/6.0"}}\n);
open my $f, ">", "/tmp/generation";
for my $i (1 .. $n) {
    my $child = fork;
    POSIX::_exit(0) if !defined $child || $child;
    POSIX::setsid();
    sysseek $f, 0, 0; syswrite $f, sprintf "%08d", $i;
}
open my $done, ">", "/tmp/finished";"#;

/// The chain ends where it was when the miner was found, however fast it forks.
pub fn a_set_cannot_outrun_the_killer() -> Result<()> {
    for mode in ["monitor", "protect"] {
        let group = Group::make()?;
        let daemon = Daemon::start(&group, &Settings::mode(mode))?;
        let container = Container::start(&group)?;
        let peer = Peer::shell(container.listen()?, "", Duration::from_secs(20))?;
        let begun = Instant::now();
        container.run(&format!("perl -e '{CHAIN}' {} {GENERATIONS}", peer.port))?;
        let alert = daemon.await_alert("miner", container.id())?;
        let generation = || fs::read_to_string(container.path("/tmp/generation")).unwrap_or_default();
        let finished = || container.path("/tmp/finished").exists();
        let reached = loop {
            let before = generation();
            std::thread::sleep(Duration::from_secs(2));
            if finished() || generation() == before {
                break generation();
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "the chain does not end");
        };
        let finished = finished();
        eprintln!("{mode}: {reached} of {GENERATIONS} generations, finished: {finished}, outcome {}", outcome(&alert));
        ensure!(finished == (mode == "monitor"), "{mode}: generation {reached}; {}", alert["bulkhead"]);
        if mode == "protect" {
            let row = daemon.await_response("kill")?;
            eprintln!("{}", row["message"]);
            ensure!(row["bulkhead"]["response"]["asked_by"] == "finding", "{row}");
            ensure!(container.run("true")?.success(), "the rest of the container was killed too");
        }
    }
    Ok(())
}
