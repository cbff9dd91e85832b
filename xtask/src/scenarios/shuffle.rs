//! `--shuffle SEED`: another order, other file names, other pauses, the same for the same seed. A
//! rule that was fitted to the written form of a scenario fails here.

use super::file::Scenario;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest pause before a run.
const LONGEST_PAUSE_MS: u64 = 400;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to shuffle with.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Puts `items` into another order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = usize::try_from(self.below(i as u64 + 1)).unwrap_or(0);
            items.swap(i, j);
        }
    }

    /// A pause before a run.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.below(LONGEST_PAUSE_MS))
    }

    fn word(&mut self) -> String {
        (0..6).map(|_| char::from(b'a' + u8::try_from(self.below(26)).unwrap_or(0))).collect()
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

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

/// Where `name` stands in `text` as a whole word.
fn whole<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = &text[at + name.len()..];
        let mut following = after.chars();
        let ends = match following.next() {
            // A full stop that ends a sentence is not part of the name.
            Some('.') => !following.next().is_some_and(is_name),
            Some(c) => !is_name(c),
            None => true,
        };
        ends && !before.is_some_and(is_name)
    })
}

/// Gives every file directly below /tmp another name, where all mentions of it are spelt out.
pub fn rename_files(scenario: &mut Scenario, random: &mut Random) {
    let texts: Vec<String> = scenario.texts_mut().iter().map(|text| (*text).clone()).collect();
    let all: BTreeSet<String> = texts.iter().flat_map(|text| names(text)).collect();
    for name in all {
        let literal = texts.iter().all(|text| whole(text, &name).all(|at| text[..at].ends_with("/tmp/")));
        if !literal {
            continue;
        }
        // The ending may matter (.jpg, .so); the rest may not.
        let ending = name.rfind('.').map_or("", |dot| &name[dot..]);
        let other = format!("{}{ending}", random.word());
        for text in scenario.texts_mut() {
            let places: Vec<usize> = whole(text, &name).collect();
            for at in places.into_iter().rev() {
                text.replace_range(at..at + name.len(), &other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::file::parse;
    use super::*;

    fn scenario(run: &str, effect: &str) -> Scenario {
        let text = format!("[[scenario]]\nid='a'\nimage='x'\nrun='''{run}'''\neffect='{effect}'\n");
        parse(&text).unwrap().remove(0)
    }

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Random::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn literal_names_change_together() {
        let mut one = scenario("wget -O /tmp/x.jpg URL; bash /tmp/x.jpg; cat /tmp/x", "/tmp/pwned");
        rename_files(&mut one, &mut Random::new(7));
        assert!(!one.run.contains("x.jpg"));
        let name: String = one.run["wget -O /tmp/".len()..].chars().take_while(|c| is_name(*c)).collect();
        assert!(name.len() == 10 && name.ends_with(".jpg"));
        assert_eq!(one.run.matches(&name).count(), 2);
        assert!(!one.effect.ends_with("pwned"));
    }

    #[test]
    fn names_that_are_also_used_without_their_folder_stay() {
        let mut one = scenario("cd /tmp; wget -O /tmp/x URL; ./x; cat /tmp/y$N /tmp/z*", "/tmp/pwned");
        let before = one.run.clone();
        rename_files(&mut one, &mut Random::new(7));
        assert_eq!(one.run, before);
    }
}
