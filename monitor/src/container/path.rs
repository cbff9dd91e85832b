//! Tells from a cgroup's path whether it belongs to a container, and to which.
//!
//! Runtimes write the container's id, 64 hex digits, into the last component they make. With the
//! systemd driver it is wrapped (`docker-ID.scope`), with the cgroupfs driver it stands alone
//! below the runtime's parent directory (`/docker/ID`, `/kubepods/burstable/podUID/ID`). Anything
//! below that component belongs to the container too: a nested engine, an init system inside it,
//! Podman's `container` leaf. The *outermost* id therefore counts.
//!
//! What is decided here beyond the runtimes' documentation:
//!
//! - 32 hex digits are never a container (`/process_api/HEX32`, an ECS task's directory, a static
//!   pod's uid): some supervisors name their jobs so, and a monitor that believes them kills
//!   services.
//! - A 64-hex directory directly under `/` *is* a container: `docker run --cgroup-parent=/` makes
//!   exactly that, nothing on a stock host does, and the price of overlooking one (no deny, no
//!   baseline, nothing said) is higher than that of watching a job that is none.
//! - LXC names are chosen freely, so what LXC makes itself is out, even if it looks like an id; an
//!   engine running inside an LXC container is seen as usual.

use serde::{Deserialize, Serialize};

/// Which runtime made a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Runtime {
    /// Docker Engine.
    Docker,
    /// containerd: through CRI, nerdctl or ctr.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman or another libpod user.
    Podman,
    /// The path has an id and no sign of the runtime's name.
    Unknown,
}

impl Runtime {
    /// Name in events; empty if unknown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Unknown => "",
        }
    }
}

/// What a cgroup path tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPath {
    /// Who made it.
    pub runtime: Runtime,
    /// The container's id, 64 lower-case hex digits.
    pub id: String,
    /// Uid of the pod it is in, with dashes as the API gives it.
    pub pod_uid: Option<String>,
    /// Length of the part of the path that names the container's own cgroup; what follows is
    /// nested in it.
    root_len: usize,
}

impl ContainerPath {
    /// The container's own (outermost) cgroup, given the path this was parsed from.
    pub fn root<'p>(&self, path: &'p str) -> &'p str {
        path.get(..self.root_len).unwrap_or(path)
    }

    /// Does `path` name a cgroup nested in the container's own?
    pub fn is_nested(&self, path: &str) -> bool {
        self.root_len < path.trim_end_matches('/').len()
    }
}

/// Digits of a container id.
const ID_LEN: usize = 64;

/// Wrappings of an id, most specific first. `None`: a helper of the runtime, not a container.
const PREFIXES: &[(&str, Option<Runtime>)] = &[
    ("crio-conmon-", None),
    ("libpod-conmon-", None),
    ("libpod-payload-", Some(Runtime::Podman)),
    ("cri-containerd-", Some(Runtime::Containerd)),
    ("containerd-", Some(Runtime::Containerd)),
    ("nerdctl-", Some(Runtime::Containerd)),
    ("docker-", Some(Runtime::Docker)),
    ("crio-", Some(Runtime::CriO)),
    ("libpod-", Some(Runtime::Podman)),
];

/// Reads a cgroup path (as in `/proc/PID/cgroup` or a `cgroup_mkdir` event). `None`: not a
/// container's.
pub fn parse(path: &str) -> Option<ContainerPath> {
    let mut pod_uid = None;
    let mut parent = "";
    let mut end = 0;
    for component in path.split('/') {
        // Byte offset of the end of this component in `path`.
        end += component.len();
        if let Some(uid) = pod_of(component) {
            pod_uid = Some(uid);
        }
        if let Some((runtime, id)) = container_of(component, parent, pod_uid.is_some()) {
            return Some(ContainerPath { runtime, id: id.to_owned(), pod_uid, root_len: end });
        }
        if !component.is_empty() {
            parent = component;
        }
        end += 1;
    }
    None
}

/// Is this a full container id?
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn container_of<'c>(component: &'c str, parent: &str, in_pod: bool) -> Option<(Runtime, &'c str)> {
    if is_id(component) {
        return bare(parent, in_pod).map(|runtime| (runtime, component));
    }
    // `SLICE:cri-containerd:ID` is what a cgroupfs driver makes of a systemd-style path.
    if let Some((before, id)) = component.rsplit_once(':') {
        let name = before.rsplit_once(':').map_or("", |(_, name)| name);
        return is_id(id).then(|| (named(name), id));
    }
    let unit = component.strip_suffix(".scope").unwrap_or(component);
    for (prefix, runtime) in PREFIXES {
        if let Some(rest) = unit.strip_prefix(prefix) {
            return is_id(rest).then_some(rest).and_then(|id| runtime.map(|r| (r, id)));
        }
    }
    None
}

/// An id standing alone, below `parent`.
fn bare(parent: &str, in_pod: bool) -> Option<Runtime> {
    match parent {
        "lxc" | "lxc.payload" | "lxc.monitor" => None,
        "docker" => Some(Runtime::Docker),
        // containerd's namespaces: ctr and CRI use `k8s.io`, nerdctl `default`.
        "k8s.io" | "default" => Some(Runtime::Containerd),
        "libpod_parent" => Some(Runtime::Podman),
        // Both containerd and cri-dockerd make these.
        _ if in_pod => Some(Runtime::Unknown),
        "" => Some(Runtime::Unknown),
        // `--cgroup-parent` of an engine with the cgroupfs driver; only Docker's habit is to put
        // the bare id there.
        _ => Some(Runtime::Docker),
    }
}

fn named(name: &str) -> Runtime {
    match name {
        "docker" => Runtime::Docker,
        "cri-containerd" | "containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::CriO,
        "libpod" => Runtime::Podman,
        _ => Runtime::Unknown,
    }
}

/// The pod uid in a component: `podUID` (cgroupfs) or `…-podUID.slice` (systemd, `_` for `-`).
fn pod_of(component: &str) -> Option<String> {
    let unit = component.split(':').next().unwrap_or(component);
    let uid = match unit.strip_suffix(".slice") {
        Some(slice) if slice.contains("kubepods") => slice.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => unit.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let hex = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let shape = uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    // A UUID; or 32 digits, the config hash of a static pod.
    (shape && hex == 32 && matches!(uid.len(), 32 | 36)).then_some(uid)
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
