//! Detectors: one file each, small pure types that turn events into detections. The kernel half
//! has seen the structure already and says so in `reason`; a detector says what it means, leaves
//! out what the kernel could not know to be honest, and adds what only names and time can tell.

pub(crate) mod bounded;
mod context;
mod credential_access;
mod dedupe;
mod docker_socket;
mod download_exec;
mod drift;
mod fileless_exec;
mod kubelet_access;
mod lines;
mod metadata_access;
mod miner;
mod onion;
mod persistence;
mod reach;
mod recon;
mod reverse_shell;
mod scan;
mod settings;
mod shell_connect;
mod tamper;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use miner::dns;

pub use context::{ContainerFacts, Context, NoFacts, looks_like_host_file};
pub use settings::{Settings, Weights};

use crate::event::{Event, Kind};
use crate::finding::Detection;
use dedupe::Dedupe;

/// One detector.
pub trait Detector: Send {
    /// Kinds of events that it looks at; of others it is not asked.
    fn kinds(&self) -> &'static [Kind];

    /// Judges one event. The process table has taken it in already.
    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection>;
}

/// One more than the highest [`Kind`].
const KINDS: usize = Kind::ALL[Kind::ALL.len() - 1] as usize + 1;

/// The table: all detectors, and what makes one incident one alert.
pub struct Detectors {
    table: Vec<Box<dyn Detector>>,
    /// By kind of event: who looks at it, in the order of the table.
    looking: [Vec<usize>; KINDS],
    dedupe: Dedupe,
    /// What is expected must not stand for what is not.
    excepted: Dedupe,
}

impl Default for Detectors {
    fn default() -> Self {
        Self::new()
    }
}

impl Detectors {
    /// Every detector, in the order their detections are handed over.
    pub fn new() -> Self {
        let table: Vec<Box<dyn Detector>> = vec![
            Box::new(reverse_shell::ReverseShell::default()),
            Box::new(download_exec::DownloadExec::default()),
            Box::new(miner::Miner::default()),
            Box::new(persistence::Escape),
            Box::new(persistence::Persistence),
            Box::new(tamper::Tamper),
            Box::new(docker_socket::DockerSocket),
            Box::new(kubelet_access::KubeletAccess),
            Box::new(metadata_access::MetadataAccess),
            Box::new(reach::ReachOut),
            Box::new(credential_access::CredentialAccess),
            Box::new(onion::Onion),
            Box::new(scan::Scan::default()),
            Box::new(recon::Recon::default()),
            Box::new(fileless_exec::FilelessExec),
            Box::new(drift::Drift),
            Box::new(shell_connect::ShellConnect::default()),
        ];
        let looking = std::array::from_fn(|kind| {
            let looks = |detector: &dyn Detector| detector.kinds().iter().any(|looked_at| *looked_at as usize == kind);
            (0..table.len()).filter(|place| looks(&*table[*place])).collect()
        });
        Self { table, looking, dedupe: Dedupe::default(), excepted: Dedupe::default() }
    }

    /// Judges one event that the process table has taken in.
    pub fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Vec<Detection> {
        let Self { table, looking, .. } = self;
        let looking = looking[event.body.kind() as usize].iter();
        let found: Vec<Detection> = looking.filter_map(|place| table[*place].on_event(event, cx)).collect();
        if found.is_empty() {
            return found;
        }
        found.into_iter().filter_map(|detection| self.admit(event, detection, cx)).collect()
    }

    /// Lets a detection through, marks it as a repeat or as expected, or drops it.
    pub fn admit(&mut self, event: &Event, mut detection: Detection, cx: &Context<'_>) -> Option<Detection> {
        let Self { dedupe, excepted, .. } = self;
        detection.excepted = cx.containers.excepted(event, &detection, cx.processes);
        match detection.excepted {
            Some(_) => excepted.admit(event, detection, cx),
            None if excepted.is_known_shell(event, &detection, cx) => None,
            None => dedupe.admit(event, detection, cx),
        }
    }
}

#[cfg(test)]
pub(crate) use testing::exec as exec_for_tests;
