//! Mining protocols over JSON-RPC: what tells a request or an answer of theirs from everything else
//! that is spoken in JSON.

use super::json::{Field, read};

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A miner's request; its method.
    Request(String),
    /// A pool's answer or notification.
    Answer(&'static str),
    /// A call for work that a node answers as well (weak alone).
    Work {
        /// Method.
        method: String,
        /// The work is asked for a wallet.
        wallet: bool,
    },
    /// Work handed in to a node.
    Submit(String),
}

/// What the JSON message at the start of `text` is. The text may be cut.
pub fn classify(text: &[u8], inbound: bool) -> Option<Message> {
    let (fields, _) = read(text);
    if inbound { answer(&fields) } else { request(&fields) }
}

/// Splits a stream of messages: the offset behind the first, when it is complete.
pub fn end_of_first(text: &[u8]) -> Option<usize> {
    read(text).1
}

fn get<'a>(fields: &'a [Field], path: &str) -> Option<&'a str> {
    fields.iter().find(|f| f.path == path).map(|f| f.value.as_str())
}

fn request(fields: &[Field]) -> Option<Message> {
    let method = get(fields, "method")?;
    let has = |name: &str| fields.iter().any(|f| f.path == format!("params.{name}"));
    let is_request = match method {
        // FreeSWITCH's Verto logs in with `login` and `passwd`: hence three fields.
        "login" => {
            let wallet = get(fields, "params.login").is_some_and(is_wallet);
            let client = has("agent") || has("algo") || has("rigid") || wallet;
            has("login") && client && (has("pass") || wallet)
        }
        "submit" => has("nonce") && has("result") && (has("job_id") || has("id")),
        "keepalived" => has("id"),
        "eth_submitLogin" | "eth_submitWork" | "eth_submitHashrate" => true,
        _ => method.strip_prefix("mining.").is_some_and(|m| MINING.contains(&m)),
    };
    if is_request {
        return Some(Message::Request(method.to_owned()));
    }
    match method {
        "eth_getWork" | "getwork" | "getblocktemplate" | "get_block_template" | "getjobtemplate" => {
            let wallet = has("wallet_address");
            Some(Message::Work { method: method.to_owned(), wallet })
        }
        "submitblock" | "submit_block" => Some(Message::Submit(method.to_owned())),
        _ => None,
    }
}

/// Stratum v1 methods of the miner's side.
const MINING: &[&str] = &[
    "subscribe",
    "authorize",
    "submit",
    "extranonce.subscribe",
    "configure",
    "suggest_difficulty",
    "suggest_target",
    "get_transactions",
    "multi_version",
    "hello",
    "noop",
];

fn answer(fields: &[Field]) -> Option<Message> {
    match get(fields, "method") {
        Some("mining.notify") => return Some(Message::Answer("a job (mining.notify)")),
        Some("mining.set_difficulty" | "mining.set_target" | "mining.set_extranonce") => {
            return Some(Message::Answer("a difficulty"));
        }
        Some("job") if get(fields, "params.blob").is_some() && get(fields, "params.target").is_some() => {
            return Some(Message::Answer("a job"));
        }
        _ => {}
    }
    // The order of keys is free and the tail may be missing: two of the three are enough.
    let job = ["result.job.blob", "result.job.job_id", "result.job.target"];
    if job.iter().filter(|path| get(fields, path).is_some()).count() >= 2 {
        return Some(Message::Answer("a job"));
    }
    fields
        .iter()
        .any(|f| f.path == "result" && matches!(f.value.as_str(), "mining.notify" | "mining.set_difficulty"))
        .then_some(Message::Answer("a subscription (mining.notify)"))
}

/// A Monero address (95 or 106 base58 characters), perhaps with a worker's name or difficulty.
fn is_wallet(login: &str) -> bool {
    let end = login.find(['.', '+', '/', ':', '@']).unwrap_or(login.len());
    let address = &login[..end];
    matches!(address.len(), 95 | 106)
        && address.bytes().all(|b| b.is_ascii_alphanumeric() && !matches!(b, b'0' | b'O' | b'I' | b'l'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_request(text: &str) -> bool {
        matches!(classify(text.as_bytes(), false), Some(Message::Request(_)))
    }

    #[test]
    fn requests() {
        for text in [
            r#"{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"LABWALLET","pass":"x","agent":"XMRig/6.21"}}"#,
            r#"{"params":{"pass":"x","algo":["rx/0"],"login":"w"},"method":"login"}"#,
            r#"{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}"#,
            r#"{"id":2,"method":"mining.authorize","params":["a","b"]}"#,
            r#"{"id":1,"jsonrpc":"2.0","method":"eth_submitLogin","params":["0xabc"]}"#,
            r#"{"method":"submit","params":{"id":"1","job_id":"2","nonce":"a","result":"b"}}"#,
        ] {
            assert!(is_request(text), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it() {
        for text in [
            r#"{"jsonrpc":"2.0","method":"login","params":{"login":"1000@sip","passwd":"x","sessid":"y"},"id":1}"#,
            r#"{"method":"login","params":{"login":"bob","pass":"secret"}}"#,
            r#"{"jsonrpc":"2.0","method":"eth_blockNumber","id":1}"#,
            r#"{"method":"getblockcount","params":[]}"#,
            r#"{"method":"mining.example","params":[]}"#,
            r#"{"text":"{\"method\":\"mining.subscribe\"}"}"#,
            r#"{"method":"submit","params":{"form":"x"}}"#,
        ] {
            assert!(classify(text.as_bytes(), false).is_none(), "{text}");
        }
    }

    #[test]
    fn answers() {
        for text in [
            r#"{"id":1,"jsonrpc":"2.0","result":{"id":"a","job":{"blob":"0e0e","job_id":"1","target":"b88d0600"},"status":"OK"}}"#,
            r#"{"jsonrpc":"2.0","method":"job","params":{"blob":"0e","job_id":"1","target":"b8"}}"#,
            r#"{"id":null,"method":"mining.notify","params":["bf","4d16"]}"#,
            r#"{"id":1,"result":[[["mining.set_difficulty","b4"],["mining.notify","ae"]],"08000002",4],"error":null}"#,
        ] {
            assert!(classify(text.as_bytes(), true).is_some(), "{text}");
        }
        assert!(classify(br#"{"result":{"job":{"id":7,"name":"backup"}}}"#, true).is_none());
    }

    #[test]
    fn wallets() {
        assert!(is_wallet(&"4".repeat(95)) && is_wallet(&format!("{}.rig1", "8".repeat(106))));
        assert!(!is_wallet("LABWALLET"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), inbound: bool) {
            let _ = classify(&bytes, inbound);
            let _ = end_of_first(&bytes);
        }
    }
}
