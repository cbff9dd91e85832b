//! A proxy is asked for an onion name: a Tor client is at work, wherever it runs and whatever it is called.

use super::Detector;
use super::context::Context;
use crate::event::{Body, Event, HOST, Kind};
use crate::finding::{Detection, FindingKind};

/// See the module.
pub struct Onion;

impl Detector for Onion {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Payload]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let Body::Payload(payload) = &event.body else {
            return None;
        };
        if event.container == HOST || payload.inbound {
            return None;
        }
        let name = requested(&payload.data)?;
        let message = format!("{} asks the proxy {} for {name}", cx.describe(event.process), payload.peer);
        let mut detection = Detection::new(FindingKind::Ioc, event.process, message).with(
            event.id,
            "onion_name",
            0,
            format!("request for {name} to {}", payload.peer),
        );
        detection.peer = Some(payload.peer);
        detection.alert_only = true;
        Some(detection)
    }
}

/// The onion name that a SOCKS 4a, SOCKS 5 (RFC 1928) or CONNECT request asks for.
fn requested(data: &[u8]) -> Option<String> {
    let name = match data {
        [5, 1, _, 3, length, rest @ ..] => rest.get(..usize::from(*length))?,
        // After user and NUL comes the name.
        [4, 1, _, _, 0, 0, 0, _, rest @ ..] => rest.split(|b| *b == 0).nth(1)?,
        _ => data.strip_prefix(b"CONNECT ")?.split(|b| matches!(b, b':' | b' ')).next()?,
    };
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    (plain && name.ends_with(".onion")).then_some(name)
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds};
    use crate::finding::FindingKind::{self, Ioc};
    use proptest::prelude::*;

    fn sends(data: &[u8]) -> Vec<FindingKind> {
        kinds(&Lab::new().payload(9, "127.0.0.1:9050", 1, false, data))
    }

    #[test]
    fn requests_for_onion_names() {
        assert_eq!(sends(b"\x05\x01\x00\x03\x07x.onion\x0d\x05"), [Ioc]);
        assert_eq!(sends(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00x.onion\x00"), [Ioc]);
        assert_eq!(sends(b"CONNECT abc.onion:443 HTTP/1.1\r\n\r\n"), [Ioc]);
        assert!(sends(b"\x05\x01\x00\x03\x09x.example\x0d\x05").is_empty());
        assert!(sends(b"GET /x.onion HTTP/1.1\r\n\r\n").is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            super::requested(&data);
        }
    }
}
