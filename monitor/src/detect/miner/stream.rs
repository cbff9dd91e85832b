//! Puts the first segments of a connection back together (at most 1 KiB a direction) and says what
//! they show, each thing once.

use super::{http, stratum, tls};
use crate::detect::bounded::Bounded;
use crate::event::Payload;
use stratum::Message;

/// Connections held.
const STREAMS: usize = 512;
/// Bytes kept a direction.
const KEPT: usize = 1024;

/// What a stream shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A miner's request.
    Request(String),
    /// A pool's answer.
    Answer(&'static str),
    /// A call for work.
    Work {
        /// Method.
        method: String,
        /// For a wallet.
        wallet: bool,
    },
    /// Work handed in.
    Submit(String),
    /// A proxy is asked for this host.
    Proxy(String),
    /// A TLS hello.
    ServerName {
        /// Name.
        host: String,
        /// From a web client.
        web: bool,
    },
    /// A plain HTTP request that is no JSON-RPC.
    Web,
}

#[derive(Debug, Default)]
struct Stream {
    out: Vec<u8>,
    inn: Vec<u8>,
    proxied: bool,
    /// Bytes of each direction that were judged already.
    judged: [usize; 2],
    told_name: bool,
    told_proxy: bool,
    told_web: bool,
}

/// See the module.
pub struct Streams {
    open: Bounded<u64, Stream>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: Bounded::new(STREAMS) }
    }
}

impl Streams {
    /// Takes in a segment; returns what it adds.
    pub fn feed(&mut self, payload: &Payload) -> Vec<Sign> {
        let mut signs = Vec::new();
        let Some(stream) = self.open.entry(payload.cookie, Stream::default) else {
            return signs;
        };
        let datagram = payload.protocol == 17;
        let buffer = if payload.inbound { &mut stream.inn } else { &mut stream.out };
        // A datagram is a message of its own.
        if datagram {
            buffer.clear();
            stream.judged[usize::from(payload.inbound)] = 0;
        }
        let room = KEPT - buffer.len().min(KEPT);
        buffer.extend_from_slice(&payload.data[..payload.data.len().min(room)]);
        if payload.inbound {
            stream.inbound(&mut signs);
        } else {
            stream.outbound(&mut signs);
        }
        signs
    }
}

impl Stream {
    fn outbound(&mut self, signs: &mut Vec<Sign>) {
        let mut from = 0;
        match http::outbound(&self.out) {
            http::Start::Proxy { host, rest } => {
                if !self.told_proxy && !host.is_empty() {
                    signs.push(Sign::Proxy(host));
                }
                self.told_proxy = true;
                self.proxied = true;
                from = rest;
            }
            http::Start::Http { body } => return self.http(body, signs),
            http::Start::More => return,
            http::Start::Other => {}
        }
        if let Some(hello) = tls::client_hello(&self.out[from..])
            && !self.told_name
            // A web client's ALPN may come in the next segment; a full buffer waits no longer.
            && (hello.complete || hello.web || self.out.len() >= 512)
        {
            self.told_name = true;
            signs.push(Sign::ServerName { host: hello.host, web: hello.web });
        }
        self.messages(from, false, signs);
    }

    fn inbound(&mut self, signs: &mut Vec<Sign>) {
        let from = http::inbound(&self.inn, self.proxied);
        self.messages(from, true, signs);
    }

    /// JSON messages one behind the other, from where the last look ended.
    fn messages(&mut self, from: usize, inbound: bool, signs: &mut Vec<Sign>) {
        let buffer = if inbound { &self.inn } else { &self.out };
        let judged = &mut self.judged[usize::from(inbound)];
        let mut at = from.max(*judged);
        loop {
            let text = buffer.get(at..).unwrap_or_default();
            let start = text.iter().position(|b| !b.is_ascii_whitespace() && *b != 0);
            let Some(start) = start.filter(|s| text[*s] == b'{') else {
                break;
            };
            let text = &text[start..];
            if let Some(message) = stratum::classify(text, inbound) {
                signs.push(Sign::from(message));
                // Known now; a longer look at the same message adds nothing.
                *judged = stratum::end_of_first(text).map_or(buffer.len(), |e| at + start + e);
                at = *judged;
                continue;
            }
            let Some(end) = stratum::end_of_first(text) else {
                break;
            };
            at += start + end;
            *judged = at;
        }
    }

    /// JSON-RPC in a POST body counts; anything else is the web.
    fn http(&mut self, body: Option<usize>, signs: &mut Vec<Sign>) {
        let post = self.out.starts_with(b"POST ");
        let text = body.and_then(|at| self.out.get(at..)).unwrap_or_default();
        let message = if post { stratum::classify(text, false) } else { None };
        match message {
            Some(message) => {
                // Over HTTP the same words are an application's own more often than a miner's.
                signs.extend(match message {
                    Message::Request(method) if method.contains('_') || method.contains('.') => {
                        Some(Sign::Submit(method))
                    }
                    Message::Request(_) => None,
                    other => Some(Sign::from(other)),
                });
                // The next request of the same connection starts over.
                self.out.clear();
                self.judged[0] = 0;
            }
            None if !post && !self.told_web => {
                self.told_web = true;
                signs.push(Sign::Web);
            }
            None if self.out.len() >= KEPT || post && stratum::end_of_first(text).is_some() => {
                self.out.clear();
                self.judged[0] = 0;
            }
            None => {}
        }
    }
}

impl From<Message> for Sign {
    fn from(message: Message) -> Self {
        match message {
            Message::Request(method) => Self::Request(method),
            Message::Answer(kind) => Self::Answer(kind),
            Message::Work { method, wallet } => Self::Work { method, wallet },
            Message::Submit(method) => Self::Submit(method),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn segment(cookie: u64, inbound: bool, data: &[u8]) -> Payload {
        Payload {
            peer: "203.0.113.66:3333".parse().unwrap(),
            protocol: 6,
            cookie,
            inbound,
            index: 0,
            segment: 0,
            data: data.to_vec(),
        }
    }

    const LOGIN: &[u8] = br#"{"id":1,"method":"login","params":{"login":"LABWALLET","pass":"x","agent":"fm/1"}}"#;

    #[test]
    fn split_requests_are_put_together() {
        for n in [1, 5, 9, 40] {
            let mut streams = Streams::default();
            let signs: Vec<Sign> = LOGIN.chunks(n).flat_map(|c| streams.feed(&segment(7, false, c))).collect();
            assert_eq!(signs, [Sign::Request("login".into())], "{n} bytes a segment");
        }
    }

    #[test]
    fn a_request_behind_a_proxy() {
        let mut streams = Streams::default();
        let first = streams.feed(&segment(1, false, b"CONNECT pool.minexmr.com:3333 HTTP/1.1\r\n\r\n"));
        assert_eq!(first, [Sign::Proxy("pool.minexmr.com".into())]);
        assert!(streams.feed(&segment(1, true, b"HTTP/1.1 200 OK\r\n\r\n")).is_empty());
        assert_eq!(streams.feed(&segment(1, false, LOGIN)), [Sign::Request("login".into())]);
        let job = br#"{"id":1,"result":{"job":{"blob":"0e","job_id":"1","target":"b8"}}}"#;
        assert_eq!(streams.feed(&segment(1, true, job)), [Sign::Answer("a job")]);
    }

    #[test]
    fn web_pages_about_mining_are_not_mining() {
        let mut streams = Streams::default();
        streams.feed(&segment(1, false, b"GET /stratum.html HTTP/1.1\r\n\r\n"));
        let page = b"HTTP/1.1 200 OK\r\n\r\n{\"method\":\"mining.notify\",\"params\":[]}";
        assert!(streams.feed(&segment(1, true, page)).is_empty());
    }

    #[test]
    fn the_second_message_counts() {
        let mut streams = Streams::default();
        streams.feed(&segment(1, false, b"{\"hello\":1}\n"));
        let signs = streams.feed(&segment(1, false, b"{\"id\":2,\"method\":\"mining.authorize\"}\n"));
        assert_eq!(signs, [Sign::Request("mining.authorize".into())]);
    }

    proptest! {
        #[test]
        fn never_panics(chunks in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..512)), 0..8)) {
            let mut streams = Streams::default();
            for (inbound, data) in chunks {
                streams.feed(&segment(1, inbound, &data));
            }
        }
    }
}
