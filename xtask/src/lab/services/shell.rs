//! The operator's end of a reverse shell: sends one line of commands, counts what comes back.

use super::session::Session;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// An operator who sees nothing for so long hangs up; a shell that waits for more then ends.
const QUIET: Duration = Duration::from_secs(3);

/// Longest conversation.
const CONVERSATION: Duration = Duration::from_secs(30);

/// Sends the session's commands and counts what is received.
pub fn serve(mut stream: TcpStream, session: &Session) {
    if !session.send.is_empty() {
        let _peer_gone = stream.write_all(&session.send);
    }
    receive(stream, |n| session.count(n));
}

/// Receives and forgets.
pub fn swallow(stream: TcpStream, _session: &Session) {
    receive(stream, |_n| {});
}

fn receive(mut stream: TcpStream, mut count: impl FnMut(usize)) {
    let began = Instant::now();
    let mut buffer = [0_u8; 4096];
    if stream.set_read_timeout(Some(QUIET)).is_err() {
        return;
    }
    while began.elapsed() < CONVERSATION {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => count(n),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_quiet_or_gone) => break,
        }
    }
    let _peer_gone = stream.shutdown(Shutdown::Write);
    // What a shell says on its way out still counts.
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || began.elapsed() > CONVERSATION {
            return;
        }
        count(n);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    #[test]
    fn sends_and_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let session = Session::new(BTreeMap::new(), b"id\n".to_vec());
        let (stream, _) = listener.accept().unwrap();
        client.write_all(b"uid=0\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        serve(stream, &session);
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "id\n");
        assert_eq!(session.received_bytes(), 6);
    }
}
