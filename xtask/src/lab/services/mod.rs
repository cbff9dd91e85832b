//! The attacker's side of the wire, in the lab's network: web server, shell listeners, mining pool,
//! name server, echo. Whoever connects is told apart by address, so that each container sees the
//! files and gets the commands of its own scenario.

mod dns;
mod echo;
mod http;
mod https;
mod listen;
mod ports;
mod session;
mod shell;
mod stratum;

pub use ports::{Ports, Service};
pub use session::{Session, Sessions};

use super::engine::Engine;
use anyhow::Result;
use https::Https;
use listen::{Handler, Stop};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

/// DNS over UDP.
const DNS_PORT: u16 = 53;

/// The running services; they end when this is dropped.
pub struct Services {
    sessions: Sessions,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Services {
    /// Binds every one of `ports` inside the lab's network.
    pub fn start(engine: &Engine, ports: &Ports) -> Result<Self> {
        let sessions = Sessions::default();
        let stop = Stop::default();
        let (given, ending, ports) = (sessions.clone(), stop.clone(), ports.clone());
        // Absent where the machine has no openssl.
        let https = Https::prepare(engine).inspect_err(|error| eprintln!("lab: no HTTPS: {error:#}")).ok();
        let threads = engine.network().inside(move || spawn(&ports, https, &given, &ending))??;
        Ok(Self { sessions, stop, threads })
    }

    /// `addresses` get what `session` gives out.
    pub fn open(&self, addresses: &[IpAddr], session: &Arc<Session>) {
        self.sessions.open(addresses, session);
    }

    /// Who is served what.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

fn spawn(ports: &Ports, https: Option<Https>, sessions: &Sessions, stop: &Stop) -> Result<Vec<JoinHandle<()>>> {
    let groups: [(Service, Handler); 4] = [
        (Service::Http, Arc::new(http::serve)),
        (Service::Shell, Arc::new(shell::serve)),
        (Service::Stratum, Arc::new(stratum::serve)),
        (Service::Silent, Arc::new(shell::swallow)),
    ];
    let mut threads = Vec::new();
    for (service, handler) in groups {
        for port in ports.all(service) {
            threads.push(listen::tcp(port, Arc::clone(&handler), sessions.clone(), stop.clone())?);
        }
    }
    if let Some(https) = https {
        let handler: Handler = Arc::new(move |stream, session| https.serve(stream, session));
        threads.push(listen::tcp(https::PORT, handler, sessions.clone(), stop.clone())?);
    }
    for port in ports.all(Service::Echo) {
        threads.push(listen::udp(port, echo::answer, stop.clone())?);
    }
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
