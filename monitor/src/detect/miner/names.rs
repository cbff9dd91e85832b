//! Pool names a container has looked up itself, and the addresses it was given. Never resolved by
//! us, never a list of addresses: pools sit behind the same CDN as everybody else.

use super::dns;
use crate::detect::bounded::Bounded;
use crate::detect::settings::{PoolName, Settings};
use crate::event::{ContainerKey, Event, Payload};
use std::net::IpAddr;

/// Answers remembered, all containers together.
const ANSWERS: usize = 1024;
/// How long an answer leads to a connection, ns; resolvers' caches are rarely older.
const FRESH_NS: u64 = 600_000_000_000;

/// See the module.
pub struct PoolAnswers {
    by_address: Bounded<(ContainerKey, IpAddr), (String, PoolName, u64)>,
}

impl Default for PoolAnswers {
    fn default() -> Self {
        Self { by_address: Bounded::new(ANSWERS) }
    }
}

impl PoolAnswers {
    /// Takes in a DNS answer that a container received.
    pub fn learn(&mut self, event: &Event, payload: &Payload, settings: &Settings) {
        // Over TCP two bytes of length come first.
        let framed = payload.protocol == 6;
        let message = if framed { payload.data.get(2..).unwrap_or_default() } else { &payload.data };
        let Some(answer) = dns::answer(message) else {
            return;
        };
        let pool = settings.pool(&answer.name);
        for address in answer.addresses {
            let key = (event.container, address);
            match pool {
                Some(kind) => self.by_address.insert(key, (answer.name.clone(), kind, event.time_ns)),
                // The same address was asked for under another name last: that is where it goes.
                None => {
                    self.by_address.remove(&key);
                }
            }
        }
    }

    /// The pool's name an address was given for.
    pub fn name_of(&self, container: ContainerKey, address: IpAddr, now_ns: u64) -> Option<(&str, PoolName)> {
        self.by_address
            .get(&(container, address))
            .filter(|(_, _, at)| now_ns.saturating_sub(*at) < FRESH_NS)
            .map(|(name, kind, _)| (name.as_str(), *kind))
    }
}
