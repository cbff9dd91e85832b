//! The sockets through which a container runtime is commanded, by identity: whoever reaches one
//! from inside a container owns the host, under whatever name it was mounted.

use super::kernel_dev;
use crate::event::Inode;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where runtimes listen by default.
pub const KNOWN: &[&str] = &[
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/run/cri-dockerd.sock",
];

/// One that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeSocket {
    /// Identity of the socket file.
    pub inode: Inode,
    /// Where it was found.
    pub path: PathBuf,
}

/// The known sockets and those in `configured` (with or without `unix://`) that exist now, each
/// once. An engine's restart makes a new inode, so this is asked again when the engine reconnects.
pub fn runtime_sockets<'p>(configured: impl IntoIterator<Item = &'p Path>) -> Vec<RuntimeSocket> {
    let mut found: Vec<RuntimeSocket> = Vec::new();
    let configured = configured.into_iter().map(strip_scheme);
    for path in KNOWN.iter().map(PathBuf::from).chain(configured) {
        let Ok(meta) = std::fs::metadata(&path) else {
            continue;
        };
        let inode = Inode { dev: kernel_dev(meta.dev()), ino: meta.ino() };
        if meta.file_type().is_socket() && found.iter().all(|s| s.inode != inode) {
            found.push(RuntimeSocket { inode, path });
        }
    }
    found
}

/// `unix:///run/docker.sock` → `/run/docker.sock`.
pub fn strip_scheme(path: &Path) -> PathBuf {
    match path.to_str().and_then(|p| p.strip_prefix("unix://")) {
        Some(plain) => PathBuf::from(plain),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_socket_counts_once_under_any_name_and_a_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        let file = dir.path().join("file.sock");
        std::fs::write(&file, "").unwrap();
        let url = PathBuf::from(format!("unix://{}", socket.display()));
        let found = runtime_sockets([url.as_path(), link.as_path(), file.as_path()]);
        let ours: Vec<_> = found.iter().filter(|s| s.path.starts_with(dir.path())).collect();
        assert_eq!(ours.len(), 1);
        let meta = std::fs::metadata(&socket).unwrap();
        assert_eq!(ours[0].inode.ino, meta.ino());
    }
}
