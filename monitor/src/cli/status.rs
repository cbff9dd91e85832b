//! `bulkhead status`: what the running daemon says about itself.

use super::{CliError, CliResult, Exit, StatusArgs};
use crate::control::{ControlError, Request, ask, refusal};
use crate::output::escape;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::BufRead as _;

pub(super) fn main(args: &StatusArgs) -> CliResult {
    let socket = args.socket.path()?;
    let mut line = String::new();
    ask(&socket, Request::Status)?
        .read_line(&mut line)
        .map_err(|e| CliError::failure(format!("{}: {e}", socket.display())))?;
    if let Some(why) = refusal(&line) {
        return Err(ControlError::Refused(why).into());
    }
    let status: Value =
        serde_json::from_str(&line).map_err(|e| CliError::failure(format!("the daemon's answer is not JSON: {e}")))?;
    let text = if args.json { line } else { lines(&status) };
    super::print(&text)?;
    Ok(Exit::Ok)
}

/// One line a value, keys joined with dots.
fn lines(status: &Value) -> String {
    let mut out = String::new();
    write(&mut out, "", status);
    out
}

fn write(out: &mut String, key: &str, value: &Value) {
    let below = |name: &str| {
        if key.is_empty() { name.into() } else { format!("{key}.{name}") }
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| write(out, &below(k), v)),
        Value::Array(list) if list.iter().any(|v| v.is_object() || v.is_array()) => {
            list.iter().enumerate().for_each(|(i, v)| write(out, &below(&i.to_string()), v));
        }
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(plain).collect();
            let _ = writeln!(out, "{}: {}", escape::shown(key), items.join(", "));
        }
        other => {
            let _ = writeln!(out, "{}: {}", escape::shown(key), plain(other));
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => escape::shown(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_value() {
        let status = serde_json::json!({
            "mode": "monitor",
            "lost": 0,
            "engine": null,
            "doors": [{ "fact": "exec", "door": "tp_btf\u{1b}[2J" }],
            "containers": ["a", "b"],
        });
        let expected = "containers: a, b\ndoors.0.door: tp_btf\\u{1b}[2J\ndoors.0.fact: exec\n\
                        engine: -\nlost: 0\nmode: monitor\n";
        assert_eq!(lines(&status), expected);
    }
}
