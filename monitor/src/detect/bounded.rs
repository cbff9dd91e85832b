//! A map with a fixed number of entries: the oldest goes when it is full. Everything a detector
//! remembers lives in one of these, so that no workload can make the daemon grow.

use foldhash::{HashMap, HashMapExt};
use std::collections::VecDeque;
use std::hash::Hash;

/// See the module.
#[derive(Debug)]
pub struct Bounded<K, V> {
    capacity: usize,
    map: HashMap<K, (V, u64)>,
    order: VecDeque<(K, u64)>,
    next: u64,
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    /// Holds at most `capacity` entries (at least one).
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), map: HashMap::new(), order: VecDeque::new(), next: 0 }
    }

    /// Looks an entry up.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key).map(|(v, _)| v)
    }

    /// Looks an entry up to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key).map(|(v, _)| v)
    }

    /// Puts an entry in, as the newest.
    pub fn insert(&mut self, key: K, value: V) {
        self.next += 1;
        self.map.insert(key.clone(), (value, self.next));
        self.order.push_back((key, self.next));
        while self.map.len() > self.capacity {
            self.drop_oldest();
        }
        // Replaced and removed keys leave marks behind.
        if self.order.len() > self.capacity * 2 {
            let map = &self.map;
            self.order.retain(|(k, seq)| map.get(k).is_some_and(|(_, s)| s == seq));
        }
    }

    /// The entry, made if it is missing.
    pub fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> Option<&mut V> {
        if !self.map.contains_key(&key) {
            self.insert(key.clone(), make());
        }
        self.get_mut(&key)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.map.remove(key).map(|(v, _)| v)
    }

    fn drop_oldest(&mut self) {
        while let Some((key, seq)) = self.order.pop_front() {
            if self.map.get(&key).is_some_and(|(_, s)| *s == seq) {
                self.map.remove(&key);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_nothing_grows() {
        let mut map = Bounded::new(4);
        for i in 0..10_000u32 {
            map.insert(i % 7, i);
            map.remove(&(i % 3));
        }
        assert!(map.map.len() <= 4);
        assert!(map.order.len() <= 9);
        map.insert(100, 1);
        assert_eq!(map.get(&100), Some(&1));
    }
}
