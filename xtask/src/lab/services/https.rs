//! HTTPS on 8443: the web server behind one `openssl s_server` for each connection, which speaks TLS with the client and
//! hands over in clear what it says.

use super::super::engine::Engine;
use super::super::process;
use super::http;
use super::session::Session;
use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs;
use std::io::{self, copy};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Where it listens.
pub const PORT: u16 = 8443;

/// How long openssl may take to begin.
const START: Duration = Duration::from_secs(20);

/// Key, certificate, and a place for sockets.
pub struct Https {
    folder: PathBuf,
    connections: AtomicU64,
}

impl Https {
    /// Makes a certificate of its own.
    pub fn prepare(engine: &Engine) -> Result<Self> {
        let folder = engine.run_dir().join("https");
        fs::create_dir_all(&folder).context("making the HTTPS server's folder")?;
        process::must(
            Command::new("openssl")
                // Not RSA: to find its primes takes an emulated processor minutes.
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-nodes", "-days", "2"])
                .args(["-subj", "/CN=attacker", "-addext", "subjectAltName=DNS:attacker"])
                .arg("-keyout")
                .arg(folder.join("key.pem"))
                .arg("-out")
                .arg(folder.join("cert.pem")),
            engine.patient(Duration::from_secs(30)),
            engine.interrupt(),
        )?;
        Ok(Self { folder, connections: AtomicU64::new(0) })
    }

    /// Speaks with one client.
    pub fn serve(&self, stream: TcpStream, session: &Session) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let socket = self.folder.join(number.to_string());
        let Ok(mut tls) = self.terminator(&socket) else { return };
        // A client that is gone, or speaks no TLS, is nobody's trouble.
        let _gone = relay(&mut tls, stream, &socket, session);
        process::terminate(&mut tls, Duration::from_secs(2));
        let _absent = fs::remove_file(&socket);
    }

    fn terminator(&self, socket: &Path) -> io::Result<Child> {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-naccept", "1", "-unix"]).arg(socket);
        command.arg("-key").arg(self.folder.join("key.pem")).arg("-cert").arg(self.folder.join("cert.pem"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: one system call, and nothing of the parent's is touched. It ends with this thread, also if the lab is killed.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        command.spawn()
    }
}

/// The client's bytes to and from openssl, as they are; what is in them, to and from the web server.
fn relay(tls: &mut Child, client: TcpStream, socket: &Path, session: &Session) -> io::Result<()> {
    let (Some(said), Some(answer)) = (tls.stdout.take(), tls.stdin.take()) else { return Ok(()) };
    let server = connect(socket)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut from_server, mut to_client) = (server, client);
    thread::spawn(move || {
        let _gone = copy(&mut from_client, &mut to_server);
        let _gone = to_server.shutdown(Shutdown::Write);
    });
    let back = thread::spawn(move || {
        let _gone = copy(&mut from_server, &mut to_client);
        let _gone = to_client.shutdown(Shutdown::Both);
    });
    http::exchange(said, answer, session)?;
    // Nothing more to say: openssl closes, and with it both directions.
    let _panicked = back.join();
    Ok(())
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let end = Instant::now() + START;
    loop {
        match UnixStream::connect(socket) {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
}
