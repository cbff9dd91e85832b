//! TLS ClientHello: server name and whether a web protocol is offered. The hello may be cut and may
//! be split over segments; what is there counts.

/// What a hello tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Server name (SNI).
    pub host: String,
    /// ALPN offers HTTP: a web client. Miners offer nothing.
    pub web: bool,
    /// The extensions were all there.
    pub complete: bool,
}

/// Reads a hello; `None` unless a server name was found.
pub fn client_hello(bytes: &[u8]) -> Option<Hello> {
    // Record: type 22, version 3.x, length; handshake: type 1, length 3.
    if bytes.first() != Some(&22) || bytes.get(1) != Some(&3) || bytes.get(5) != Some(&1) {
        return None;
    }
    // Version 2, random 32.
    let mut at = 9 + 2 + 32;
    at += 1 + usize::from(*bytes.get(at)?);
    at += 2 + word(bytes, at)?;
    at += 1 + usize::from(*bytes.get(at)?);
    let end = at + 2 + word(bytes, at)?;
    at += 2;
    let mut hello = Hello::default();
    while at + 4 <= end.min(bytes.len()) {
        let (kind, length) = (word(bytes, at)?, word(bytes, at + 2)?);
        let body = at + 4;
        let data = bytes.get(body..body + length);
        match (kind, data) {
            (0, Some(data)) => hello.host = server_name(data)?,
            (16, Some(data)) => hello.web |= offers_http(data),
            _ => {}
        }
        at = body + length;
    }
    hello.complete = at >= end && end <= bytes.len();
    (!hello.host.is_empty()).then_some(hello)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn server_name(data: &[u8]) -> Option<String> {
    // List length 2, type 0 (host name), length 2.
    if data.get(2) != Some(&0) {
        return None;
    }
    let length = word(data, 3)?;
    let name = data.get(5..5 + length)?;
    Some(String::from_utf8_lossy(name).to_ascii_lowercase())
}

fn offers_http(data: &[u8]) -> bool {
    let mut at = 2;
    while let Some(length) = data.get(at).map(|l| usize::from(*l)) {
        let Some(protocol) = data.get(at + 1..at + 1 + length) else {
            return false;
        };
        if protocol.starts_with(b"h2") || protocol.starts_with(b"http/") {
            return true;
        }
        at += 1 + length;
    }
    false
}

#[cfg(test)]
pub(super) fn sample(host: &str, web: bool) -> Vec<u8> {
    let two = |n: usize| u16::try_from(n).unwrap_or(0).to_be_bytes();
    let mut ext = Vec::new();
    ext.extend_from_slice(&[0, 0]);
    ext.extend_from_slice(&two(host.len() + 5));
    ext.extend_from_slice(&two(host.len() + 3));
    ext.push(0);
    ext.extend_from_slice(&two(host.len()));
    ext.extend_from_slice(host.as_bytes());
    if web {
        ext.extend_from_slice(&[0, 16, 0, 5, 0, 3, 2, b'h', b'2']);
    }
    let mut m = vec![22, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3];
    m.extend_from_slice(&[7; 32]);
    m.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    m.extend_from_slice(&two(ext.len()));
    m.extend_from_slice(&ext);
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_alpn() {
        let hello = client_hello(&sample("pool.supportxmr.com", false));
        assert_eq!(hello, Some(Hello { host: "pool.supportxmr.com".into(), web: false, complete: true }));
        assert!(client_hello(&sample("a.example", true)).is_some_and(|h| h.web));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = client_hello(&bytes);
        }

        #[test]
        fn never_panics_when_cut_or_bent(at in 0usize..120, byte: u8, cut in 0usize..120) {
            let mut m = sample("pool.supportxmr.com", true);
            let n = m.len();
            m[at % n] = byte;
            let _ = client_hello(&m[..cut.min(n)]);
        }
    }
}
