//! Paths as a baseline writes them: exact, or with `*` where containers of the same image differ.

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Parent of a container's first program.
pub const START: &str = "(start)";
/// Parent of what was started from outside later (`docker exec`, `kubectl exec`).
pub const RUNTIME_EXEC: &str = "(runtime-exec)";
/// Parent of a process whose parent is not known.
pub const UNKNOWN: &str = "(unknown)";

/// A path: absolute inside its file system, or beginning with `…/` when more than eight components deep. `*` in a
/// component stands for any characters but `/`; `**` as the last one for everything below; `*` alone for any path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(String);

impl Pattern {
    /// Every path.
    pub fn any() -> Self {
        Self("*".into())
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A path that was seen and is the same in every container of the image. A `*` in it is not one.
    pub fn exact(path: &str) -> Self {
        Self::of(path, |component| component.to_owned())
    }

    /// A path that was seen, with what looks made up at run time replaced.
    pub fn general(path: &str) -> Self {
        Self::of(path, super::general::component)
    }

    fn of(path: &str, change: impl Fn(&str) -> String) -> Self {
        if path.starts_with('(') || path.is_empty() {
            return Self(if path.is_empty() { UNKNOWN.into() } else { path.into() });
        }
        let odd = |c: &str| c.contains('*') || c.chars().any(char::is_control) || c == "." || c == "..";
        let parts: Vec<String> = path
            .split('/')
            .map(|component| match component {
                "" | "…" => component.to_owned(),
                odd_one if odd(odd_one) => "*".to_owned(),
                other => change(other),
            })
            .collect();
        let text = parts.join("/");
        // What has no name in a file system (`memfd:x`, `pipe:[1]`).
        Self(if text.starts_with('/') || text.starts_with('…') { text } else { format!("/{text}") })
    }

    /// Does it stand for this path?
    pub fn covers(&self, path: &str) -> bool {
        if self.0 == "*" {
            return true;
        }
        if self.0.starts_with('(') || path.starts_with('(') || path.is_empty() {
            return self.0 == if path.is_empty() { UNKNOWN } else { path };
        }
        let path = if path.starts_with('/') || path.starts_with('…') { path } else { &format!("/{path}") };
        let mut actual = path.split('/');
        for wanted in self.0.split('/') {
            match (wanted, actual.next()) {
                ("**", Some(_)) => return true,
                (wanted, Some(is)) if glob(wanted.as_bytes(), is.as_bytes()) => {}
                _ => return false,
            }
        }
        actual.next().is_none()
    }

    /// The same with the component at `from_end` (0 is the last) replaced by `*`. `None` where that says too much: a
    /// path right below the root, or what is replaced already.
    pub fn wider(&self, from_end: usize) -> Option<Self> {
        let mut parts: Vec<&str> = self.0.split('/').collect();
        let at = parts.len().checked_sub(from_end + 1)?;
        let part = parts.get_mut(at).filter(|part| at >= 2 && !matches!(**part, "*" | "**"))?;
        *part = "*";
        Some(Self(parts.join("/")))
    }

    /// Everything below its folder. `None` if that folder is the root.
    pub fn below_folder(&self) -> Option<Self> {
        let (folder, last) = self.0.rsplit_once('/')?;
        let deep = folder.matches('/').count() >= 1 && folder != "…";
        (deep && last != "**").then(|| Self(format!("{folder}/**")))
    }
}

/// `*` stands for any characters; there is nothing else.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" || [START, RUNTIME_EXEC, UNKNOWN].contains(&text) {
            return Ok(Self(text.into()));
        }
        if !text.starts_with('/') && !text.starts_with("…/") {
            return Err(format!("it does not start with `/` (nor is it `*`, `{START}` or `{RUNTIME_EXEC}`)"));
        }
        let parts: Vec<&str> = text.split('/').skip(1).collect();
        if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
            return Err("it has an empty, `.` or `..` component".into());
        }
        if parts.iter().rev().skip(1).any(|part| part.contains("**"))
            || parts.last().is_some_and(|p| p.contains("**") && *p != "**")
        {
            return Err("`**` stands for everything below a folder: it can only be the last component".into());
        }
        if text.contains(['?', '[', ']', '{', '}']) && text.contains('*') {
            return Err("`*` is all there is of patterns".into());
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|why| D::Error::custom(format_args!("`{text}` is not a path pattern: {why}")))
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn what_stands_for_what() {
        for (text, yes, no) in [
            ("/usr/bin/sh", "/usr/bin/sh", "/usr/bin/shx"),
            ("/tmp/tmp.*", "/tmp/tmp.aB3", "/tmp/tmp.aB3/x"),
            ("/data/*/db", "/data/7/db", "/data/7/8/db"),
            ("/var/cache/**", "/var/cache/a/b", "/var/cached"),
            ("*", "/anything", "\n"),
            (START, START, RUNTIME_EXEC),
            ("…/a/b/c", "…/a/b/c", "/a/b/c"),
        ] {
            assert!(pattern(text).covers(yes), "{text} {yes}");
            assert!(text == "*" || !pattern(text).covers(no), "{text} {no}");
        }
        assert!(!pattern("/var/cache/**").covers("/var/cache"), "the folder is not below itself");
        assert!(!pattern("/*").covers(START), "no path is a marker");
    }

    #[test]
    fn bad_ones_are_refused() {
        for text in ["", "usr/bin/sh", "/a//b", "/a/../b", "/a/**/b", "/a/x**", "(else)", "/a/[x]*", "/"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_with_a_star_in_it_is_not_taken_as_a_pattern_of_more() {
        assert_eq!(Pattern::exact("/opt/a*b/c").as_str(), "/opt/*/c");
        assert_eq!(Pattern::exact("/opt/a\u{1b}[2J").as_str(), "/opt/*");
        assert_eq!(Pattern::exact("memfd:x").as_str(), "/memfd:x");
    }

    #[test]
    fn wider_never_reaches_the_root() {
        assert_eq!(pattern("/tmp/a").wider(0), Some(pattern("/tmp/*")));
        assert_eq!(pattern("/tmp").wider(0), None);
        assert_eq!(pattern("/srv/a/b").wider(1), Some(pattern("/srv/*/b")));
        assert_eq!(pattern("/srv/a").wider(1), None);
        assert_eq!(pattern("/srv/a/b").below_folder(), Some(pattern("/srv/a/**")));
        assert_eq!(pattern("/a").below_folder(), None);
    }

    proptest! {
        #[test]
        fn what_is_seen_is_covered_and_can_be_read_again(path in "(/[a-zA-Z0-9._*\u{1}é-]{1,12}){1,6}") {
            for made in [Pattern::exact(&path), Pattern::general(&path)] {
                prop_assert!(made.covers(&path), "{} {}", made, path);
                prop_assert_eq!(made.as_str().parse::<Pattern>(), Ok(made.clone()));
            }
        }
    }
}
