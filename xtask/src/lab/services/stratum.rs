//! A mining pool that hands out work nobody checks: Monero `login`, Bitcoin `mining.*`, Ethereum
//! `eth_*`, one JSON object a line.

use super::session::Session;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Longest conversation.
const REQUEST_LIMIT_BYTES: u64 = 1024 * 1024;

/// Answers requests until the miner leaves.
pub fn serve(stream: TcpStream, _session: &Session) {
    let Ok(mut to) = stream.try_clone() else {
        return;
    };
    for line in BufReader::new(stream.take(REQUEST_LIMIT_BYTES)).lines() {
        let Ok(line) = line else {
            return;
        };
        for answer in answers(&line) {
            if to.write_all(format!("{answer}\n").as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn answers(line: &str) -> Vec<Value> {
    let Ok(request) = serde_json::from_str::<Value>(line) else {
        return Vec::new();
    };
    let id = request.get("id").cloned().unwrap_or(Value::Null);
    let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
    let ok = |result: Value| json!({"id": id, "jsonrpc": "2.0", "error": null, "result": result});
    match method {
        "login" => {
            let job = json!({
                "blob": "00".repeat(76), "job_id": "1", "target": "ffff0000",
                "height": 1, "seed_hash": "00".repeat(32), "algo": "rx/0",
            });
            vec![ok(json!({"id": "lab", "job": job, "status": "OK"}))]
        }
        "mining.subscribe" => vec![ok(json!([[["mining.notify", "lab"]], "08000002", 4]))],
        "mining.authorize" => vec![
            ok(json!(true)),
            json!({"id": null, "method": "mining.set_difficulty", "params": [1]}),
            json!({"id": null, "method": "mining.notify", "params":
                ["1", "00".repeat(32), "", "", [], "20000000", "1d00ffff", "5f000000", true]}),
        ],
        "eth_getWork" => vec![ok(json!(["0x00", "0x00", "0x00"]))],
        "" => Vec::new(),
        _ => vec![ok(json!(true))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_gets_a_job() {
        let answer = answers(r#"{"id":1,"method":"login","params":{"login":"x"}}"#);
        assert_eq!(answer[0]["result"]["job"]["job_id"], "1");
        assert_eq!(answer[0]["id"], 1);
    }

    #[test]
    fn noise_gets_nothing() {
        assert!(answers("GET / HTTP/1.1").is_empty());
    }
}
