//! `lab-pool [--bind ADDR] [--delay-ms N] PORT…`: a stratum pool stub. It answers Monero's `login` with a
//! job, Bitcoin's `mining.subscribe` and `mining.authorize` with a notification, Ethereum's `eth_*`, and the
//! HTTP forms of getwork and getblocktemplate. Ends by itself after 90 seconds.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Longest message or HTTP body that is read.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

fn main() -> ExitCode {
    subjects::life::end_after(subjects::life::LIMIT);
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            drop(writeln!(io::stderr(), "lab-pool: {err}"));
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<(), String> {
    let mut bind = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut delay = Duration::ZERO;
    let mut ports = Vec::new();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg}: value missing"));
        match arg.as_str() {
            "--bind" => bind = value()?.parse().map_err(|err| format!("--bind: {err}"))?,
            "--delay-ms" => {
                delay = Duration::from_millis(value()?.parse().map_err(|err| format!("--delay-ms: {err}"))?)
            }
            port => ports.push(port.parse::<u16>().map_err(|err| format!("{port}: {err}"))?),
        }
    }
    if !bind.is_unspecified() && !subjects::addr::allowed(bind) {
        return Err(format!("{bind} is outside the lab's ranges, refused"));
    }
    let mut threads = Vec::new();
    for port in ports {
        let listener = TcpListener::bind((bind, port)).map_err(|err| format!("{bind}:{port}: {err}"))?;
        threads.push(std::thread::spawn(move || serve(&listener, delay)));
    }
    if threads.is_empty() {
        return Err("no port".into());
    }
    for thread in threads {
        drop(thread.join());
    }
    Ok(())
}

fn serve(listener: &TcpListener, delay: Duration) {
    for stream in listener.incoming().flatten() {
        // One miner's broken connection is no reason to stop serving the others.
        std::thread::spawn(move || drop(talk(stream, delay)));
    }
}

fn talk(mut stream: TcpStream, delay: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(subjects::life::LIMIT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.by_ref().take(MAX_MESSAGE_BYTES).read_line(&mut line)? == 0 {
            return Ok(());
        }
        std::thread::sleep(delay);
        if line.starts_with("POST ") || line.starts_with("GET ") {
            let body = http_body(&mut reader)?;
            let reply =
                serde_json::from_slice(&body).map_or(Value::Null, |request| answer(&request).remove(0)).to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{reply}",
                reply.len()
            )?;
        } else if let Ok(request) = serde_json::from_str(&line) {
            for reply in answer(&request) {
                writeln!(stream, "{reply}")?;
            }
        }
    }
}

/// Reads the header's rest and the body it announces.
fn http_body(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.by_ref().take(MAX_MESSAGE_BYTES).read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = Vec::new();
    reader.take(u64::min(length, MAX_MESSAGE_BYTES)).read_to_end(&mut body)?;
    Ok(body)
}

/// At least one message.
fn answer(request: &Value) -> Vec<Value> {
    let id = &request["id"];
    let job = json!({
        "blob": "1010".repeat(38), "job_id": "lab1", "target": "b88d0600", "algo": "rx/0", "height": 1,
        "seed_hash": "00".repeat(32),
    });
    match request["method"].as_str().unwrap_or_default() {
        "login" => vec![json!({
            "id": id, "jsonrpc": "2.0", "error": null, "result": {"id": "lab", "job": job, "status": "OK"},
        })],
        "mining.subscribe" => vec![json!({
            "id": id, "error": null, "result": [[["mining.notify", "lab"]], "00000000", 4],
        })],
        "mining.authorize" => vec![
            json!({"id": id, "error": null, "result": true}),
            json!({"id": null, "method": "mining.set_difficulty", "params": [1]}),
            json!({"id": null, "method": "mining.notify", "params": ["lab1", "00".repeat(32), "", "", [], "20000000", "1d00ffff", "5b000000", true]}),
        ],
        "eth_getWork" => vec![json!({
            "id": id, "jsonrpc": "2.0", "result": [hash("11"), hash("22"), hash("33")],
        })],
        "getblocktemplate" => vec![json!({
            "id": id, "jsonrpc": "2.0",
            "result": {"blocktemplate_blob": "1010".repeat(38), "difficulty": 1, "height": 1, "status": "OK"},
        })],
        _ => vec![json!({"id": id, "jsonrpc": "2.0", "error": null, "result": {"status": "OK"}})],
    }
}

fn hash(byte: &str) -> String {
    format!("0x{}", byte.repeat(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_gets_a_job() {
        let reply = answer(&json!({"id": 7, "method": "login"}));
        assert_eq!(reply[0]["id"], 7);
        assert_eq!(reply[0]["result"]["job"]["job_id"], "lab1");
    }

    #[test]
    fn http_bodies_are_bounded() -> io::Result<()> {
        let text = b"Host: a\r\nContent-Length: 3\r\n\r\nabcdef";
        assert_eq!(http_body(&mut &text[..])?, b"abc");
        let short = b"Content-Length: 99999999\r\n\r\nab";
        assert_eq!(http_body(&mut &short[..])?, b"ab");
        Ok(())
    }
}
