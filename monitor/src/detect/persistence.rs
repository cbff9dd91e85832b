//! A file that makes something run later is opened for writing: authorized_keys, crontabs, start-up
//! files. The kernel half knows the names; here the package manager's own work and a container's
//! set-up are left out. On a host mount it is an escape as well.

use super::Detector;
use super::context::Context;
use crate::event::{Body, Event, File, HOST, Kind, Open, Reason, file, state};
use crate::finding::{Detection, FindingKind};

/// Files that user management puts into a new home.
const HOME_FILES: &[&str] = &[
    ".bashrc",
    ".profile",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".zshrc",
    ".zprofile",
    ".zshenv",
    ".mkshrc",
];
/// Programs that make homes.
const HOME_MAKERS: &[&str] = &["useradd", "adduser", "usermod", "newusers", "mkhomedir_helper"];

/// Writes to the container's own and to the host's start-up files.
pub struct Persistence;

/// The same on a host mount, and writes that reach the host by other ways.
pub struct Escape;

impl Detector for Persistence {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Open]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let (open, kind) = suspicious(event, cx)?;
        if kind == FindingKind::Escape {
            return None;
        }
        let on_host = cx.containers.is_host_file(event.container, &open.file);
        let place = if on_host { " on a host mount" } else { "" };
        let message = format!("{} {}{place}", cx.describe(event.process), act(open));
        Some(detection(event, open, kind, message, on_host))
    }
}

impl Detector for Escape {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Open]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let (open, kind) = suspicious(event, cx)?;
        let on_host = cx.containers.is_host_file(event.container, &open.file);
        if !on_host && kind != FindingKind::Escape {
            return None;
        }
        let message = format!(
            "{} reaches out of its container, into the host's files: it {}",
            cx.describe(event.process),
            act(open)
        );
        Some(detection(event, open, FindingKind::Escape, message, on_host))
    }
}

/// The open and its kind, if it is one of these and not set-up.
fn suspicious<'e>(event: &'e Event, cx: &Context<'_>) -> Option<(&'e Open, FindingKind)> {
    let Body::Open(open) = &event.body else {
        return None;
    };
    if event.container == HOST || !open.file.has(file::FILE_WRITE) {
        return None;
    }
    let kind = kind(open.sensitive).or_else(|| kind(event.reason))?;
    if event.prevented() {
        return Some((open, kind));
    }
    // No package brings SSH keys: a script that writes one does not install.
    let key_by_script = kind == FindingKind::PersistenceSshKey && open.task_flags & state::TASK_PACKAGE_SCRIPT != 0;
    if state::may_install(open.task_flags) && !key_by_script {
        return None;
    }
    let on_host = cx.containers.is_host_file(event.container, &open.file);
    (on_host || !is_elsewhere(&open.file) && !is_set_up(event, open, kind, cx)).then_some((open, kind))
}

/// Is it one of the system's files, below a folder of the container's own? A backup and an unpacked root file system have
/// them all, and nothing there makes anything run. An overlay is the container's own from its root on; what is mounted from
/// outside may be anybody's root, and homes are where they like.
fn is_elsewhere(file: &File) -> bool {
    let below_a_folder = |place: &str| file.path.find(place).is_some_and(|at| at > 0);
    // What a copy of /etc has for new homes.
    let template = file.path.contains("/skel/") && !file.path.starts_with("/etc/skel/");
    file.has(file::FILE_OVERLAY)
        && !file.has(file::FILE_FOREIGN_SB)
        && (below_a_folder("/etc/") || below_a_folder("/var/spool/") || template)
}

fn kind(reason: Reason) -> Option<FindingKind> {
    match reason {
        Reason::PersistenceSshKey => Some(FindingKind::PersistenceSshKey),
        Reason::PersistenceCron => Some(FindingKind::PersistenceCron),
        Reason::PersistenceOther => Some(FindingKind::PersistenceOther),
        // A file through which the host's kernel runs a program, whatever it lies on.
        Reason::Escape => Some(FindingKind::Escape),
        _ => None,
    }
}

/// Honest writers in the container's own files.
fn is_set_up(event: &Event, open: &Open, kind: FindingKind, cx: &Context<'_>) -> bool {
    let name = open.file.name();
    let process = cx.process(event);
    // `useradd -m`, `cp -r /etc/skel/. /home/x`: a new home gets its start-up files.
    if HOME_FILES.contains(&name) && open.file.has(file::FILE_CREATED) {
        let maker = process.is_some_and(|p| {
            Context::is_from_image(p)
                && (HOME_MAKERS.contains(&p.program.name())
                    || HOME_MAKERS.contains(&p.comm.as_str())
                    || p.program.args.iter().any(|a| a.contains("/etc/skel")))
        });
        if maker && open.task_flags & (state::TASK_SHELL | state::TASK_TAINTED) == 0 {
            return true;
        }
    }
    // An entry point that installs its image's own jobs or profile before it starts the service. A
    // preloaded library or a key is never part of that, nor is anything that came from outside.
    let own_business = match kind {
        FindingKind::PersistenceCron => true,
        FindingKind::PersistenceOther => !name.starts_with("ld.so"),
        _ => false,
    };
    let fetched = open.task_flags & (state::TASK_NET_OUT | state::TASK_TAINTED) != 0;
    own_business && !fetched && cx.is_starting_up(event)
}

/// What was done, in words.
fn act(open: &Open) -> String {
    let path = &open.file.path;
    if open.file.has(file::FILE_NAMED) {
        return format!("moves or links a file to {path}");
    }
    format!("opens {path} for writing")
}

fn detection(event: &Event, open: &Open, kind: FindingKind, message: String, on_host: bool) -> Detection {
    let made = if open.file.has(file::FILE_CREATED) { ", created" } else { "" };
    let how = if open.file.has(file::FILE_NAMED) { "named by a rename or link" } else { "opened for writing" };
    let mut detection = Detection::new(kind, event.process, message).with(
        event.id,
        "sensitive_write",
        0,
        format!("{} {how}{made}", open.file.path),
    );
    if on_host {
        let detail = "the file is not on the container's own file system".to_owned();
        detection = detection.with(event.id, "host_mount", 0, detail);
    }
    if let Some(origin) = &open.origin {
        let from = origin.peer.map_or_else(|| "the network".to_owned(), |p| p.to_string());
        detection = detection.with(event.id, "fetched", 0, format!("the writer carries bytes from {from}"));
    }
    detection.file = Some(open.file.path.to_string());
    detection
}

#[cfg(test)]
mod tests;
