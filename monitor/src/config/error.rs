//! What is wrong with a configuration or data file, and where.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A key or its value is not accepted.
    #[error("{}:{line}: {key}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Full path of the key (`image[1].match`).
        key: String,
        /// What is wrong.
        message: String,
    },
}

/// Reads `text` as a `T`; errors say where. `path` only names the file.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let document = toml::Deserializer::parse(text).map_err(|e| syntax(path, text, &e))?;
    serde_path_to_error::deserialize(document).map_err(|e| {
        let key = e.path().to_string();
        let inner = e.into_inner();
        let offset = inner.span().map_or(0, |s| s.start);
        let (line, _) = position(text, offset);
        let message = wording(&key, inner.message());
        ConfigError::Value { path: path.into(), line, key, message }
    })
}

/// An error about the value of `key` (a path of table and key names), with its line.
pub(crate) fn at_key(path: &Path, text: &str, key: &[&str], message: String) -> ConfigError {
    let offset = span_of(text, key).map_or(0, |s| s.start);
    let (line, _) = position(text, offset);
    ConfigError::Value { path: path.into(), line, key: dotted(key), message }
}

/// The key as serde_path_to_error writes it: `image[1].match`.
fn dotted(key: &[&str]) -> String {
    key.iter().fold(String::new(), |mut path, name| {
        match name.parse::<usize>() {
            Ok(index) => path.push_str(&format!("[{index}]")),
            Err(_) if path.is_empty() => path.push_str(name),
            Err(_) => path.push_str(&format!(".{name}")),
        }
        path
    })
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let (line, column) = position(text, error.span().map_or(0, |s| s.start));
    ConfigError::Syntax { path: path.into(), line, column, message: error.message().to_owned() }
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// Where a key stands; the deepest part of its path that the file has.
fn span_of(text: &str, key: &[&str]) -> Option<Range<usize>> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let (first, rest) = key.split_first()?;
    let (name, mut value) = document.get_ref().iter().find(|(k, _)| k.get_ref() == first)?;
    let mut found = Some(name.span());
    for name in rest {
        match value.get_ref() {
            toml::de::DeValue::Table(table) => {
                let Some((k, v)) = table.iter().find(|(k, _)| k.get_ref() == name) else { break };
                (found, value) = (Some(k.span()), v);
            }
            toml::de::DeValue::Array(items) => {
                let Some(item) = name.parse::<usize>().ok().and_then(|index| items.get(index)) else { break };
                (found, value) = (Some(item.span()), item);
            }
            _ => break,
        }
    }
    found
}

/// serde speaks of variants and fields; the reader of a config file of actions, modes and keys.
fn wording(key: &str, message: &str) -> String {
    let noun = if key.starts_with("actions.") {
        "action"
    } else if key == "mode" || key.ends_with(".mode") {
        "mode"
    } else {
        "value"
    };
    message
        .replace("unknown variant", &format!("unknown {noun}"))
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("`, `", ", ")
        .replace("one of `", "one of ")
        .trim_end_matches(|c| c == '`' && message.contains("one of"))
        .to_owned()
}
