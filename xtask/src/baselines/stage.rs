//! Containers on the stage: the services, and the client that puts them to work.

use super::service::{ATTACKS, Attack, SERVICES, Service, TYPED};
use crate::lab::container::{Container, Recipe};
use crate::lab::images::Images;
use crate::lab::services::{Ports, Services, Session};
use crate::lab::{ATTACKER, Engine};
use anyhow::{Context, Result, anyhow, bail};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The slowest needs some seconds to start, and all start at once.
const START_LIMIT: Duration = Duration::from_secs(180);
/// How long the effect of an attack that is not stopped may take to show.
const EFFECT_LIMIT: Duration = Duration::from_secs(10);
/// Where connections of the services' own are counted; nothing else is there.
const COUNTED_PORT: u16 = 4999;

/// Images, client and the attacker's side.
pub struct Stage<'a> {
    /// The lab.
    pub engine: &'a Engine,
    images: Vec<String>,
    client: Container,
    services: Services,
    accepted: Arc<AtomicU64>,
}

/// A service on the stage.
pub struct Actor {
    /// What it is.
    pub service: &'static Service,
    /// Its container.
    pub container: Container,
    /// Where it answers.
    pub address: IpAddr,
}

impl<'a> Stage<'a> {
    /// Builds what is missing and starts the client, which no baseline is about.
    pub fn set(engine: &'a Engine) -> Result<Self> {
        let mut images = Images::new(&[]);
        let mut reference = |name: &str| images.reference(engine, name).map_err(anyhow::Error::msg);
        let client_image = reference("load-client")?;
        let held = SERVICES.iter().map(|service| reference(service.image)).collect::<Result<Vec<_>>>()?;
        let labels = vec!["bulkhead.baseline=off".to_owned(), "bulkhead.mode=off".to_owned()];
        let client = engine.runtime().run(&Recipe { image: client_image, labels, ..Recipe::default() })?;
        let services = Services::start(engine, &Ports::default())?;
        let accepted = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&accepted);
        let listener = engine
            .network()
            .inside(|| TcpListener::bind((ATTACKER, COUNTED_PORT)))?
            .context("listening for the services' own connections")?;
        thread::spawn(move || {
            for _closed in listener.incoming() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { engine, images: held, client, services, accepted })
    }

    /// References of the services' images, in their order.
    pub fn images(&self) -> &[String] {
        &self.images
    }

    /// Starts all services and waits until they answer.
    pub fn enter(&self) -> Result<Vec<Actor>> {
        let session = Arc::new(Session::new([("x".to_owned(), b"x\n".to_vec())].into(), TYPED.as_bytes().to_vec()));
        let mut actors = Vec::new();
        for (service, image) in SERVICES.iter().zip(&self.images) {
            let recipe = Recipe { image: image.clone(), entrypoint: true, ..Recipe::default() };
            let container = self.engine.runtime().run(&recipe).with_context(|| format!("starting {}", service.name))?;
            let address = container.addresses.iter().copied().find(IpAddr::is_ipv4);
            let address = address.with_context(|| format!("{} has ended at once", service.name))?;
            self.services.open(&container.addresses, &session);
            actors.push(Actor { service, container, address });
        }
        let deadline = Instant::now() + START_LIMIT;
        for actor in &actors {
            while !self.answers(actor)? {
                if Instant::now() > deadline || self.engine.interrupt().is_set() {
                    bail!("{} does not answer", actor.service.name);
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(actors)
    }

    /// Removes them.
    pub fn leave(&self, actors: Vec<Actor>) -> Result<()> {
        actors.iter().try_for_each(|actor| self.engine.runtime().remove(&actor.container))
    }

    fn answers(&self, actor: &Actor) -> Result<bool> {
        let (service, at) = (actor.service, actor.service.at(actor.address));
        self.engine.network().inside(move || service.answers(at))
    }

    fn client(&self, text: &str, limit: Duration) -> Result<()> {
        self.engine.runtime().exec(&self.client, "root", text, limit).map(drop)
    }

    /// Puts all to work for so long.
    pub fn load(&self, actors: &[Actor], time: Duration) -> Result<()> {
        thread::scope(|scope| {
            let working: Vec<_> = actors
                .iter()
                .map(|actor| {
                    let text = actor.service.load(&actor.address.to_string(), time.as_secs());
                    scope.spawn(move || self.client(&text, time + START_LIMIT))
                })
                .collect();
            working.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a thread of the load panicked"))?)
        })
    }

    /// Attacks one of them.
    pub fn attack(&self, actor: &Actor, attack: Attack) -> Result<()> {
        let listener = SocketAddr::new(ATTACKER.into(), COUNTED_PORT);
        let text = attack.text(actor.service, &actor.address.to_string(), listener);
        self.client(&text, EFFECT_LIMIT)
    }

    /// Connections that came to where only attacks go.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Has it come to something?
    pub fn has_effect(&self, actor: &Actor, attack: Attack, accepted_before: u64) -> bool {
        match attack.effect() {
            Some(path) => self.engine.runtime().exists(&actor.container, &path),
            None => self.accepted() > accepted_before,
        }
    }

    /// Without the monitor every attack must come to something, or to stop it would be no feat. Names those that did not.
    pub fn rehearse(&self, actors: &[Actor]) -> Result<Vec<String>> {
        let mut idle = Vec::new();
        for actor in actors {
            for attack in ATTACKS {
                let before = self.accepted();
                self.attack(actor, attack)?;
                let deadline = Instant::now() + EFFECT_LIMIT;
                while !self.has_effect(actor, attack, before) && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(50));
                }
                if !self.has_effect(actor, attack, before) {
                    idle.push(format!("{} {}", actor.service.name, attack.name()));
                }
            }
        }
        Ok(idle)
    }
}

/// Asks the services ten times a second whether they still answer, until it is dropped.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    missed: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Pulse {
    /// Begins.
    pub fn start(engine: &Engine, actors: &[Actor]) -> Result<Self> {
        let (stop, asked, missed) = (Arc::default(), Arc::default(), Arc::default());
        let mut pulse = Self { stop, asked, missed, threads: Vec::new() };
        for actor in actors {
            let (service, at) = (actor.service, actor.service.at(actor.address));
            let (stop, asked, missed) = (Arc::clone(&pulse.stop), Arc::clone(&pulse.asked), Arc::clone(&pulse.missed));
            let thread = engine.network().inside(move || {
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        asked.fetch_add(1, Ordering::Relaxed);
                        if !service.answers(at) {
                            missed.fetch_add(1, Ordering::Relaxed);
                        }
                        thread::sleep(Duration::from_millis(100));
                    }
                })
            })?;
            pulse.threads.push(thread);
        }
        Ok(pulse)
    }

    /// How often was asked, and how often there was no answer.
    pub fn counts(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
