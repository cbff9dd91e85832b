//! Values that are checked while the file is read, so that an error carries their position.

use monitor_common::hash;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// Deserializes through `FromStr` inside the visitor: an error made there gets the span of this
/// very value, also within an array.
struct Parsed<T>(&'static str, PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|e| E::custom(format_args!("`{text}` is not {}: {e}", self.0)))
    }
}

macro_rules! text_value {
    ($name:ident, $what:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_str(Parsed($what, PhantomData))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

/// A glob over image references or labels; `*` also matches `/`.
#[derive(Clone, Debug)]
pub struct Glob(globset::GlobMatcher);

impl Glob {
    /// Does `text` match?
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        self.0.glob().glob()
    }

    /// The compiled matcher.
    pub fn matcher(&self) -> &globset::GlobMatcher {
        &self.0
    }
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty and would match nothing".into());
        }
        globset::GlobBuilder::new(text)
            .literal_separator(false)
            .build()
            .map(|g| Self(g.compile_matcher()))
            .map_err(|e| e.kind().to_string())
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

text_value!(Glob, "a glob");

/// A network in CIDR notation; a bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub ipnet::IpNet);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Self(address.into()));
        }
        let net: ipnet::IpNet = text.parse().map_err(|e: ipnet::AddrParseError| e.to_string())?;
        if net.addr() != net.network() {
            return Err(format!("host bits are set, the network is {}", net.trunc()));
        }
        Ok(Self(net))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_value!(Cidr, "a network (CIDR)");

/// An image digest, `sha256:` and 64 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digest(String);

impl Digest {
    /// As written, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").ok_or("it does not start with `sha256:`")?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("64 hex digits are due after `sha256:`");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(Digest, "an image digest");

/// A domain; it stands for itself and everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Domain(String);

impl Domain {
    /// In lower case, without dots at the ends.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is `name` this domain or below it?
    pub fn covers(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').as_bytes();
        let suffix = self.0.as_bytes();
        let Some(cut) = name.len().checked_sub(suffix.len()) else {
            return false;
        };
        name[cut..].eq_ignore_ascii_case(suffix) && (cut == 0 || name[cut - 1] == b'.')
    }
}

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim_matches('.').to_ascii_lowercase();
        let label = |l: &str| {
            !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if !name.contains('.') {
            return Err("a single label would cover a whole top-level domain".into());
        }
        match name.split('.').find(|l| !label(l)) {
            Some(bad) => Err(format!("`{bad}` is not a label")),
            None => Ok(Self(name)),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(Domain, "a domain");

/// The last one to three components of a path; `*` stands for any one component.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern(String);

impl PathPattern {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Components from the file upwards; `None` is "any".
    pub fn components(&self) -> [Option<&str>; 3] {
        let mut parts = self.0.rsplit('/').map(|p| (p != "*").then_some(p));
        [parts.next().flatten(), parts.next().flatten(), parts.next().flatten()]
    }

    /// Key of the kernel half's map of sensitive names.
    pub fn key(&self) -> u64 {
        let [name, parent, grandparent] = self.components().map(|c| c.map_or(0, |c| hash::name(c.as_bytes())));
        hash::path_key(name, parent, grandparent)
    }

    /// Does the end of `path` match?
    pub fn is_match(&self, path: &str) -> bool {
        let mut actual = path.rsplit('/').filter(|p| !p.is_empty());
        self.0.rsplit('/').all(|want| actual.next().is_some_and(|is| want == "*" || want == is))
    }
}

impl FromStr for PathPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 {
            return Err("the kernel half compares three components at most");
        }
        if parts.iter().any(|p| p.is_empty() || *p == "." || *p == "..") {
            return Err("it has an empty, `.` or `..` component");
        }
        if parts.iter().any(|p| p.len() > hash::HASHED_LEN) {
            return Err("a component is longer than 32 bytes");
        }
        if parts.iter().any(|p| *p != "*" && p.contains(['*', '?', '['])) {
            return Err("`*` stands for a whole component only");
        }
        if parts.iter().all(|p| *p == "*") {
            return Err("it would match every file");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(PathPattern, "a path pattern");

/// A cgroup path prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPrefix(String);

impl CgroupPrefix {
    /// Is `path` this cgroup or below it?
    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.0.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CgroupPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.starts_with('/') {
            return Err("it does not start with `/`");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for CgroupPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(CgroupPrefix, "a cgroup path");

/// A day, `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(pub jiff::civil::Date);

impl FromStr for Day {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shaped = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        text.parse().ok().filter(|_| shaped).map(Self).ok_or("the form is YYYY-MM-DD")
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_value!(Day, "a day (in quotes)");

/// A score between 1 and 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Score(pub u32);

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = u32::deserialize(d)?;
        if !(1..=1000).contains(&value) {
            return Err(D::Error::custom(format_args!("{value} is not between 1 and 1000")));
        }
        Ok(Self(value))
    }
}
