//! Which incident a finding is part of. The state is small, bounded, and made anew from the alert file after a restart;
//! nothing here is on the way of an event that is no finding.

use super::facts::Facts;
use crate::container::kernel_dev;
use crate::detect::bounded::Bounded;
use crate::event::{Body, Event, File, HOST, Origin, ProcessKey, file};
use crate::finding::{Detection, FindingKind, IncidentView, Tie, TieKind};
use crate::incident::{LINEAGE_QUIET, TIE_QUIET};
use crate::kernel::pins::fnv64;
use crate::output::record::Alert;
use crate::provenance::{Process, ProcessTable};
use crate::respond::kill::start_ticks;
use jiff::Timestamp;
use smol_str::SmolStr;
use std::collections::VecDeque;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

/// Keys remembered.
const KEYS: usize = 2048;
/// Files of the host that containers wrote, remembered.
const FILES: usize = 64;
/// A crontab is smaller than this, bytes.
const FILE_BYTES: u64 = 64 * 1024;
/// Shorter commands (`ls`, `sh x`) say nothing by standing in a file, bytes.
pub const COMMAND_MIN: usize = 8;

#[derive(Clone, Debug)]
struct Known {
    id: String,
    since: Timestamp,
    last: Timestamp,
}

/// A file of the host that a container opened for writing.
#[derive(Clone, Debug)]
struct HostFile {
    key: String,
    path: String,
    container: String,
    at: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct Incidents {
    boot: String,
    known: Bounded<String, Known>,
    files: VecDeque<HostFile>,
}

/// What ties are read from.
pub struct Scene<'a> {
    /// The event.
    pub event: &'a Event,
    /// What it was judged to be.
    pub detection: &'a Detection,
    /// Who is who.
    pub processes: &'a ProcessTable,
    /// Containers and mounts.
    pub facts: &'a Facts,
    /// Runtime id of the container, or `host`.
    pub container: &'a str,
}

impl Default for Incidents {
    fn default() -> Self {
        // Tells the processes of this boot from those of others; without it ids are still unique on one boot.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot, known: Bounded::new(KEYS), files: VecDeque::new() }
    }
}

impl Incidents {
    /// Learns from an alert of a daemon before this one.
    pub fn recall(&mut self, alert: &Alert) {
        let (Some(incident), Ok(at)) = (&alert.bulkhead.incident, alert.timestamp.parse::<Timestamp>()) else { return };
        for tie in &incident.ties {
            self.remember(&tie.key, &incident.id, at);
            if let (TieKind::File, Some(path)) = (tie.what, &tie.path) {
                let container = name(&alert.container.name, &alert.container.id);
                self.wrote(HostFile { key: tie.key.clone(), path: path.clone(), container, at });
            }
        }
    }

    /// The incident of a finding that happens now.
    pub fn assign(&mut self, scene: &Scene<'_>, now: Timestamp) -> IncidentView {
        let ties = self.ties(scene, now);
        for tie in ties.iter().filter(|tie| tie.what == TieKind::File) {
            if let Some(path) = &tie.path {
                let container = name("", scene.container);
                self.wrote(HostFile { key: tie.key.clone(), path: path.clone(), container, at: now });
            }
        }
        IncidentView { id: self.id(&ties, now), ties }
    }

    /// The id of the oldest incident that is still open and has one of the keys; else one of its own.
    fn id(&mut self, ties: &[Tie], now: Timestamp) -> String {
        let open = |tie: &&Tie| {
            let known = self.known.get(&tie.key)?;
            let quiet = if tie.what == TieKind::Lineage { LINEAGE_QUIET } else { TIE_QUIET };
            (now.duration_since(known.last) <= quiet).then_some(known)
        };
        let oldest = ties.iter().filter_map(|tie| open(&tie)).min_by_key(|known| known.since);
        let id = match oldest {
            Some(known) => known.id.clone(),
            None => {
                let key = ties.first().map_or("", |tie| tie.key.as_str());
                // A tree that is quiet for long and then found again is another incident.
                let again = self.known.get(&key.to_owned()).map(|known| known.last.to_string()).unwrap_or_default();
                let hash = fnv64(self.boot.bytes().chain(key.bytes()).chain(again.bytes()));
                format!("{hash:016x}").chars().take(12).collect()
            }
        };
        for tie in ties {
            self.remember(&tie.key, &id, now);
        }
        id
    }

    fn remember(&mut self, key: &str, id: &str, at: Timestamp) {
        match self.known.get_mut(&key.to_owned()) {
            Some(known) if known.id == id => {
                known.last = known.last.max(at);
                known.since = known.since.min(at);
            }
            _ => self.known.insert(key.to_owned(), Known { id: id.to_owned(), since: at, last: at }),
        }
    }

    fn wrote(&mut self, file: HostFile) {
        self.files.retain(|known| known.path != file.path || known.key != file.key);
        if self.files.len() >= FILES {
            self.files.pop_front();
        }
        self.files.push_back(file);
    }

    fn ties(&self, scene: &Scene<'_>, now: Timestamp) -> Vec<Tie> {
        let mut ties: Vec<Tie> = lineage(scene).into_iter().collect();
        ties.extend(origin(scene));
        ties.extend(written(scene));
        ties.extend(image(scene));
        if scene.event.container == HOST {
            ties.extend(self.line(scene, now));
        }
        ties
    }

    /// Does the host run a command that stands in a file which a container wrote?
    fn line(&self, scene: &Scene<'_>, now: Timestamp) -> Option<Tie> {
        let culprit = scene.processes.get(scene.detection.culprit);
        let commands: Vec<(&Process, &str)> = culprit
            .into_iter()
            .chain(scene.processes.ancestors(scene.detection.culprit))
            .flat_map(|process| {
                let programs = process.began_as.iter().chain([&process.program]);
                programs.filter_map(move |program| Some((process, command(&program.args)?)))
            })
            .collect();
        if commands.is_empty() {
            return None;
        }
        let recent = self.files.iter().rev().filter(|file| now.duration_since(file.at) <= TIE_QUIET);
        recent.into_iter().find_map(|file| {
            let text = read(file)?;
            let (process, _) = commands.iter().find(|(_, command)| stands_in(command, &text))?;
            let because = format!(
                "the command of {} on the host is a line of {}, which container {} opened for writing at {}",
                described(process),
                file.path,
                file.container,
                file.at.strftime("%Y-%m-%d %H:%M:%SZ")
            );
            Some(Tie { what: TieKind::Line, key: file.key.clone(), because, path: None })
        })
    }
}

/// The command line that a shell was started with to run (`sh -c COMMAND`).
fn command(args: &[SmolStr]) -> Option<&str> {
    let at = args.iter().position(|arg| arg == "-c")?;
    args.get(at + 1).map(|text| text.trim()).filter(|text| text.len() >= COMMAND_MIN)
}

/// Is the command a line's end, as in a crontab (`%` is escaped there)?
fn stands_in(command: &str, text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_end();
        line.ends_with(command) || line.replace("\\%", "%").ends_with(command)
    })
}

/// A file of the host by its path there: seen from the host's first process, or, where even root is kept from that, from
/// our own root if the file system is the one that the container wrote to.
fn read(file: &HostFile) -> Option<String> {
    let seen = open(&format!("/proc/1/root{}", file.path));
    let mut seen = seen.or_else(|| open(&file.path).filter(|found| device(found) == file.device()))?.take(FILE_BYTES);
    let mut bytes = Vec::new();
    seen.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A regular file. It belongs to the attacker: no link is followed at its end, and no reader is waited for.
fn open(path: &str) -> Option<std::fs::File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
}

fn device(file: &std::fs::File) -> Option<u32> {
    file.metadata().ok().map(|meta| kernel_dev(meta.dev()))
}

impl HostFile {
    /// The device it is on, out of its key.
    fn device(&self) -> Option<u32> {
        u32::from_str_radix(self.key.split(':').nth(1)?, 16).ok()
    }
}

fn lineage(scene: &Scene<'_>) -> Option<Tie> {
    let culprit = scene.detection.culprit;
    if culprit.tgid == 0 {
        return None;
    }
    let root = root(scene.processes, culprit);
    let because = match scene.processes.get(root) {
        Some(process) => format!("it is {} or descends from it", described(process)),
        None => format!("it is process {}", culprit.tgid),
    };
    Some(Tie { what: TieKind::Lineage, key: tree_key(scene.container, root), because, path: None })
}

/// Top of the tree. On the host everything descends from the service manager, and much from a service: the tree
/// begins below the service's own process.
fn root(processes: &ProcessTable, key: ProcessKey) -> ProcessKey {
    let Some(process) = processes.get(key) else { return key };
    if process.container != HOST {
        return processes.tree_root(key);
    }
    let above: Vec<ProcessKey> =
        processes.ancestors(key).take_while(|a| a.container == HOST && a.key.tgid > 2).map(|a| a.key).collect();
    above.len().checked_sub(2).and_then(|at| above.get(at)).copied().unwrap_or(key)
}

/// A restart finds processes again with their start to a clock tick.
fn tree_key(container: &str, root: ProcessKey) -> String {
    let container = container.get(..12).unwrap_or(container);
    format!("tree:{container}:{}-{}", root.tgid, start_ticks(root.start_ns))
}

fn origin(scene: &Scene<'_>) -> Vec<Tie> {
    let origin = match &scene.event.body {
        Body::Exec(exec) => exec.origin.as_ref(),
        Body::Open(open) => open.origin.as_ref(),
        _ => None,
    };
    let Some(Origin { process: key, peer, .. }) = origin.filter(|origin| origin.process.tgid != 0) else {
        return Vec::new();
    };
    let from = peer.map_or_else(|| "the network".to_owned(), |peer| peer.to_string());
    let known = scene.processes.get(*key);
    let who = known.map_or_else(|| format!("process {}", key.tgid), described);
    let because = format!("it carries or runs bytes that {who} had from {from}");
    let tie = |key: String| Tie { what: TieKind::Origin, key, because: because.clone(), path: None };
    let mut ties = vec![tie(format!("process:{}-{}", key.tgid, start_ticks(key.start_ns)))];
    if let Some(process) = known
        && process.container == scene.event.container
    {
        ties.push(tie(tree_key(scene.container, root(scene.processes, *key))));
    }
    ties
}

/// The file that is opened: run as a script, or written.
fn written(scene: &Scene<'_>) -> Option<Tie> {
    let Body::Open(open) = &scene.event.body else { return None };
    let File { inode, path, .. } = &open.file;
    if inode.ino == 0 {
        return None;
    }
    let write = open.file.has(file::FILE_WRITE);
    let host = if write { scene.facts.host_path(&open.file) } else { None };
    let because = match (&host, write) {
        (Some(host), _) => format!("it opens {host} of the host for writing"),
        (None, true) => format!("it opens {path} for writing"),
        (None, false) => format!("it runs {path}"),
    };
    // The device of a container's own root is another container's when it is gone.
    let is_own = scene.event.container != HOST && !open.file.has(file::FILE_FOREIGN_SB);
    let whose = if is_own { format!("{}:", name("", scene.container)) } else { String::new() };
    let key = format!("file:{whose}{:x}:{}", inode.dev, inode.ino);
    Some(Tie { what: TieKind::File, key, because, path: host })
}

fn image(scene: &Scene<'_>) -> Option<Tie> {
    let bad = scene.detection.kind == FindingKind::ImageDenylist || scene.facts.has_bad_image(scene.event.container);
    let because = "its container was made from an image on the denylist".to_owned();
    bad.then(|| Tie { what: TieKind::Image, key: format!("container:{}", scene.container), because, path: None })
}

fn described(process: &Process) -> String {
    let comm = if process.comm.is_empty() { "process" } else { process.comm.as_str() };
    format!("{comm} (pid {})", process.key.tgid)
}

fn name(name: &str, id: &str) -> String {
    if name.is_empty() { id.get(..12).unwrap_or(id).to_owned() } else { name.to_owned() }
}

#[cfg(test)]
#[path = "incident_tests.rs"]
mod tests;
