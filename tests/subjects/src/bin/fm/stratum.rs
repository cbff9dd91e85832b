//! What a miner says to its pool.

use crate::options::{Options, Proto};
use serde_json::json;

/// Name the miner gives itself in its first message.
const AGENT: &str = "XMRig/6.21.0 (Linux x86_64) libuv/1.44.2 gcc/12.2.0";

/// First bytes on the connection.
pub fn greeting(options: &Options) -> Vec<u8> {
    match options.proto {
        Proto::Monero => lines(&[json!({
            "id": 1, "jsonrpc": "2.0", "method": "login",
            "params": {"login": options.user, "pass": options.pass, "agent": AGENT, "algo": ["rx/0", "cn/r"]},
        })]),
        Proto::Btc => lines(&[
            json!({"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}),
            json!({"id": 2, "method": "mining.authorize", "params": [options.user, options.pass]}),
        ]),
        Proto::Eth => lines(&[
            json!({"id": 1, "jsonrpc": "2.0", "method": "eth_submitLogin", "params": [options.user, options.pass]}),
            json!({"id": 2, "jsonrpc": "2.0", "method": "eth_getWork", "params": []}),
        ]),
        Proto::Daemon => {
            let body = json!({
                "id": "0", "jsonrpc": "2.0", "method": "getblocktemplate",
                "params": {"wallet_address": options.user, "reserve_size": 8},
            })
            .to_string();
            let host = options.pool.as_deref().unwrap_or("");
            format!(
                "POST /json_rpc HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        }
    }
}

/// What follows once the pool has answered.
pub fn keepalive(options: &Options) -> Vec<u8> {
    match options.proto {
        Proto::Monero => lines(&[json!({"id": 2, "jsonrpc": "2.0", "method": "keepalived", "params": {"id": "lab"}})]),
        Proto::Btc => lines(&[json!({
            "id": 3, "method": "mining.submit", "params": [options.user, "1", "00000000", "5b000000", "00000000"],
        })]),
        Proto::Eth => lines(&[json!({"id": 3, "jsonrpc": "2.0", "method": "eth_getWork", "params": []})]),
        Proto::Daemon => greeting(options),
    }
}

fn lines(messages: &[serde_json::Value]) -> Vec<u8> {
    messages.iter().flat_map(|message| format!("{message}\n").into_bytes()).collect()
}

/// A TLS 1.2/1.3 ClientHello with the server's name in clear, built by hand: what a monitor can read of a
/// miner's TLS connection. Nothing can be negotiated with it.
pub fn client_hello(name: &str) -> Vec<u8> {
    let host = &name.as_bytes()[..name.len().min(253)];
    let sni_entry = [&[0][..], &length16(host.len()), host].concat();
    let sni = [&length16(sni_entry.len())[..], &sni_entry].concat();
    let extensions = [
        extension(0x0000, &sni),
        extension(0x000a, &[0, 4, 0, 0x1d, 0, 0x17]),
        extension(0x000d, &[0, 4, 0x04, 0x03, 0x08, 0x04]),
        extension(0x002b, &[4, 0x03, 0x04, 0x03, 0x03]),
    ]
    .concat();
    let body = [
        &[0x03, 0x03][..],
        // The random: fixed, as nothing depends on it.
        &[0x5a; 32],
        &[0],
        &[0, 4, 0x13, 0x01, 0xc0, 0x2f],
        &[1, 0],
        &length16(extensions.len()),
        &extensions,
    ]
    .concat();
    let handshake = [&[1, 0][..], &length16(body.len()), &body].concat();
    [&[0x16, 0x03, 0x01][..], &length16(handshake.len()), &handshake].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &length16(data.len()), data].concat()
}

/// Every length here is far below 64 KiB: names are cut at 253 bytes.
fn length16(len: usize) -> [u8; 2] {
    (len as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_says_its_method() {
        for (proto, word) in [
            (Proto::Monero, "\"method\":\"login\""),
            (Proto::Btc, "\"method\":\"mining.subscribe\""),
            (Proto::Eth, "\"method\":\"eth_submitLogin\""),
            (Proto::Daemon, "\"method\":\"getblocktemplate\""),
        ] {
            let text = greeting(&Options { proto, ..Options::default() });
            assert!(String::from_utf8_lossy(&text).contains(word), "{proto:?}");
        }
    }

    #[test]
    fn client_hello_lengths_add_up() {
        let hello = client_hello("pool.example");
        let record = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        let handshake = usize::from(u16::from_be_bytes([hello[7], hello[8]]));
        assert_eq!((record, handshake), (hello.len() - 5, hello.len() - 9));
        assert!(hello.windows(12).any(|window| window == b"pool.example"));
    }
}
