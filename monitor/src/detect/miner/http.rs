//! HTTP and proxy requests in front of, or around, a mining protocol: CONNECT, SOCKS 4a and 5, and
//! JSON-RPC in a POST body.

/// What the start of an outbound stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A request to a proxy for this host; the tunnelled stream begins at the offset, if it did.
    Proxy {
        /// Host name or address asked for.
        host: String,
        /// Where the tunnelled bytes begin.
        rest: usize,
    },
    /// An HTTP request; where its body begins, if it did.
    Http {
        /// Where the body begins.
        body: Option<usize>,
    },
    /// Not decided: more bytes needed.
    More,
    /// Anything else.
    Other,
}

/// Methods of HTTP requests, with the blank behind.
const METHODS: [&[u8]; 7] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"DELETE ", b"PATCH "];

/// What the outbound stream begins with.
pub fn outbound(bytes: &[u8]) -> Start {
    match bytes.first() {
        None => Start::More,
        Some(5) => socks5(bytes),
        Some(4) => socks4(bytes),
        Some(_) if bytes.starts_with(b"CONNECT ") => connect(bytes),
        Some(_) if METHODS.iter().any(|m| bytes.starts_with(m)) => Start::Http { body: end_of_head(bytes) },
        Some(_) => Start::Other,
    }
}

/// Where an inbound stream's payload begins: behind the proxy's answer, if it is one.
pub fn inbound(bytes: &[u8], proxied: bool) -> usize {
    if !proxied {
        return 0;
    }
    if bytes.starts_with(b"HTTP/") {
        return end_of_head(bytes).unwrap_or(bytes.len());
    }
    // SOCKS answers are binary and short: the JSON begins at the first brace.
    bytes.iter().take(64).position(|b| *b == b'{').unwrap_or(0)
}

/// Offset behind the blank line that ends a head.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
    crlf.or_else(|| bytes.windows(2).position(|w| w == b"\n\n").map(|at| at + 2))
}

fn connect(bytes: &[u8]) -> Start {
    let target = bytes[8..].split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
    let text = String::from_utf8_lossy(target);
    let host = text.rsplit_once(':').map_or(text.as_ref(), |(h, _)| h).to_owned();
    Start::Proxy { host, rest: end_of_head(bytes).unwrap_or(bytes.len()) }
}

/// Greeting `05 n methods`, then `05 01 00 type address port`.
fn socks5(bytes: &[u8]) -> Start {
    let Some(methods) = bytes.get(1).map(|n| usize::from(*n)) else {
        return Start::More;
    };
    let request = 2 + methods;
    let Some(head) = bytes.get(request..request + 5) else {
        return Start::More;
    };
    if head[0] != 5 || head[1] != 1 {
        return Start::Other;
    }
    let (from, length) = match head[3] {
        3 => (request + 5, usize::from(head[4])),
        1 => (request + 4, 4),
        4 => (request + 4, 16),
        _ => return Start::Other,
    };
    let Some(name) = bytes.get(from..from + length) else {
        return Start::More;
    };
    let host = if head[3] == 3 { String::from_utf8_lossy(name).into_owned() } else { String::new() };
    Start::Proxy { host, rest: (from + length + 2).min(bytes.len()) }
}

/// `04 01 port address user NUL`, and for 4a (address 0.0.0.x) a name and NUL behind.
fn socks4(bytes: &[u8]) -> Start {
    let Some(head) = bytes.get(..9) else {
        return Start::More;
    };
    if head[1] != 1 {
        return Start::Other;
    }
    let Some(user) = bytes[8..].iter().position(|b| *b == 0) else {
        return Start::Other;
    };
    let name_at = 8 + user + 1;
    if head[4..7] != [0, 0, 0] {
        return Start::Proxy { host: String::new(), rest: name_at };
    }
    let Some(length) = bytes[name_at..].iter().position(|b| *b == 0) else {
        return Start::More;
    };
    let host = String::from_utf8_lossy(&bytes[name_at..name_at + length]).into_owned();
    Start::Proxy { host, rest: name_at + length + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn proxies() {
        let text = b"CONNECT pool.minexmr.com:3333 HTTP/1.1\r\nHost: x\r\n\r\n{";
        let rest = text.len() - 1;
        assert_eq!(outbound(text), Start::Proxy { host: "pool.minexmr.com".into(), rest });
        let socks = b"\x05\x01\x00\x05\x01\x00\x03\x07x.onion\x0d\x05{";
        assert_eq!(outbound(socks), Start::Proxy { host: "x.onion".into(), rest: 17 });
        let four = b"\x04\x01\x0d\x05\0\0\0\x01u\0x.onion\0";
        assert_eq!(outbound(four), Start::Proxy { host: "x.onion".into(), rest: 18 });
        assert_eq!(outbound(b"\x05\x01"), Start::More);
    }

    #[test]
    fn requests() {
        assert_eq!(outbound(b"POST /json_rpc HTTP/1.1\r\n\r\n{}"), Start::Http { body: Some(27) });
        assert_eq!(outbound(b"{\"id\":1"), Start::Other);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), first in 0u8..8, proxied: bool) {
            let _ = outbound(&bytes);
            let _ = inbound(&bytes, proxied);
            if !bytes.is_empty() {
                bytes[0] = first;
                let _ = outbound(&bytes);
            }
        }
    }
}
