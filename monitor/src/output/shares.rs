//! Places in a queue, by container: each may hold at most twice as many as are free, as in the kernel half's
//! rings, so that one container's rows do not cost another's (docs/adr/0008-who-loses-in-a-flood.md).

use foldhash::{HashMap, HashMapExt};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A container may hold so many times what is free.
const TIMES_FREE: usize = 2;

/// See the module. `K` tells containers apart.
#[derive(Debug)]
pub struct Shares<K> {
    places: usize,
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    all: usize,
    by: HashMap<K, usize>,
}

impl<K: Eq + Hash> Shares<K> {
    /// A queue with so many places.
    pub fn new(places: usize) -> Self {
        Self { places, held: Mutex::new(Held { all: 0, by: HashMap::new() }) }
    }

    /// Takes a place for the container, if it may have one more.
    pub fn take(&self, container: K) -> bool {
        let mut held = self.lock();
        let free = self.places.saturating_sub(held.all);
        let its = held.by.get(&container).copied().unwrap_or(0);
        if its >= free * TIMES_FREE {
            return false;
        }
        held.all += 1;
        held.by.insert(container, its + 1);
        true
    }

    /// Gives a place back.
    pub fn give_back(&self, container: &K) {
        let mut held = self.lock();
        let Some(its) = held.by.get_mut(container) else { return };
        *its -= 1;
        if *its == 0 {
            held.by.remove(container);
        }
        held.all -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many places each of them gets, if they take them in turn.
    fn taken(shares: &Shares<&'static str>, who: &[&'static str]) -> Vec<usize> {
        let mut taken = vec![0; who.len()];
        for _ in 0..2000 {
            for (count, container) in taken.iter_mut().zip(who) {
                *count += usize::from(shares.take(container));
            }
        }
        taken
    }

    #[test]
    fn some_places_stay_free_however_many_flood() {
        let shares = Shares::new(900);
        assert_eq!(taken(&shares, &["a"]), [600]);
        assert!(shares.take("b"), "there is room for another");
        let shares = Shares::new(900);
        assert_eq!(taken(&shares, &["a", "b"]), [360, 360]);
        assert!((0..100).all(|_| shares.take("c")), "and for a third");
    }

    #[test]
    fn a_place_that_is_given_back_can_be_taken() {
        let shares = Shares::new(3);
        assert_eq!(taken(&shares, &["a"]), [2]);
        shares.give_back(&"a");
        assert_eq!(taken(&shares, &["a"]), [1]);
        shares.give_back(&"b");
        assert!(!shares.take("a"), "who holds none has none to give");
        shares.give_back(&"a");
        shares.give_back(&"a");
        assert!(shares.lock().by.is_empty());
    }
}
