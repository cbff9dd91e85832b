//! The attacker's side of the wire, in the lab's network: web server, shell listeners, mining pool,
//! name server, echo. Whoever connects is told apart by address, so that each container sees the
//! files and gets the commands of its own scenario.

mod dns;
mod echo;
mod http;
mod https;
mod listen;
mod session;
mod shell;
mod stratum;

pub use session::{Session, Sessions};

use super::engine::Engine;
use anyhow::Result;
use https::Https;
use listen::{Handler, Stop};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Web server: plain HTTP, and the ports of services that scenarios knock at (kubelet, Docker).
const HTTP_PORTS: [u16; 6] = [80, 8080, 8220, 10250, 10255, 2375];

/// Listeners that send `shell.send` and count what they receive.
const SHELL_PORTS: [u16; 4] = [4444, 443, 4443, 1496];

/// Mining pools.
const STRATUM_PORTS: [u16; 3] = [3333, 14444, 5555];

/// Accepts and says nothing, as a database does until it is spoken to.
const SILENT_PORTS: [u16; 2] = [5432, 6379];

/// UDP echo.
const ECHO_PORT: u16 = 5353;

/// DNS over UDP.
const DNS_PORT: u16 = 53;

/// The running services; they end when this is dropped.
pub struct Services {
    sessions: Sessions,
    /// Absent where the machine has no openssl.
    https: Option<Https>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Services {
    /// Binds every port inside the lab's network.
    pub fn start(engine: &Engine) -> Result<Self> {
        let sessions = Sessions::default();
        let stop = Stop::default();
        let (given, ending) = (sessions.clone(), stop.clone());
        let threads = engine.network().inside(move || spawn(&given, &ending))??;
        let https = Https::start(engine).inspect_err(|error| eprintln!("lab: no HTTPS: {error:#}")).ok();
        Ok(Self { sessions, https, stop, threads })
    }

    /// `addresses` get what `session` gives out; its files are also those of the HTTPS server, which
    /// does not tell its clients apart.
    pub fn open(&self, addresses: &[IpAddr], session: &Arc<Session>) -> Result<()> {
        self.sessions.open(addresses, session);
        self.https.as_ref().map_or(Ok(()), |https| https.publish(&session.serve))
    }

    /// Who is served what.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

fn spawn(sessions: &Sessions, stop: &Stop) -> Result<Vec<JoinHandle<()>>> {
    let groups: [(&[u16], Handler); 4] = [
        (&HTTP_PORTS, Arc::new(http::serve)),
        (&SHELL_PORTS, Arc::new(shell::serve)),
        (&STRATUM_PORTS, Arc::new(stratum::serve)),
        (&SILENT_PORTS, Arc::new(shell::swallow)),
    ];
    let mut threads = Vec::new();
    for (ports, handler) in groups {
        for port in ports {
            threads.push(listen::tcp(*port, Arc::clone(&handler), sessions.clone(), stop.clone())?);
        }
    }
    threads.push(listen::udp(ECHO_PORT, echo::answer, stop.clone())?);
    threads.push(listen::udp(DNS_PORT, dns::answer, stop.clone())?);
    Ok(threads)
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.set();
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
