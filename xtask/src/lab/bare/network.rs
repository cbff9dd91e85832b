//! A container's place on the lab's bridge: a namespace with a veth pair, addresses as Docker's bridge
//! network gives them.

use super::super::house::House;
use super::super::network::{BRIDGE, fresh, within};
use super::super::process;
use super::super::{ATTACKER, ATTACKER_V6};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Some netlink messages.
const IP_LIMIT: Duration = Duration::from_secs(20);

static SERIAL: AtomicU32 = AtomicU32::new(1);

/// A number that is given once in a run.
pub fn serial() -> u32 {
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Host parts in use, and the one given last.
#[derive(Default)]
struct Taken {
    used: BTreeSet<u8>,
    last: u8,
}

/// The bridge network's addresses.
#[derive(Default)]
pub struct Addresses(Arc<Mutex<Taken>>);

/// An address pair, given back when dropped.
pub struct Lease {
    taken: Arc<Mutex<Taken>>,
    host: u8,
}

impl Lease {
    /// IPv4 and IPv6.
    pub fn addresses(&self) -> Vec<IpAddr> {
        vec![self.v4().into(), self.v6().into()]
    }

    fn v4(&self) -> Ipv4Addr {
        let [a, b, c, _] = ATTACKER.octets();
        Ipv4Addr::new(a, b, c, self.host)
    }

    fn v6(&self) -> Ipv6Addr {
        let mut parts = ATTACKER_V6.segments();
        parts[6] = 1;
        parts[7] = self.host.into();
        parts.into()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).used.remove(&self.host);
    }
}

impl Addresses {
    fn next(&self) -> Result<Lease> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = ATTACKER.octets()[3];
        // Round and round: an address that was in use a moment ago is the last to be given again.
        let last = taken.last;
        let host = (0..=255_u8)
            .map(|step| last.wrapping_add(1).wrapping_add(step))
            .find(|host| (2..=254).contains(host) && *host != own && !taken.used.contains(host))
            .context("no address is free on the lab's bridge")?;
        taken.used.insert(host);
        taken.last = host;
        Ok(Lease { taken: Arc::clone(&self.0), host })
    }

    /// A namespace on the bridge.
    pub fn lease(&self, house: &House) -> Result<(OwnedFd, Lease)> {
        let (lease, namespace, serial) = (self.next()?, fresh()?, serial());
        // The namespace is named by a descriptor of this process.
        let reference = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        let [a, b, c, d] = lease.v4().octets();
        let outside = format!(
            "link add lab{serial} type veth peer name eth0 address 02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x} \
             netns {reference}\n\
             link set lab{serial} master {BRIDGE} up\n"
        );
        batch(house, &house.network().namespace()?, &outside)?;
        let inside = format!(
            "link set lo up\naddress add {v4}/24 dev eth0\nlink set eth0 up\nroute add default via {ATTACKER}\n",
            v4 = lease.v4()
        );
        batch(house, &namespace, &inside)?;
        // Without IPv6 in the kernel IPv4 is all there is.
        let v6 = format!("address add {}/64 dev eth0 nodad\nroute add ::/0 via {ATTACKER_V6}\n", lease.v6());
        let _no_ipv6 = Path::new("/proc/net/if_inet6").exists().then(|| batch(house, &namespace, &v6));
        Ok((namespace, lease))
    }
}

/// A namespace with nothing but its loopback.
pub fn alone(house: &House) -> Result<OwnedFd> {
    let namespace = fresh()?;
    batch(house, &namespace, "link set lo up\n")?;
    Ok(namespace)
}

/// Runs lines of ip(8) in one process.
fn batch(house: &House, namespace: &OwnedFd, lines: &str) -> Result<()> {
    let path = house.run_dir().join(format!("ip-{}", serial()));
    fs::write(&path, lines).with_context(|| format!("writing {}", path.display()))?;
    let commands = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let (limit, interrupt) = (house.patient(IP_LIMIT), house.interrupt().clone());
    let finished = within(namespace, move || {
        process::run_fed(Command::new("ip").args(["-batch", "-"]), Some(commands.into()), limit, &interrupt)
    })??;
    let _absent = fs::remove_file(path);
    anyhow::ensure!(finished.success(), "ip -batch: {}", finished.tail());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses_are_given_once_and_the_attackers_never() {
        let addresses = Addresses::default();
        let leases: Vec<Lease> = (0..252).map(|_| addresses.next().unwrap()).collect();
        let all: BTreeSet<IpAddr> = leases.iter().flat_map(Lease::addresses).collect();
        assert_eq!(all.len(), 2 * leases.len());
        assert!(!all.contains(&ATTACKER.into()) && !all.contains(&ATTACKER_V6.into()));
        assert!(addresses.next().is_err());
        drop(leases);
        assert!(addresses.next().is_ok());
    }
}
