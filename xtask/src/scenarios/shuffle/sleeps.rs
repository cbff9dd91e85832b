//! Pauses between the commands of a run.

use super::super::file::Scenario;
use super::Random;

/// Where the shell itself is told to go on elsewhere, or text follows that is none of its commands: no pause is put in.
const MARKS: [&str; 10] = ["for ", "while ", "until ", "if ", "case ", "<<", "$?", "function", "{ ", "() "];

/// Longest pause, hundredths of a second.
const LONGEST: u64 = 40;

/// How many a run gets at most; they are short of the time that it gets in addition.
const MOST: usize = 4;

/// Puts pauses before the run and between its commands.
pub fn add(scenario: &mut Scenario, random: &mut Random) {
    let mut places =
        if MARKS.iter().any(|mark| scenario.run.contains(mark)) { Vec::new() } else { between(&scenario.run) };
    if !scenario.run.is_empty() {
        places.insert(0, (0, ";"));
    }
    places.retain(|_| random.once_in(2));
    places.truncate(MOST);
    for (at, and) in places.into_iter().rev() {
        let pause = format!("sleep 0.{:02}{and} ", 1 + random.below(LONGEST));
        scenario.run.insert_str(at, &pause);
    }
}

/// Where one command of `text` has ended and another begins, and what stands between them.
fn between(text: &str) -> Vec<(usize, &'static str)> {
    let bytes = text.as_bytes();
    let (mut places, mut quote, mut depth) = (Vec::new(), 0, 0_usize);
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            byte if quote != 0 => {
                at += usize::from(byte == b'\\' && quote == b'"');
                quote = if byte == quote { 0 } else { quote };
            }
            b'\\' => at += 1,
            byte @ (b'\'' | b'"' | b'`') => quote = byte,
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b';' if depth == 0 && bytes.get(at + 1) == Some(&b' ') => places.push((at + 2, ";")),
            b'&' if depth == 0 && bytes[at..].starts_with(b"&& ") => {
                places.push((at + 3, " &&"));
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut made = text.to_owned();
        for (at, and) in between(text).into_iter().rev() {
            made.insert_str(at, &format!("P{and} "));
        }
        made
    }

    #[test]
    fn pauses_are_between_commands_alone() {
        assert_eq!(shown("a; b && c"), "a; P; b && P && c");
        assert_eq!(shown("a 'x; y' \"x; \\\"; y\"; b"), "a 'x; y' \"x; \\\"; y\"; P; b");
        assert_eq!(shown("(a; b) ; c $(d; e)"), "(a; b) ; P; c $(d; e)");
        assert_eq!(shown("a & b | c || d"), "a & b | c || d");
    }
}
