//! Plays many scenarios at a time under one monitor. Each has its container, its address and its own
//! attacker's session, so they do not meet; what happens on the host has only the attacker's own address
//! to be told by, and waits for its turn.

use super::alerts::Feed;
use super::daemon::{Daemon, Files};
use super::file::{Rung, Scenario};
use super::play::{self, Remains, Stage};
use super::recorder::Recorder;
use super::report::Report;
use super::shuffle::{self, Random};
use super::verdict::{self, Mode, Row};
use super::{Args, Images};
use crate::lab::Engine;
use crate::lab::services::Services;
use anyhow::Result;
use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::Duration;

/// The monitor under test and what it is played to with.
pub struct Theatre {
    // Dropped in this order: the monitor ends before what it watches, the engine last.
    daemon: Mutex<Watch>,
    feed: Feed,
    services: Arc<Services>,
    engine: Arc<Engine>,
    files: Files,
    binary: PathBuf,
    mode: Mode,
    rung: Rung,
    host: Mutex<()>,
    recorder: Option<Recorder>,
    /// Held for writing by who records everything.
    stage: RwLock<()>,
}

/// The monitor, and how many there were before it.
#[derive(Default)]
struct Watch {
    daemon: Option<Daemon>,
    deaths: usize,
}

/// One play to come.
struct Part {
    scenario: Scenario,
    image: Result<String, String>,
    number: usize,
    repeat: u32,
    pause: Duration,
}

impl Theatre {
    /// An empty house; the monitor is started for the first play.
    pub fn new(
        engine: Arc<Engine>,
        services: Arc<Services>,
        feed: Feed,
        files: Files,
        binary: PathBuf,
        mode: Mode,
        rung: Rung,
    ) -> Self {
        let (daemon, host) = (Mutex::default(), Mutex::default());
        Self {
            daemon,
            feed,
            services,
            engine,
            files,
            binary,
            mode,
            rung,
            host,
            recorder: None,
            stage: RwLock::default(),
        }
    }

    /// With a recording of each scenario.
    pub fn recording(mut self, recorder: Option<Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Plays everything `args` asks for; rows are reported as they come.
    pub fn play_all<W: Write + Send>(
        &self,
        scenarios: &[Scenario],
        images: &mut Images,
        args: &Args,
        report: &mut Report<W>,
    ) -> Result<()> {
        // Images first: a build under the monitor's eyes would be judged with everything else.
        let references: Vec<Result<String, String>> =
            scenarios.iter().map(|scenario| images.reference(&self.engine, &scenario.image)).collect();
        // What they have left to be written would hold up whoever waits for the disk: the engine does, at every start.
        rustix::fs::sync();
        let parts = parts(scenarios, &references, args);
        for part in &parts {
            let text = part.image.as_deref().ok().and_then(|image| part.scenario.baseline_of(image));
            text.map_or(Ok(()), |text| self.files.baseline(&part.scenario.id, &text))?;
        }
        let parts = Mutex::new(parts);
        let cleaner = Cleaner::start(&self.engine, &self.services);
        let report = Mutex::new(report);
        let jobs = args.jobs.map_or_else(default_jobs, |jobs| jobs as usize);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| self.work(&parts, &cleaner, &report))).collect();
            let ends = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that plays scenarios panicked")))
            });
            ends.fold(Ok(()), Result::and)
        })
    }

    fn work<W: Write>(
        &self,
        parts: &Mutex<VecDeque<Part>>,
        cleaner: &Cleaner,
        report: &Mutex<&mut Report<W>>,
    ) -> Result<()> {
        while !self.engine.interrupt().is_set() {
            let Some(part) = locked(parts).pop_front() else { break };
            thread::sleep(part.pause);
            let row = match &part.image {
                Err(why) => Row::skipped(&part.scenario, part.repeat, why.clone()),
                Ok(image) => match self.engine.runtime().refuses(&play::recipe(&part.scenario, image)) {
                    Some(why) => Row::skipped(&part.scenario, part.repeat, why),
                    None => self.play_one(&part, image, cleaner)?,
                },
            };
            if !self.engine.interrupt().is_set() {
                locked(report).row(&row)?;
            }
        }
        Ok(())
    }

    fn play_one(&self, part: &Part, image: &str, cleaner: &Cleaner) -> Result<Row> {
        let scenario = &part.scenario;
        let is_alone = self.recorder.is_some() && play::is_recorded_whole(scenario);
        let _alone = is_alone.then(|| self.stage.write().unwrap_or_else(PoisonError::into_inner));
        let _among_others = (!is_alone).then(|| self.stage.read().unwrap_or_else(PoisonError::into_inner));
        let _turn = scenario.is_on_host().then(|| locked(&self.host));
        let deaths = self.watched()?;
        let stage = Stage {
            engine: &self.engine,
            services: &self.services,
            feed: &self.feed,
            mode: self.mode,
            recorder: self.recorder.as_ref(),
        };
        let (mut seen, remains) = play::play(&stage, scenario.clone(), image, part.number);
        cleaner.take(remains);
        if let Some(death) = self.died_since(deaths) {
            // The next scenario gets a fresh one; this one is judged without.
            seen.broken = Some(death);
        }
        Ok(verdict::judge(scenario, self.mode, self.rung, part.repeat, &seen))
    }

    /// Starts the monitor unless it runs; how many have died so far.
    fn watched(&self) -> Result<usize> {
        let mut watch = locked(&self.daemon);
        if watch.daemon.is_none() {
            watch.daemon = Some(Daemon::start(&self.engine, &self.binary, self.mode, &self.files)?);
        }
        Ok(watch.deaths)
    }

    fn died_since(&self, deaths: usize) -> Option<String> {
        let mut watch = locked(&self.daemon);
        if let Some(death) = watch.daemon.as_mut().and_then(Daemon::death) {
            watch.daemon = None;
            watch.deaths += 1;
            return Some(death);
        }
        (watch.deaths != deaths).then(|| "the monitor ended during this scenario".to_owned())
    }
}

impl Drop for Theatre {
    fn drop(&mut self) {
        self.feed.stop();
    }
}

/// Twice the processors: a play is mostly waiting.
fn default_jobs() -> usize {
    2 * thread::available_parallelism().map_or(1, usize::from)
}

/// All plays in their order, the same for the same seed.
fn parts(scenarios: &[Scenario], references: &[Result<String, String>], args: &Args) -> VecDeque<Part> {
    let mut random = args.shuffle.map(Random::new);
    let ports = args.shuffle.map(shuffle::ports).unwrap_or_default();
    let mut parts = VecDeque::new();
    for repeat in 1..=args.repeat {
        let mut order: Vec<usize> = (0..scenarios.len()).collect();
        if let Some(random) = &mut random {
            random.shuffle(&mut order);
        }
        for index in order {
            let mut scenario = scenarios[index].clone();
            let pause = args.shuffle.map(|seed| shuffle::vary(&mut scenario, seed, repeat, &ports));
            let image = references[index].clone();
            let pause = pause.unwrap_or_default();
            parts.push_back(Part { scenario, image, number: parts.len() + 1, repeat, pause });
        }
    }
    parts
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes containers behind the play's back: half a second each that nobody need wait for.
struct Cleaner {
    queue: Option<mpsc::Sender<Remains>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cleaner {
    fn start(engine: &Arc<Engine>, services: &Arc<Services>) -> Self {
        let (queue, remains) = mpsc::channel::<Remains>();
        let (engine, services) = (Arc::clone(engine), Arc::clone(services));
        let thread = thread::spawn(move || {
            for one in remains {
                one.remove(&engine, &services);
            }
        });
        Self { queue: Some(queue), thread: Some(thread) }
    }

    fn take(&self, remains: Remains) {
        if let Some(queue) = &self.queue {
            let _cleaner_gone = queue.send(remains);
        }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
