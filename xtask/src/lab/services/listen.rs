//! Accepting connections and datagrams until told to stop.

use super::session::{Session, Sessions};
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a listener looks whether it is to stop.
const STOP_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// No conversation of a scenario lasts longer; a peer that is silent for so long is gone.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Speaks with one connection.
pub type Handler = Arc<dyn Fn(TcpStream, &Session) + Send + Sync>;

/// Ends the services.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends them.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn ready(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&STOP_CHECK)).is_ok_and(|n| n > 0)
}

/// Serves TCP `port` on every address of the namespace, IPv6 too where there is one.
pub fn tcp(port: u16, handler: Handler, sessions: Sessions, stop: Stop) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind(("::", port))
        .or_else(|_no_ipv6| TcpListener::bind(("0.0.0.0", port)))
        .with_context(|| format!("listening on TCP port {port}"))?;
    listener.set_nonblocking(true)?;
    Ok(thread::spawn(move || {
        while !stop.is_set() {
            if !ready(&listener) {
                continue;
            }
            let Ok((stream, peer)) = listener.accept() else {
                continue;
            };
            let (handler, sessions) = (Arc::clone(&handler), sessions.clone());
            thread::spawn(move || {
                let prepared = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
                if prepared.is_ok() {
                    handler(stream, &sessions.of(peer.ip()));
                }
            });
        }
    }))
}

/// Serves UDP `port`: each datagram gets the answer `answer` makes of it.
pub fn udp(port: u16, answer: fn(&[u8]) -> Option<Vec<u8>>, stop: Stop) -> Result<JoinHandle<()>> {
    let socket = UdpSocket::bind(("::", port))
        .or_else(|_no_ipv6| UdpSocket::bind(("0.0.0.0", port)))
        .with_context(|| format!("listening on UDP port {port}"))?;
    socket.set_nonblocking(true)?;
    Ok(thread::spawn(move || {
        let mut buffer = [0_u8; 2048];
        while !stop.is_set() {
            if !ready(&socket) {
                continue;
            }
            let received: std::io::Result<(usize, SocketAddr)> = socket.recv_from(&mut buffer);
            if let Ok((n, peer)) = received
                && let Some(bytes) = answer(&buffer[..n])
            {
                let _peer_gone = socket.send_to(&bytes, peer);
            }
        }
    }))
}
