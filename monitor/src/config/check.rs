//! Rules over several keys, or about what a value means to the system.

use super::error::at_key;
use super::{Config, ConfigError, Promote};
use crate::finding::FindingKind;
use crate::respond::policy::ENFORCEABLE;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest path an AF_UNIX address holds, without the NUL (`sun_path`, unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// Smallest rotation size that makes sense: an alert with a long command line is about this big.
const MIN_ROTATION: u64 = 4096;
/// The daemon beats once a second; one late beat must not release anything.
const MIN_HEARTBEAT_LIMIT_S: u32 = 3;

/// Does the kernel half act on the kind by itself, as far as `[actions]` says?
fn in_kernel(config: &Config, kind: FindingKind) -> bool {
    config.actions.of(kind).is_reflex() && ENFORCEABLE.iter().any(|(enforceable, _)| *enforceable == kind)
}

/// Checks what the types cannot.
pub(super) fn across(config: &Config, path: &Path, text: &str) -> Result<(), ConfigError> {
    let fail = |key: &[&str], message: String| Err(at_key(path, text, key, message));
    let miner = &config.miner;
    if miner.kill_score < miner.alert_score {
        let (kill, alert) = (miner.kill_score.0, miner.alert_score.0);
        return fail(&["miner", "kill_score"], format!("{kill} is below miner.alert_score ({alert})"));
    }
    if config.output.max_bytes < MIN_ROTATION {
        return fail(&["output", "max_bytes"], format!("it must be at least {MIN_ROTATION}"));
    }
    if config.output.keep > 1000 {
        return fail(&["output", "keep"], "more than 1000 rotated files".into());
    }
    if config.output.file.as_ref().is_some_and(|f| f.as_os_str().is_empty()) {
        return fail(&["output", "file"], "the path is empty".into());
    }
    if config.output.events.as_ref().is_some_and(|f| f.as_os_str().is_empty()) {
        return fail(&["output", "events"], "the path is empty".into());
    }
    if config.output.events.is_some() && config.output.events == config.output.file {
        return fail(&["output", "events"], "it is the same file as output.file".into());
    }
    if config.baseline.write_s == 0 {
        return fail(&["baseline", "write_s"], "it must be at least 1".into());
    }
    let learn = &config.baseline;
    if learn.promote != Promote::Off && learn.promote_quiet_s < learn.settle_s.saturating_add(learn.write_s) {
        let message =
            "it is less than baseline.settle_s and baseline.write_s together: what was seen last is not learned yet";
        return fail(&["baseline", "promote_quiet_s"], message.into());
    }
    let folder = &config.baseline.folder;
    if folder.is_relative() {
        return fail(&["baseline", "folder"], "the path is not absolute".into());
    }
    let pins = &config.pins.root;
    if !pins.as_os_str().is_empty() && pins.is_relative() {
        return fail(&["pins", "root"], "the path is not absolute".into());
    }
    if config.pins.heartbeat_limit_s < MIN_HEARTBEAT_LIMIT_S {
        return fail(&["pins", "heartbeat_limit_s"], format!("it must be at least {MIN_HEARTBEAT_LIMIT_S}"));
    }
    let socket = config.control.socket.as_os_str();
    if socket.as_bytes().len() > SOCKET_PATH_MAX {
        let message = format!("a socket's path has at most {SOCKET_PATH_MAX} bytes");
        return fail(&["control", "socket"], message);
    }
    if !socket.is_empty() && config.control.socket.is_relative() {
        return fail(&["control", "socket"], "the path is not absolute".into());
    }
    if config.engine.docker && config.engine.docker_socket.is_relative() {
        return fail(&["engine", "docker_socket"], "the path is not absolute".into());
    }
    for (index, rule) in config.exception.iter().enumerate() {
        let place = index.to_string();
        if let Some((key, message)) = rule.fault() {
            return fail(&["exception", &place, key], message);
        }
        if let Some(kind) = rule.kinds.iter().find(|kind| !rule.names_containers() && in_kernel(config, **kind)) {
            let name = kind.name();
            let message = format!(
                "`{name}` is stopped in the kernel, which knows nothing of programs and addresses that are excepted: name the \
                 containers too (image, container or labels), or set actions.{name} to what the daemon does, such as alert"
            );
            return fail(&["exception", &place, "kinds"], message);
        }
    }
    if let Some(bad) = config.scope.labels.iter().find(|l| l.is_empty() || l.starts_with('=')) {
        return fail(&["scope", "labels"], format!("`{bad}` has no key"));
    }
    if let Some(bad) = config.miner.names.iter().find(|n| n.is_empty() || n.contains('/')) {
        return fail(&["miner", "names"], format!("`{bad}` is not a program name"));
    }
    if config.miner.ports.contains(&0) {
        return fail(&["miner", "ports"], "0 is not a port".into());
    }
    Ok(())
}
