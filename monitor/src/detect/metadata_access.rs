//! A container talks to the cloud metadata service, which hands out the node's credentials.

use super::Detector;
use super::context::Context;
use crate::event::{Body, ConnectOp, Event, HOST, Kind, Reason};
use crate::finding::{Detection, FindingKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// AWS, GCP, Azure, OpenStack, DigitalOcean, Oracle (169.254.169.254); AWS over IPv6; Alibaba;
/// ECS task credentials.
const ADDRESSES: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];
/// On some clouds the same address is the resolver and the time server.
const OTHER_SERVICES: &[u16] = &[53, 123];

/// See the module.
pub struct MetadataAccess;

impl Detector for MetadataAccess {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Connect]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let Body::Connect(connect) = &event.body else {
            return None;
        };
        let listed = ADDRESSES.contains(&connect.peer.ip());
        if event.container == HOST || connect.op == ConnectOp::Listen {
            return None;
        }
        if !listed && event.reason != Reason::MetadataAccess {
            return None;
        }
        let port = connect.peer.port();
        // A UDP connect without a datagram is how libc sorts addresses.
        let other = OTHER_SERVICES.contains(&port) || connect.protocol == 17;
        let expected = cx.containers.expects_connect(event.container, connect.peer);
        if !event.prevented() && (other || expected) {
            return None;
        }
        let message =
            format!("{} connects to the cloud metadata service at {}", cx.describe(event.process), connect.peer);
        let detail = format!("{} connects to {}", connect.comm, connect.peer);
        let mut detection = Detection::new(FindingKind::MetadataAccess, event.process, message).with(
            event.id,
            "metadata_address",
            0,
            detail,
        );
        detection.peer = Some(connect.peer);
        Some(detection)
    }
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds};
    use crate::finding::FindingKind::MetadataAccess;

    #[test]
    fn addresses_and_other_services() {
        let mut lab = Lab::new();
        assert!(lab.connect(9, "169.254.169.254:53", 1).is_empty(), "the cloud's resolver");
        assert_eq!(kinds(&lab.connect(9, "169.254.169.254:80", 2)), [MetadataAccess]);
        assert_eq!(kinds(&lab.connect(5, "[fd00:ec2::254]:80", 3)).len(), 1);
        assert!(lab.connect(5, "169.254.169.1:80", 4).is_empty());
    }
}
