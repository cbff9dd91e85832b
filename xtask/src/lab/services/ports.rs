//! Which ports the attacker's services answer on: the usual ones, and, for a run that is shuffled, others.

use std::collections::BTreeSet;

/// Web server: plain HTTP, and the ports of services that scenarios knock at (kubelet, Docker).
const HTTP: [u16; 6] = [80, 8080, 8220, 10250, 10255, 2375];

/// Listeners that send `shell.send` and count what they receive.
const SHELL: [u16; 4] = [4444, 443, 4443, 1496];

/// Mining pools.
const STRATUM: [u16; 3] = [3333, 14444, 5555];

/// Accepts and says nothing, as a database does until it is spoken to.
const SILENT: [u16; 2] = [5432, 6379];

/// UDP echo.
const ECHO: [u16; 1] = [5353];

/// The port tells what is asked there: a kubelet, a Docker engine. A scenario that names one means it.
const TELLING: [u16; 3] = [10250, 10255, 2375];

/// How many other ports a service has.
const OTHERS: usize = 6;

/// What answers on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Web server.
    Http,
    /// Shell listener.
    Shell,
    /// Mining pool.
    Stratum,
    /// A silent server.
    Silent,
    /// UDP echo.
    Echo,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Http, Self::Shell, Self::Stratum, Self::Silent, Self::Echo];

    fn usual(self) -> &'static [u16] {
        match self {
            Self::Http => &HTTP,
            Self::Shell => &SHELL,
            Self::Stratum => &STRATUM,
            Self::Silent => &SILENT,
            Self::Echo => &ECHO,
        }
    }

    /// The service that a scenario reaches on `port`, where another port would do as well.
    pub fn of(port: u16) -> Option<Self> {
        let service = Self::ALL.into_iter().find(|service| service.usual().contains(&port));
        service.filter(|_| !TELLING.contains(&port))
    }
}

/// Ports of a run.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    others: Vec<(Service, u16)>,
}

impl Ports {
    /// With further ports of each service, which `draw` proposes.
    pub fn with_others(mut draw: impl FnMut() -> u16) -> Self {
        // Also not those that mean something to a monitor: SSH, names, the Kubernetes API, the kubelet, Docker.
        let mut taken: BTreeSet<u16> = [22, 53, 2376, 2379, 6443, 8443, 10248, 10256, 10257, 10259].into();
        taken.extend(Service::ALL.into_iter().flat_map(Service::usual));
        let mut others = Vec::new();
        for service in Service::ALL {
            while others.iter().filter(|(of, _)| *of == service).count() < OTHERS {
                // 0 is no port.
                let port = draw().max(1);
                if taken.insert(port) {
                    others.push((service, port));
                }
            }
        }
        Self { others }
    }

    /// Further ports of `service`.
    pub fn others(&self, service: Service) -> impl Iterator<Item = u16> + '_ {
        self.others.iter().filter(move |(of, _)| *of == service).map(|(_, port)| *port)
    }

    /// Every port of `service`.
    pub fn all(&self, service: Service) -> impl Iterator<Item = u16> + '_ {
        service.usual().iter().copied().chain(self.others(service))
    }
}
