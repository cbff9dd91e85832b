//! What stands at the other end of a connection: the attacker's listener and web server. Both live in
//! the harness, outside every container.

use anyhow::Result;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A stand-in for an attacker's machine; it ends with the process.
pub struct Peer {
    /// Its port on loopback.
    pub port: u16,
    received: Arc<AtomicUsize>,
}

impl Peer {
    /// Types `commands` into every connection, counts what comes back, and hangs up after `hold`.
    pub fn shell(listener: TcpListener, commands: &str, hold: Duration) -> Result<Self> {
        let commands = commands.to_owned();
        Self::serve(listener, move |mut stream, received| {
            let _ = stream.set_read_timeout(Some(hold));
            let _ = stream.write_all(commands.as_bytes());
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                received.fetch_add(count, Ordering::SeqCst);
            }
        })
    }

    /// Answers every HTTP request with `body`.
    pub fn web(listener: TcpListener, body: impl AsRef<[u8]>) -> Result<Self> {
        let body = body.as_ref();
        let head = "HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\nContent-Length:";
        let answer = [format!("{head} {}\r\n\r\n", body.len()).as_bytes(), body].concat();
        Self::serve(listener, move |mut stream, received| {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let mut request = [0; 4096];
            if let Ok(count @ 1..) = stream.read(&mut request) {
                received.fetch_add(count, Ordering::SeqCst);
                let _ = stream.write_all(&answer);
            }
        })
    }

    fn serve(listener: TcpListener, talk: impl Fn(TcpStream, &AtomicUsize) + Send + Sync + 'static) -> Result<Self> {
        let port = listener.local_addr()?.port();
        let received = Arc::new(AtomicUsize::new(0));
        let (counter, talk) = (received.clone(), Arc::new(talk));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, talk) = (counter.clone(), talk.clone());
                std::thread::spawn(move || talk(stream, &counter));
            }
        });
        Ok(Self { port, received })
    }

    /// Bytes received over all connections.
    pub fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }
}
