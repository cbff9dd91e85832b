//! What one scenario gives out and receives, found by the address of whoever connects.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A container may connect before the engine has told its address; it waits so long for its session.
const REGISTRATION_WAIT: Duration = Duration::from_secs(2);

/// One scenario's side of the services.
#[derive(Debug, Default)]
pub struct Session {
    /// Files of the web server, by path without the leading slash.
    pub serve: BTreeMap<String, Vec<u8>>,
    /// What shell listeners send.
    pub send: Vec<u8>,
    received: AtomicU64,
}

impl Session {
    /// A session that serves `serve` and sends `send`.
    pub fn new(serve: BTreeMap<String, Vec<u8>>, send: Vec<u8>) -> Self {
        Self { serve, send, received: AtomicU64::new(0) }
    }

    /// Bytes that shell listeners received.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes that a shell listener received.
    pub fn count(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Sessions by address.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    by_address: Mutex<HashMap<IpAddr, Arc<Session>>>,
    opened: Condvar,
}

impl Sessions {
    /// From now on `addresses` belong to `session`.
    pub fn open(&self, addresses: &[IpAddr], session: &Arc<Session>) {
        let mut map = self.0.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            map.insert(*address, Arc::clone(session));
        }
        self.0.opened.notify_all();
    }

    /// `addresses` are nobody's again.
    pub fn close(&self, addresses: &[IpAddr]) {
        let mut map = self.0.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            map.remove(address);
        }
    }

    /// Session of `address`; an empty one for a stranger.
    pub fn of(&self, address: IpAddr) -> Arc<Session> {
        let address = address.to_canonical();
        let deadline = Instant::now() + REGISTRATION_WAIT;
        let mut map = self.0.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(session) = map.get(&address) {
                return Arc::clone(session);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Arc::default();
            }
            map = self.0.opened.wait_timeout(map, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_mapped_address_is_the_same_peer() {
        let sessions = Sessions::default();
        let session = Arc::new(Session::new(BTreeMap::new(), b"hi".to_vec()));
        sessions.open(&["203.0.113.7".parse().unwrap()], &session);
        assert_eq!(sessions.of("::ffff:203.0.113.7".parse().unwrap()).send, b"hi");
    }

    #[test]
    fn an_early_connection_waits_for_its_session() {
        let sessions = Sessions::default();
        let other = sessions.clone();
        let address: IpAddr = "203.0.113.8".parse().unwrap();
        let early = std::thread::spawn(move || other.of(address).send.clone());
        std::thread::sleep(Duration::from_millis(50));
        sessions.open(&[address], &Arc::new(Session::new(BTreeMap::new(), b"x".to_vec())));
        assert_eq!(early.join().unwrap(), b"x");
    }
}
