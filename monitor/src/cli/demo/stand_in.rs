//! The attacker's side: a listener that types a command into whatever shell connects, and a web server with one
//! script. They listen on the loopback address of the container's own network, and count.

use super::error::{DemoError, Doing as _};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The listener for reverse shells.
pub(super) const SHELL_PORT: u16 = 4444;
/// The web server.
pub(super) const WEB_PORT: u16 = 8080;
/// What the listener types; the file tells that it was carried out.
pub(super) const SHELL_MARKER: &str = "/tmp/bulkhead-demo-shell";
/// What the script on the web server makes.
pub(super) const SCRIPT_MARKER: &str = "/tmp/bulkhead-demo-script";

/// How long a connection is listened to.
const CONVERSATION: Duration = Duration::from_secs(2);
/// How often is looked whether the end has come.
const BREATH: Duration = Duration::from_millis(10);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// The listener.
    Shell,
    /// The web server.
    Web,
}

/// What went over a service.
#[derive(Debug, Default)]
struct Tally {
    connections: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// A reading of a service's tally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Connections accepted.
    pub(super) connections: u64,
    /// Bytes received.
    pub(super) received: u64,
    /// Bytes sent.
    pub(super) sent: u64,
}

/// Ended when dropped.
#[derive(Debug)]
pub(super) struct StandIn {
    stop: Arc<AtomicBool>,
    shell: Arc<Tally>,
    web: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

impl StandIn {
    /// Starts both in the network namespace of process `pid`.
    pub(super) fn start(pid: u32) -> Result<Self, DemoError> {
        let listen = move || listeners(pid);
        // A namespace belongs to a thread: this one enters it, binds the sockets and ends.
        let bound =
            thread::Builder::new().name("stand-in".into()).spawn(listen).doing(|| "start a thread".to_owned())?;
        let bound = bound.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        let (shell, web) = bound.doing(|| "listen in the container's network".to_owned())?;
        let mut stand_in =
            Self { stop: Arc::default(), shell: Arc::default(), web: Arc::default(), threads: Vec::new() };
        let (shell_tally, web_tally) = (stand_in.shell.clone(), stand_in.web.clone());
        stand_in.serve(shell, shell_tally, talk_to_shell)?;
        stand_in.serve(web, web_tally, talk_http)?;
        Ok(stand_in)
    }

    fn serve(
        &mut self,
        listener: TcpListener,
        tally: Arc<Tally>,
        talk: fn(&mut TcpStream, &Tally, &AtomicBool) -> io::Result<()>,
    ) -> Result<(), DemoError> {
        let stop = self.stop.clone();
        let body = move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(BREATH);
                    continue;
                };
                tally.connections.fetch_add(1, Ordering::Relaxed);
                // A peer that was killed resets the connection: that is what is being shown.
                let _ = talk(&mut stream, &tally, &stop);
            }
        };
        let thread =
            thread::Builder::new().name("stand-in".into()).spawn(body).doing(|| "start a thread".to_owned())?;
        self.threads.push(thread);
        Ok(())
    }

    /// What went over a service so far.
    pub(super) fn count(&self, service: Option<Service>) -> Count {
        let tally = match service {
            Some(Service::Shell) => &self.shell,
            Some(Service::Web) => &self.web,
            None => return Count::default(),
        };
        Count {
            connections: tally.connections.load(Ordering::Relaxed),
            received: tally.received.load(Ordering::Relaxed),
            sent: tally.sent.load(Ordering::Relaxed),
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listeners(pid: u32) -> io::Result<(TcpListener, TcpListener)> {
    setns(File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
    let bind = |port| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        io::Result::Ok(listener)
    };
    Ok((bind(SHELL_PORT)?, bind(WEB_PORT)?))
}

/// Types one command and `exit`, and counts what comes back.
fn talk_to_shell(stream: &mut TcpStream, tally: &Tally, stop: &AtomicBool) -> io::Result<()> {
    let typed = format!("touch {SHELL_MARKER}\nexit\n");
    stream.write_all(typed.as_bytes())?;
    add(&tally.sent, typed.len());
    read_until(stream, tally, stop, |_| false)
}

/// Answers any request with the script.
fn talk_http(stream: &mut TcpStream, tally: &Tally, stop: &AtomicBool) -> io::Result<()> {
    read_until(stream, tally, stop, |request| request.windows(4).any(|end| end == b"\r\n\r\n"))?;
    let script = format!("#!/bin/sh\ntouch {SCRIPT_MARKER}\n");
    let head = format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", script.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(script.as_bytes())?;
    add(&tally.sent, head.len() + script.len());
    Ok(())
}

/// Reads until `enough`, the end of the stream, the end of patience or the end of the demo.
fn read_until(
    stream: &mut TcpStream,
    tally: &Tally,
    stop: &AtomicBool,
    enough: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    stream.set_read_timeout(Some(BREATH))?;
    let deadline = Instant::now() + CONVERSATION;
    let (mut all, mut buffer) = (Vec::new(), [0_u8; 1024]);
    while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                add(&tally.received, length);
                all.extend(buffer.iter().take(length));
                if enough(&all) {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}
