//! Commands that arrived over a connection, to be recognised when a program runs them. The loop of
//! a remote shell can take any form; that the text it runs came down the wire line by line does not
//! change. An honest protocol (JSON, HTTP, SMTP) never sends a line that *is* a command line.

use crate::event::{Event, Payload};
use smol_str::SmolStr;
use std::collections::VecDeque;

/// Lines remembered per connection.
const LINES: usize = 16;
/// Longest line remembered, bytes.
const LENGTH: usize = 256;

/// The latest lines of one direction.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    lines: VecDeque<(SmolStr, u64)>,
    http: bool,
}

impl Lines {
    /// Takes in what was received.
    pub fn feed(&mut self, event: &Event, payload: &Payload) {
        // A binary segment has no command lines.
        let Ok(text) = std::str::from_utf8(&payload.data) else {
            return;
        };
        self.http |= text.starts_with("HTTP/");
        // A short word in an answer (`true`, `ok`) is a value.
        let shortest = if self.http { 8 } else { 2 };
        for line in text.lines().map(str::trim) {
            if line.len() < shortest || line.len() > LENGTH {
                continue;
            }
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines.push_back((line.into(), event.id));
        }
    }

    /// The received line that this program start carries out, with the event it came in.
    pub fn ran(&self, args: &[SmolStr]) -> Option<(&str, u64)> {
        let joined = args.join(" ");
        let last = args.last().map_or("", SmolStr::as_str);
        self.lines
            .iter()
            .find(|(line, _)| carries_out(&joined, line) || carries_out(last, line))
            .map(|(line, event)| (line.as_str(), *event))
    }
}

/// `command` is the line, or the line with a redirection behind it. Also word by word, since a
/// shell that expands `$line` drops the spacing.
fn carries_out(command: &str, line: &str) -> bool {
    let command = command.trim();
    let mut words = command.split_whitespace();
    for wanted in line.split_whitespace() {
        match words.next() {
            Some(word) if word == wanted || word.trim_matches(['(', ')', '{', '}', ';']) == wanted => {}
            _ => return false,
        }
    }
    words.next().is_none_or(|rest| rest.starts_with(['2', '1', '>', '&', '<', '|', ';', ')', '}']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_recognised() {
        assert!(carries_out("touch /tmp/pwned", "touch /tmp/pwned"));
        assert!(carries_out("id 2>&1", "id"));
        assert!(carries_out("touch   /tmp/x", "touch /tmp/x"));
        assert!(!carries_out("idle", "id"));
        assert!(!carries_out("convert a.png b.jpg", "{\"cmd\":\"convert a.png b.jpg\"}"));
        assert!(!carries_out("head -1", "HTTP/1.0 200 OK"));
    }
}
