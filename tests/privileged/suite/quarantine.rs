//! Quarantine: established streams, made before the daemon was there, are cut, and new ones refused, until
//! it is released. On a host as each of the three kinds shows itself to the daemon; for a container with a
//! network namespace of its own and for one with the host's.

use crate::container::{Cgroup, Container, Group, mounts};
use crate::daemon::{Daemon, Settings};
use crate::pace;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is promised.
const LIMIT: Duration = Duration::from_millis(100);
/// How long it must be silent after that.
const SILENCE: Duration = Duration::from_millis(900);

/// Between two packets of a stream, on a host.
const INTERVAL: Duration = Duration::from_millis(2);
/// Connects and sends a few bytes again and again.
const SENDER: &str = r#"use IO::Socket::INET; my ($a, $p, $proto) = @ARGV;
my $s = IO::Socket::INET->new(PeerAddr => $a, PeerPort => $p, Proto => $proto) or exit 3;
while (1) { my $n = syswrite $s, "x" x 64; exit 4 if !$n && $proto eq "tcp"; select undef, undef, undef, @INTERVAL@ }"#;
/// Accepts, and sends the same to everybody who calls.
const SERVER: &str = r#"use IO::Socket::INET; my ($p) = @ARGV; $SIG{CHLD} = "IGNORE";
my $l = IO::Socket::INET->new(LocalPort => $p, Listen => 5, ReuseAddr => 1) or exit 3;
while (my $s = $l->accept) { next if fork; while (1) { syswrite($s, "x" x 64) or exit 4; select undef, undef, undef, @INTERVAL@ } }"#;
/// Connects: 0 if that worked, 3 if not.
const CALLER: &str = r#"use IO::Socket::INET; my ($a, $p) = @ARGV;
exit(IO::Socket::INET->new(PeerAddr => $a, PeerPort => $p, Proto => "tcp", Timeout => 2) ? 0 : 3)"#;
/// Sends an ICMP echo request by a raw socket: 0 if an answer comes within a second, 3 if not.
const PINGER: &str = r#"use Socket; my ($a) = @ARGV; $SIG{ALRM} = sub { exit 3 }; alarm 1;
socket(my $s, PF_INET, SOCK_RAW, 1) or exit 5;
send($s, pack("CCnnn", 8, 0, 0xf7fe, 1, 0), 0, sockaddr_in(0, inet_aton($a))) or exit 3;
while (recv $s, my $r, 999, 0) { exit 0 if unpack("x20C", $r) == 0 } exit 3"#;

/// How a host's cgroups are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    V1,
    Hybrid,
    V2,
}

impl Layout {
    /// Hierarchies a runtime makes containers in on such a host.
    fn group(self) -> Result<Group> {
        let unified = |mount: &PathBuf| mount.join("cgroup.controllers").exists();
        let all = mounts()?;
        let here: Vec<PathBuf> = match self {
            Self::V1 => all.into_iter().filter(|mount| !unified(mount)).collect(),
            Self::Hybrid => all,
            Self::V2 => all.into_iter().filter(unified).collect(),
        };
        ensure!(!here.is_empty(), "this host has no such hierarchy");
        Group::make_in(&here)
    }

    /// Lets the daemon see only those.
    fn prelude(self) -> String {
        let hide =
            |kind: &str| format!("for m in $(awk '$3 == \"{kind}\" {{print $2}}' /proc/mounts); do umount $m; done");
        match self {
            Self::V1 => hide("cgroup2"),
            Self::Hybrid => String::new(),
            Self::V2 => hide("cgroup"),
        }
    }
}

/// What arrives at the harness's end of a stream.
#[derive(Clone)]
struct Arrivals {
    bytes: Arc<AtomicU64>,
    last: Arc<Mutex<Instant>>,
    what: &'static str,
}

impl Arrivals {
    fn new(what: &'static str) -> Self {
        Self { bytes: Arc::default(), last: Arc::new(Mutex::new(Instant::now())), what }
    }

    fn note(&self, count: usize) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.bytes.fetch_add(count as u64, Ordering::SeqCst);
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a TCP stream in a thread that ends with it, or with the process.
    fn read(&self, mut stream: TcpStream) {
        let arrivals = self.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                arrivals.note(count);
            }
        });
    }

    fn await_flow(&self) -> Result<()> {
        let deadline = Instant::now() + pace::wait(Duration::from_secs(5));
        while self.bytes.load(Ordering::SeqCst) < 640 {
            ensure!(Instant::now() < deadline, "{}: nothing arrives", self.what);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A container and how its processes are started.
enum Subject {
    /// With a network namespace of its own, and a wire to the host.
    Own(Container, &'static str),
    /// With the host's.
    Host(Cgroup),
}

/// Ends what it holds.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Subject {
    /// `--network bridge`: a veth pair; its ends go with the container.
    fn own(group: &Group) -> Result<Self> {
        let container = Container::start(group)?;
        let (host, init) = ("bhtq0", container.init().to_string());
        let script = format!(
            "ip link add {host} type veth peer name eth0 netns {init} && ip addr add 198.18.77.1/30 dev {host} && \
             ip link set {host} up && nsenter -t {init} -n ip addr add 198.18.77.2/30 dev eth0 && \
             nsenter -t {init} -n ip link set eth0 up"
        );
        let status = Command::new("sh").args(["-c", &script]).status()?;
        ensure!(status.success(), "the wire was not made");
        Ok(Self::Own(container, host))
    }

    fn id(&self) -> &str {
        match self {
            Self::Own(container, _) => container.id(),
            Self::Host(cgroup) => &cgroup.id,
        }
    }

    /// Addresses: the harness's, and the container's as the harness calls it.
    fn addresses(&self) -> (&'static str, &'static str) {
        match self {
            Self::Own(..) => ("198.18.77.1", "198.18.77.2"),
            Self::Host(_) => ("127.0.0.1", "127.0.0.1"),
        }
    }

    fn perl(&self, script: &str, arguments: &[String]) -> Result<Ends> {
        let script = &script.replace("@INTERVAL@", &pace::wait(INTERVAL).as_secs_f64().to_string());
        let child = match self {
            Self::Own(container, _) => {
                let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
                container.spawn(&format!("exec perl -e '{script}' {}", quoted.join(" ")))?
            }
            Self::Host(cgroup) => {
                let mut argv = vec!["perl", "-e", script];
                argv.extend(arguments.iter().map(String::as_str));
                cgroup.command(&argv).stdin(Stdio::null()).stderr(Stdio::null()).spawn()?
            }
        };
        Ok(Ends(child))
    }

    /// Does a connection of the container's to the harness come about?
    fn can_call(&self, port: u16) -> Result<bool> {
        let arguments = [self.addresses().0.to_owned(), port.to_string()];
        let mut caller = self.perl(CALLER, &arguments)?;
        let status = caller.0.wait()?;
        Ok(status.success())
    }

    /// Does a raw socket of the container's get an answer?
    fn can_ping(&self) -> Result<bool> {
        let status = self.perl(PINGER, &[self.addresses().0.to_owned()])?.0.wait()?;
        ensure!(status.code() != Some(5), "no raw socket");
        Ok(status.success())
    }

    /// And one of the harness's to it?
    fn can_be_called(&self, port: u16) -> Result<bool> {
        let address: SocketAddr = format!("{}:{port}", self.addresses().1).parse()?;
        Ok(TcpStream::connect_timeout(&address, pace::wait(Duration::from_millis(700))).is_ok())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Self::Own(_, host) = self {
            // Fails if it went with the container already.
            let _ = Command::new("ip").args(["link", "del", host]).stderr(Stdio::null()).status();
        }
    }
}

/// The three streams of a test, held by the harness.
struct Streams {
    arrivals: Vec<Arrivals>,
    port: u16,
    served: u16,
    _processes: Vec<Ends>,
}

fn streams(subject: &Subject) -> Result<Streams> {
    let ours = subject.addresses().0;
    let listener = TcpListener::bind((ours, 0))?;
    let port = listener.local_addr()?.port();
    let udp = UdpSocket::bind((ours, 0))?;
    let [outbound, inbound, datagrams] = ["outbound TCP", "inbound TCP", "UDP"].map(Arrivals::new);
    let arguments = |port: u16, kind: &str| [ours.to_owned(), port.to_string(), kind.to_owned()];
    let mut processes = vec![subject.perl(SENDER, &arguments(port, "tcp"))?];
    processes.push(subject.perl(SENDER, &arguments(udp.local_addr()?.port(), "udp"))?);
    outbound.read(listener.accept()?.0);
    std::thread::spawn(move || for _ in listener.incoming() {});
    let counter = datagrams.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count) = udp.recv(&mut bytes) {
            counter.note(count);
        }
    });
    let served = free_port()?;
    processes.push(subject.perl(SERVER, &[served.to_string()])?);
    let deadline = Instant::now() + pace::wait(Duration::from_secs(5));
    let stream = loop {
        match TcpStream::connect((subject.addresses().1, served)) {
            Ok(stream) => break stream,
            Err(error) => ensure!(Instant::now() < deadline, "call the container: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    inbound.read(stream);
    Ok(Streams { arrivals: vec![outbound, inbound, datagrams], port, served, _processes: processes })
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Gives an order straight to the socket: what is measured is the daemon, not the start of a client.
fn order(daemon: &Daemon, order: &str, container: &str) -> Result<(Instant, String)> {
    let mut stream = UnixStream::connect(daemon.socket()).context("call the daemon")?;
    let begun = Instant::now();
    writeln!(stream, r#"{{"cmd":"order","order":"{order}","container":"{container}"}}"#)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    ensure!(answer.contains("\"done\""), "{order} was answered: {answer}\n{}", daemon.log());
    Ok((begun, answer))
}

fn cut(daemon: &Daemon, subject: &Subject, streams: &Streams, by: &str) -> Result<()> {
    streams.arrivals.iter().try_for_each(Arrivals::await_flow)?;
    ensure!(subject.can_call(streams.port)? && subject.can_be_called(streams.served)?, "the stage is broken");

    // A raw socket made later is found by the next look where sockets are cut one by one.
    let raw = by != "sockets";
    ensure!(subject.can_ping()?, "the stage is broken: no answer to a ping");

    let (begun, answer) = order(daemon, "quarantine", subject.id())?;
    let answered = begun.elapsed();
    ensure!(answer.contains(by), "cut by other means than {by}: {answer}");
    let limit = pace::wait(LIMIT);
    std::thread::sleep(limit + SILENCE);
    for arrivals in &streams.arrivals {
        let after = arrivals.last().saturating_duration_since(begun);
        eprintln!("{}: cut {after:?} after the order, answered after {answered:?}; {}", arrivals.what, answer.trim());
        ensure!(after < limit, "{}: bytes arrived {after:?} after the order", arrivals.what);
    }
    ensure!(!raw || !subject.can_ping()?, "a raw socket got out and an answer in");
    ensure!(!subject.can_call(streams.port)?, "a new connection got out");
    ensure!(!subject.can_be_called(streams.served)?, "a new connection got in");
    let status = daemon.status()?;
    ensure!(status["quarantined"].as_array().is_some_and(|list| list.len() == 1), "status: {}", status["quarantined"]);

    order(daemon, "release", subject.id())?;
    ensure!(subject.can_call(streams.port)?, "after the release no connection gets out");
    ensure!(subject.can_be_called(streams.served)?, "after the release no connection gets in");
    for action in ["quarantine", "release"] {
        let rows = daemon.responses_about(action, subject.id());
        ensure!(rows.len() == 1, "{action}: {rows:?}");
        ensure!(rows[0]["bulkhead"]["response"]["asked_by"] == "order", "{rows:?}");
    }
    Ok(())
}

fn cuts_on(layout: Layout, own: &str, host: &str) -> Result<()> {
    let group = layout.group()?;
    let subjects = [
        (Subject::own(&group)?, own, "a network namespace of its own"),
        (Subject::Host(group.cgroup()?), host, "the host's network namespace"),
    ];
    // Before the daemon: nothing in it has seen these sockets made.
    let streams = subjects.iter().map(|(subject, ..)| streams(subject)).collect::<Result<Vec<_>>>()?;
    let daemon = Daemon::start(&group, &Settings { prelude: layout.prelude(), ..Settings::mode("monitor") })?;
    subjects
        .iter()
        .zip(&streams)
        .try_for_each(|((subject, by, what), streams)| cut(&daemon, subject, streams, by).with_context(|| *what))
}

/// Pure cgroup v1: no cgroup v2 holds the container, and the daemon has one mounted for itself.
pub fn quarantine_cuts_on_v1() -> Result<()> {
    cuts_on(Layout::V1, "network namespace", "sockets")
}

/// Both, as here.
pub fn quarantine_cuts_on_hybrid() -> Result<()> {
    cuts_on(Layout::Hybrid, "network namespace", "cgroup v2")
}

/// Pure cgroup v2.
pub fn quarantine_cuts_on_v2() -> Result<()> {
    cuts_on(Layout::V2, "cgroup v2", "cgroup v2")
}
