//! The lab's network: a namespace of its own with one bridge, so that the attacker's address, the
//! metadata address and the well-known ports never collide with the machine's or another lab's.
//! The namespace has no way out; it ends with the last thing in it.

use super::process::{Interrupt, must};
use super::{ATTACKER, ATTACKER_V6};
use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Name of the bridge inside the namespace.
pub const BRIDGE: &str = "bulkhead0";

/// Of one that it is not given, a bridge's address is the lowest of its ports': it would change with each container that
/// comes or goes, and the others would go on talking to the former one.
const BRIDGE_MAC: &str = "02:00:cb:00:71:42";

/// Further addresses of the attacker's side: the catalogue's second network and the cloud metadata
/// service.
const EXTRA: [&str; 2] = ["10.200.0.1/24", "169.254.169.254/32"];

/// The namespace.
pub struct Network {
    namespace: OwnedFd,
}

impl Network {
    /// Makes the namespace with its bridge and addresses.
    pub fn new(interrupt: &Interrupt) -> Result<Self> {
        let namespace = fresh()?;
        let network = Self { namespace };
        let interrupt = interrupt.clone();
        network.inside(move || set_up(&interrupt))??;
        Ok(network)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets and processes made there
    /// stay inside.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        within(&self.namespace, work)
    }

    /// The namespace itself.
    pub fn namespace(&self) -> Result<OwnedFd> {
        self.namespace.try_clone().context("dup")
    }
}

/// A new network namespace with nothing in it but a loopback device that is down.
pub fn fresh() -> Result<OwnedFd> {
    thread::spawn(|| -> Result<OwnedFd> {
        // SAFETY: only the network namespace of this short-lived thread changes; file
        // descriptors, memory and working directory stay shared, which is what makes other
        // flags of unshare(2) unsound.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
            .context("unshare(CLONE_NEWNET): the lab needs root")?;
        Ok(File::open("/proc/thread-self/ns/net").context("opening the new network namespace")?.into())
    })
    .join()
    .map_err(|_| anyhow!("the thread that makes the namespace panicked"))?
}

/// Runs `work` on a thread of its own inside `namespace`.
pub fn within<T: Send + 'static>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let namespace = namespace.try_clone().context("dup")?;
    thread::spawn(move || -> Result<T> {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("setns(CLONE_NEWNET)")?;
        Ok(work())
    })
    .join()
    .map_err(|_| anyhow!("a thread inside the lab's network panicked"))?
}

fn ip(arguments: &str, interrupt: &Interrupt) -> Result<String> {
    must(Command::new("ip").args(arguments.split_whitespace()), Duration::from_secs(10), interrupt)
}

fn set_up(interrupt: &Interrupt) -> Result<()> {
    ip("link set lo up", interrupt)?;
    ip(&format!("link add {BRIDGE} address {BRIDGE_MAC} type bridge"), interrupt)?;
    ip(&format!("address add {ATTACKER}/24 dev {BRIDGE}"), interrupt)?;
    for address in EXTRA {
        ip(&format!("address add {address} dev {BRIDGE}"), interrupt)?;
    }
    ip(&format!("link set {BRIDGE} up"), interrupt)?;
    // Without IPv6 in the kernel the lab still serves IPv4.
    let _no_ipv6 = ip(&format!("-6 address add {ATTACKER_V6}/64 dev {BRIDGE} nodad"), interrupt);
    Ok(())
}
