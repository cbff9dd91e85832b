//! A container talks to a container runtime: its AF_UNIX socket, known by inode or by name, or its
//! API over TCP. With it a container starts another one with the host's root mounted.

use super::Detector;
use super::context::Context;
use crate::event::{Body, ConnectOp, Event, HOST, Kind, Reason};
use crate::finding::{Detection, FindingKind};

const TCP: u16 = 6;

/// See the module.
pub struct DockerSocket;

impl Detector for DockerSocket {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::UnixConnect, Kind::Connect]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        if event.container == HOST {
            return None;
        }
        let prevented = event.prevented();
        let (what, target, peer) = match &event.body {
            Body::UnixConnect { name, known } => {
                if !known && !prevented && has_own_runtime(event, cx) {
                    return None;
                }
                let what = if *known { "runtime_socket" } else { "runtime_socket_name" };
                (what, name.to_string(), None)
            }
            Body::Connect(connect) if connect.op != ConnectOp::Listen => {
                let port = matches!(connect.peer.port(), 2375 | 2376) && connect.protocol == TCP;
                if !port && event.reason != Reason::DockerSocket {
                    return None;
                }
                let own = connect.peer.ip().is_loopback() && has_own_runtime(event, cx);
                if !prevented && (own || cx.containers.expects_connect(event.container, connect.peer)) {
                    return None;
                }
                ("runtime_port", connect.peer.to_string(), Some(connect.peer))
            }
            _ => return None,
        };
        if !prevented && peer.is_none() && cx.containers.expects_runtime_socket(event.container) {
            return None;
        }
        let message = format!("{} talks to a container runtime at {target}", cx.describe(event.process));
        let mut detection = Detection::new(FindingKind::DockerSocket, event.process, message).with(
            event.id,
            what,
            0,
            format!("connected to {target}"),
        );
        detection.peer = peer;
        Some(detection)
    }
}

/// Docker in Docker: the engine behind the socket is this container's own, which the host's socket
/// (known by inode) never is.
fn has_own_runtime(event: &Event, cx: &Context<'_>) -> bool {
    const ENGINES: &[&str] = &["dockerd", "containerd", "podman", "buildkitd", "crio", "k3s"];
    cx.processes
        .in_container(event.container)
        .any(|p| ENGINES.contains(&p.program.name()) || ENGINES.contains(&p.comm.as_str()))
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds};
    use crate::event::Body;
    use crate::finding::FindingKind;

    fn connect(lab: &mut Lab, pid: u32, known: bool) -> Vec<FindingKind> {
        let name = "/var/run/docker.sock".into();
        kinds(&lab.act(pid, Body::UnixConnect { name, known }))
    }

    #[test]
    fn sockets_and_ports() {
        let mut lab = Lab::new();
        assert_eq!(connect(&mut lab, 9, true), [FindingKind::DockerSocket]);
        assert!(connect(&mut lab, 9, true).is_empty(), "told once");
        assert_eq!(connect(&mut Lab::new(), 9, false), [FindingKind::DockerSocket]);
        assert_eq!(kinds(&Lab::new().connect(9, "10.200.0.1:2375", 1)), [FindingKind::DockerSocket]);
    }

    #[test]
    fn docker_in_docker() {
        let mut lab = Lab::new();
        lab.exec(20, 5, &["dockerd"]);
        assert!(connect(&mut lab, 9, false).is_empty());
        assert!(lab.connect(9, "127.0.0.1:2375", 1).is_empty());
        assert_eq!(connect(&mut lab, 9, true), [FindingKind::DockerSocket], "the host's");
    }
}
