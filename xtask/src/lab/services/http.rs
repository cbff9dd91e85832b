//! A web server: gives out the files of the scenario, and a small JSON object for anything else, so
//! that API clients (kubelet, Docker, a mining pool's getwork) find somebody at home.

use super::session::Session;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Answer to whatever is not served.
const DEFAULT: &[u8] = b"{\"status\":\"ok\"}\n";

/// Bodies and headers beyond this are not read.
const REQUEST_LIMIT_BYTES: u64 = 1024 * 1024;

/// Answers one request.
pub fn serve(stream: TcpStream, session: &Session) {
    let Ok(write_half) = stream.try_clone() else {
        return;
    };
    let _peer_gone = exchange(stream, write_half, session);
}

/// The same over whatever carries it.
pub fn exchange(from: impl Read, mut to: impl Write, session: &Session) -> std::io::Result<()> {
    let mut from = BufReader::new(from.take(REQUEST_LIMIT_BYTES));
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or("GET").to_owned(), words.next().unwrap_or("/").to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        if from.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let lower = header.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if lower.starts_with("expect: 100-continue") {
            to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
    }
    std::io::copy(&mut from.take(length), &mut std::io::sink())?;
    let body = find(&target, session).unwrap_or(DEFAULT);
    let kind = if body == DEFAULT { "application/json" } else { "application/octet-stream" };
    // In one piece, as servers send it: `write!` to a socket makes a segment of each word.
    let header = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    to.write_all(header.as_bytes())?;
    if method != "HEAD" {
        to.write_all(body)?;
    }
    to.flush()
}

/// File for a request target: with its query, without it, or by its last component.
fn find<'a>(target: &str, session: &'a Session) -> Option<&'a [u8]> {
    // Clients of a proxy send the whole URL.
    let path = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |slash| &rest[slash..]));
    let path = path.trim_start_matches('/');
    let bare = path.split(['?', '#']).next().unwrap_or(path);
    [path, bare]
        .iter()
        .find_map(|name| session.serve.get(*name).or_else(|| session.serve.get(&format!("/{name}"))))
        .map(Vec::as_slice)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn ask(request: &str) -> String {
        let serve = [("x.sh".to_owned(), b"echo hi\n".to_vec())].into();
        let mut answer = Vec::new();
        exchange(request.as_bytes(), &mut answer, &Session::new(serve, Vec::new())).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn files_queries_and_strangers() {
        assert!(ask("GET /x.sh HTTP/1.1\r\n\r\n").ends_with("\r\n\r\necho hi\n"));
        assert!(ask("GET /x.sh?a=1 HTTP/1.1\r\n\r\n").ends_with("echo hi\n"));
        assert!(ask("GET http://attacker/x.sh HTTP/1.0\r\n\r\n").ends_with("echo hi\n"));
        assert!(ask("POST /pods HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").contains("\"ok\""));
        assert!(ask("HEAD /x.sh HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    }
}
