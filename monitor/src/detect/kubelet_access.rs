//! A container talks to a kubelet: port 10250 (authenticated API) or 10255 (read-only).

use super::Detector;
use super::context::Context;
use crate::event::{Body, ConnectOp, Event, HOST, Kind, Reason};
use crate::finding::{Detection, FindingKind};

const UDP: u16 = 17;

/// See the module.
pub struct KubeletAccess;

impl Detector for KubeletAccess {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Connect]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let Body::Connect(connect) = &event.body else {
            return None;
        };
        let port = matches!(connect.peer.port(), 10250 | 10255) && connect.protocol != UDP;
        if event.container == HOST || connect.op == ConnectOp::Listen {
            return None;
        }
        if !port && event.reason != Reason::KubeletAccess {
            return None;
        }
        if !event.prevented() && is_expected(event, connect.peer, cx) {
            return None;
        }
        let message = format!("{} connects to a kubelet at {}", cx.describe(event.process), connect.peer);
        let detail = format!("{} connects to {}", connect.comm, connect.peer);
        let mut detection = Detection::new(FindingKind::KubeletAccess, event.process, message).with(
            event.id,
            "kubelet_port",
            0,
            detail,
        );
        detection.peer = Some(connect.peer);
        Some(detection)
    }
}

/// The API server, metrics-server, Prometheus: their business, as long as they are the image's own
/// and not a copy dropped under their name.
fn is_expected(event: &Event, peer: std::net::SocketAddr, cx: &Context<'_>) -> bool {
    cx.containers.expects_connect(event.container, peer)
        || cx.process(event).is_some_and(|p| {
            Context::is_from_image(p) && cx.settings.kubelet_clients.iter().any(|c| c == p.program.name())
        })
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds};
    use crate::finding::FindingKind::KubeletAccess;

    #[test]
    fn ports_and_clients() {
        let mut lab = Lab::new();
        assert_eq!(kinds(&lab.connect(9, "10.200.0.1:10250", 1)), [KubeletAccess]);
        assert!(lab.connect(5, "10.200.0.1:10251", 2).is_empty());
        lab.exec(20, 5, &["/metrics-server"]);
        assert!(lab.connect(20, "10.200.0.1:10250", 3).is_empty());
    }
}
