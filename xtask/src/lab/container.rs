//! What a container of the lab is made from, and what is known of one that runs.

use std::net::IpAddr;

/// What a container is made from.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// Image reference.
    pub image: String,
    /// Reference of a copy of the image that the container is made from instead; empty for none.
    pub copy_as: String,
    /// `key=value`.
    pub labels: Vec<String>,
    /// Further `docker run` arguments.
    pub engine_args: Vec<String>,
    /// Start the image's own entrypoint; otherwise a process that only sleeps is PID 1.
    pub entrypoint: bool,
}

/// A running container, until the runtime removes it.
#[derive(Clone, Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// PID 1 of the container as the host numbers it; 0 when it has ended already.
    pub pid: u32,
    /// Its addresses on the lab's bridge.
    pub addresses: Vec<IpAddr>,
}

/// What PID 1 does where the entrypoint is not started.
pub const SLEEP: [&str; 2] = ["sleep", "3600"];
