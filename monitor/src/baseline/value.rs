//! The values that entries are made of, as the file writes them.

use crate::config::value::{Cidr, Domain};
use crate::event::{File, Form, file};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Ports that the kernel hands out by itself (net.ipv4.ip_local_port_range).
pub const EPHEMERAL: Ports = Ports { first: 32768, last: 60999 };
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[doc = $vdoc])+ #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// As in the file.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words! {
    /// Where a program's file lives.
    Layer {
        /// In the image.
        Image = "image",
        /// In the container's writable layer.
        Upper = "upper",
        /// On a tmpfs.
        Tmpfs = "tmpfs",
        /// On a volume or another mount.
        Volume = "volume",
        /// Nowhere: memfd, or deleted.
        Memory = "memory",
    }
}

words! {
    /// Where an interpreter takes its program text from.
    Text {
        /// Standard input.
        Stdin = "stdin",
        /// An argument (`-c`, `-e`).
        Argument = "argument",
        /// A script file.
        Script = "script",
    }
}

words! {
    /// What a file is opened for.
    Access {
        /// To read.
        Read = "read",
        /// To write.
        Write = "write",
    }
}

impl Layer {
    /// Of an executable.
    pub fn of(exe: &File) -> Self {
        if exe.has(file::FILE_MEMFD) || exe.has(file::FILE_UNLINKED) {
            Self::Memory
        } else if exe.has(file::FILE_TMPFS) {
            Self::Tmpfs
        } else if exe.has(file::FILE_UPPER) {
            Self::Upper
        } else if exe.has(file::FILE_FOREIGN_SB) {
            Self::Volume
        } else {
            Self::Image
        }
    }
}

impl Text {
    /// From what the kernel half says.
    pub fn of(form: Form) -> Option<Self> {
        match form {
            Form::Stdin => Some(Self::Stdin),
            Form::Argument => Some(Self::Argument),
            Form::Script => Some(Self::Script),
            Form::Unknown => None,
        }
    }

    /// As the kernel half says it.
    pub const fn form(self) -> Form {
        match self {
            Self::Stdin => Form::Stdin,
            Self::Argument => Form::Argument,
            Self::Script => Form::Script,
        }
    }
}

/// `tcp`, `udp` or a protocol's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u16);

impl FromStr for Protocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tcp" => Ok(Self(6)),
            "udp" => Ok(Self(17)),
            number => number.parse::<u8>().map(|n| Self(n.into())).map_err(|_| "it is tcp, udp or a number up to 255"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            other => write!(f, "{other}"),
        }
    }
}

/// One port, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl Ports {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Is it in it?
    pub const fn covers(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl FromStr for Ports {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "it is a port (\"443\") or a range (\"8000-8099\")";
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Self { first: first.parse().map_err(|_| FORM)?, last: last.parse().map_err(|_| FORM)? };
        if ports.first > ports.last { Err("the range is empty") } else { Ok(ports) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Anywhere.
    Any,
    /// What the container's resolver calls so.
    Name(String),
    /// A network.
    Net(ipnet::IpNet),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains('/') || text.parse::<IpAddr>().is_ok() {
            return text.parse::<Cidr>().map(|net| Self::Net(net.0));
        }
        // A single label is a service's name inside a network of containers.
        let label = |l: &str| {
            !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if text.len() <= 253 && (text.parse::<Domain>().is_ok() || text.split('.').all(label)) {
            return Ok(Self::Name(text.to_ascii_lowercase()));
        }
        Err("it is neither a name, an address, a network nor `*`".into())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => f.write_str(name),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

macro_rules! text_value {
    ($name:ident, $what:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(|why| D::Error::custom(format_args!("`{text}` is not {}: {why}", $what)))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

text_value!(Protocol, "a protocol");
text_value!(Ports, "a port or range");
text_value!(Destination, "a destination");

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn values_are_checked() {
        for bad in ["", "0-x", "9-8", "65536", "tcp"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
        assert_eq!("80".parse::<Ports>().unwrap().to_string(), "80");
        for bad in ["", "10.0.0.1/8", "a b", "a..b"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
        for good in ["db", "db.example", "10.0.0.0/8", "::1", "*"] {
            assert_eq!(good.parse::<Destination>().unwrap().to_string(), good);
        }
        assert_eq!("udp".parse::<Protocol>(), Ok(Protocol(17)));
        assert!("sctp".parse::<Protocol>().is_err());
    }
}
