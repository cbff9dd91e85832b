//! What a baseline is made of: program starts by who starts them, connections, listening ports, watched files.

use super::pattern::Pattern;
pub use super::value::{Access, Destination, EPHEMERAL, Layer, Ports, Protocol, Text};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

/// Containers named per entry: whether one replica or several showed it is what counts.
pub const CONTAINERS: usize = 8;

/// What a process did, as far as baselines are about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It started a program.
    Exec {
        /// The program it was before, or a marker.
        parent: String,
        /// The program.
        exe: String,
        /// Where the program's file lives.
        layer: Layer,
        /// Where an interpreter takes its text from.
        form: Option<Text>,
        /// Real uid.
        user: u32,
    },
    /// It connected.
    Connect {
        /// The program.
        exe: String,
        /// Where to.
        peer: SocketAddr,
        /// What the container's resolver had called that address, the latest first.
        names: Vec<String>,
        /// TCP, UDP or another.
        protocol: Protocol,
    },
    /// It listens on a TCP port.
    Listen {
        /// The program.
        exe: String,
        /// The port.
        port: u16,
    },
    /// It opened a watched file.
    File {
        /// The program.
        exe: String,
        /// The file.
        path: String,
        /// For what.
        access: Access,
    },
}

impl Act {
    /// Is it the start of a program that is not the image's?
    pub fn is_drift(&self) -> bool {
        matches!(self, Self::Exec { layer, .. } if *layer != Layer::Image)
    }
}

/// What is expected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A program start.
    Exec {
        /// Who.
        parent: Pattern,
        /// What.
        exe: Pattern,
        /// From where.
        layer: Layer,
        /// An interpreter's text; `None` for other programs.
        form: Option<Text>,
        /// Real uid; `None` is any.
        user: Option<u32>,
    },
    /// A connection.
    Connect {
        /// Who.
        exe: Pattern,
        /// Where to.
        to: Destination,
        /// Port there.
        port: Ports,
        /// Protocol.
        protocol: Protocol,
    },
    /// A listening port.
    Listen {
        /// Who.
        exe: Pattern,
        /// Port.
        port: Ports,
    },
    /// A watched file.
    File {
        /// Who.
        exe: Pattern,
        /// Which.
        path: Pattern,
        /// For what.
        access: Access,
    },
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is expected.
    pub what: What,
    /// How often it was seen; `None` for what somebody wrote.
    pub seen: Option<Seen>,
}

/// When and where an entry was seen.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Times.
    pub count: u64,
    /// First time.
    #[serde(deserialize_with = "moment")]
    pub first: Timestamp,
    /// Last time.
    #[serde(deserialize_with = "moment")]
    pub last: Timestamp,
    /// Containers that showed it, the first twelve digits of their ids; at most [`CONTAINERS`].
    pub containers: BTreeSet<String>,
}

fn moment<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map_err(|why| D::Error::custom(format_args!("`{text}` is not a moment: {why}")))
}

impl Seen {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        for container in &other.containers {
            if self.containers.len() < CONTAINERS {
                self.containers.insert(container.clone());
            }
        }
    }
}

impl What {
    /// What expects this act and others that differ from it by chance only.
    pub fn of(act: &Act) -> Self {
        match act {
            Act::Exec { parent, exe, layer, form, user } => Self::Exec {
                parent: program(parent, Layer::Image),
                exe: program(exe, *layer),
                layer: *layer,
                form: *form,
                user: Some(*user),
            },
            Act::Connect { exe, peer, names, protocol } => {
                let to = match names.first().and_then(|name| name.parse().ok()) {
                    Some(to @ Destination::Name(_)) => to,
                    _ => Destination::Net(peer.ip().into()),
                };
                // Every program that needs a name asks the same resolvers.
                let exe = if is_lookup(*protocol, peer.port()) { Pattern::any() } else { program(exe, Layer::Image) };
                Self::Connect { exe, to, port: Ports::one(peer.port()), protocol: *protocol }
            }
            Act::Listen { exe, port } => {
                let port = if EPHEMERAL.covers(*port) { EPHEMERAL } else { Ports::one(*port) };
                Self::Listen { exe: program(exe, Layer::Image), port }
            }
            Act::File { exe, path, access } => {
                Self::File { exe: program(exe, Layer::Image), path: Pattern::general(path), access: *access }
            }
        }
    }

    /// Is this act expected?
    pub fn covers(&self, act: &Act) -> bool {
        match (self, act) {
            (
                Self::Exec { parent, exe, layer, form, user },
                Act::Exec { parent: p, exe: e, layer: l, form: f, user: u },
            ) => layer == l && form == f && user.is_none_or(|user| user == *u) && parent.covers(p) && exe.covers(e),
            (Self::Connect { exe, to, port, protocol }, Act::Connect { exe: e, peer, names, protocol: p }) => {
                let goes = match to {
                    Destination::Any => true,
                    Destination::Name(wanted) => names.iter().any(|name| name.eq_ignore_ascii_case(wanted)),
                    Destination::Net(net) => net.contains(&peer.ip()),
                };
                protocol == p && goes && port.covers(peer.port()) && exe.covers(e)
            }
            (Self::Listen { exe, port }, Act::Listen { exe: e, port: p }) => port.covers(*p) && exe.covers(e),
            (Self::File { exe, path, access }, Act::File { exe: e, path: p, access: a }) => {
                access == a && exe.covers(e) && path.covers(p)
            }
            _ => false,
        }
    }
}

/// A question to a resolver.
pub fn is_lookup(protocol: Protocol, port: u16) -> bool {
    protocol.0 == 17 && port == 53
}

/// A program of the image has the same path in every container; others may have made-up names. Which one it is
/// is not known of a parent: what looks made up is taken for it where no image has its programs.
fn program(path: &str, layer: Layer) -> Pattern {
    let at_run_time = ["/tmp/", "/var/tmp/", "/dev/shm/", "/run/"].iter().any(|folder| path.starts_with(folder));
    if layer == Layer::Image && !at_run_time { Pattern::exact(path) } else { Pattern::general(path) }
}

/// One line, as `show` and `diff` print it.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { parent, exe, layer, form, user } => {
                write!(f, "exec     {parent} -> {exe}")?;
                let form = form.map(|form| format!("text from {}", form.name()));
                let user = user.map(|user| format!("user {user}"));
                let layer = (*layer != Layer::Image).then(|| format!("from {}", layer.name()));
                let notes: Vec<String> = [layer, form, user].into_iter().flatten().collect();
                if notes.is_empty() { Ok(()) } else { write!(f, "  ({})", notes.join(", ")) }
            }
            Self::Connect { exe, to, port, protocol } => write!(f, "connect  {exe} -> {to} port {port}/{protocol}"),
            Self::Listen { exe, port } => write!(f, "listen   {exe} on port {port}/tcp"),
            Self::File { exe, path, access } => write!(f, "file     {exe} {}s {path}", access.name()),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { parent, exe, layer, form, user } => {
                write!(f, "{parent} starts {exe} (user {user}")?;
                if *layer != Layer::Image {
                    write!(f, ", from {}", layer.name())?;
                }
                form.map_or(Ok(()), |form| write!(f, ", text from {}", form.name()))?;
                f.write_str(")")
            }
            Self::Connect { exe, peer, names, protocol } => {
                write!(f, "{exe} connects to {peer}/{protocol}")?;
                names.first().map_or(Ok(()), |name| write!(f, " ({name})"))
            }
            Self::Listen { exe, port } => write!(f, "{exe} listens on port {port}/tcp"),
            Self::File { exe, path, access } => write!(f, "{exe} opens {path} to {}", access.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    pub fn exec(parent: &str, exe: &str) -> Act {
        Act::Exec { parent: parent.into(), exe: exe.into(), layer: Layer::Image, form: None, user: 0 }
    }

    #[test]
    fn an_entry_covers_what_it_was_made_of_and_little_else() {
        let act = exec("/usr/sbin/nginx", "/usr/bin/sh");
        let what = What::of(&act);
        assert!(what.covers(&act));
        for other in [
            exec("/usr/sbin/nginx", "/usr/bin/curl"),
            exec("/usr/bin/sh", "/usr/bin/sh"),
            Act::Exec {
                parent: "/usr/sbin/nginx".into(),
                exe: "/usr/bin/sh".into(),
                layer: Layer::Upper,
                form: None,
                user: 0,
            },
            Act::Exec {
                parent: "/usr/sbin/nginx".into(),
                exe: "/usr/bin/sh".into(),
                layer: Layer::Image,
                form: Some(Text::Argument),
                user: 0,
            },
            Act::Exec {
                parent: "/usr/sbin/nginx".into(),
                exe: "/usr/bin/sh".into(),
                layer: Layer::Image,
                form: None,
                user: 33,
            },
        ] {
            assert!(!what.covers(&other), "{other}");
        }
    }

    #[test]
    fn a_name_covers_any_address_it_was_given_for_and_no_other() {
        let to = |ip: &str, name: Option<&str>| Act::Connect {
            exe: "/app".into(),
            peer: ip.parse().unwrap(),
            names: name.map(str::to_owned).into_iter().collect(),
            protocol: Protocol(6),
        };
        let named = What::of(&to("10.0.0.7:443", Some("API.example")));
        assert!(named.covers(&to("10.9.9.9:443", Some("api.example"))));
        assert!(!named.covers(&to("10.0.0.7:443", None)), "the same address without the name");
        assert!(!named.covers(&to("10.9.9.9:444", Some("api.example"))));
        let plain = What::of(&to("10.0.0.7:443", None));
        assert!(plain.covers(&to("10.0.0.7:443", Some("x"))) && !plain.covers(&to("10.0.0.8:443", None)));
    }

    #[test]
    fn resolvers_are_every_programs() {
        let ask = |exe: &str| Act::Connect {
            exe: exe.into(),
            peer: "10.0.0.2:53".parse().unwrap(),
            names: Vec::new(),
            protocol: Protocol(17),
        };
        assert!(What::of(&ask("/usr/bin/curl")).covers(&ask("/usr/bin/java")));
    }
}
