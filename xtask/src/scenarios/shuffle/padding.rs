//! Longer command lines: arguments that change nothing, before those that matter.

use super::super::file::Scenario;
use super::Random;

/// What is begun with, and how it goes on with `@` for letters that mean nothing.
const SITES: [(&str, &str); 11] = [
    ("curl -", "curl -H X-Pad:@ -"),
    ("curl http", "curl -H X-Pad:@ http"),
    ("wget -", "wget --header=X-Pad:@ -"),
    ("python3 -c ", "python3 -X @ -c "),
    ("perl -e ", "perl -I/@ -e "),
    ("ruby -r", "ruby -I/@ -r"),
    ("php -r ", "php -d lab.pad=@ -r "),
    ("node -e ", "node --title=@ -e "),
    ("sh -c '", "sh -c ': @; "),
    ("sh -c \"", "sh -c \": @; "),
    ("nc.openbsd ", "nc.openbsd -w 0000000000000000000000060 "),
];

/// Lengths are powers of two up to this one, as likely each, and some more: the longest make a command line longer than
/// what is read of it in one piece.
const LONGEST_POWER: u64 = 11;

/// Pads every other place where that can be done.
pub fn add(scenario: &mut Scenario, random: &mut Random) {
    let mut texts = vec![&mut scenario.setup, &mut scenario.run, &mut scenario.host_run];
    for text in &mut texts {
        for (begins, goes_on) in SITES {
            **text = padded(text, begins, goes_on, random);
        }
    }
}

fn padded(text: &str, begins: &str, goes_on: &str, random: &mut Random) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = 0;
    for (at, _) in text.match_indices(begins) {
        // Part of a longer name, or an argument of something that is padded otherwise.
        let stands = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "-./_".contains(c))
            || begins.starts_with("sh ") && text[..at].ends_with("ba");
        if !stands || random.once_in(2) {
            continue;
        }
        let least = 1 << random.below(LONGEST_POWER);
        let length = usize::try_from(least + random.below(least)).unwrap_or(1);
        made.push_str(&text[rest..at]);
        made.push_str(&goes_on.replace('@', &random.word(length)));
        rest = at + begins.len();
    }
    made + &text[rest..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_put_before_those_that_matter() {
        let forms: Vec<String> = (0..20)
            .map(|seed| padded("bash -c 'curl -s x | sh'", "curl -", "curl -H @ -", &mut Random::new(seed)))
            .collect();
        assert!(forms.iter().any(|form| form == "bash -c 'curl -s x | sh'"));
        let padded: Vec<&String> = forms.iter().filter(|form| form.starts_with("bash -c 'curl -H ")).collect();
        assert!(padded.iter().all(|form| form.ends_with(" -s x | sh'")) && !padded.is_empty());
        assert!(padded.iter().any(|form| form.len() > 200) && padded.iter().any(|form| form.len() < 50));
    }

    #[test]
    fn other_programs_with_such_a_name_are_not() {
        for seed in 0..20 {
            assert_eq!(padded("/tmp/curl -s x", "curl -", "curl -H @ -", &mut Random::new(seed)), "/tmp/curl -s x");
        }
    }
}
