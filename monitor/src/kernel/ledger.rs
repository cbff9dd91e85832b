//! What one daemon leaves to the next, in maps that no program uses: how many records it has dealt
//! with, which links belong to the set, and what has been told already.

use super::maps::Raw;
use super::shared::Shared;
use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError};
use bytemuck::{Pod, Zeroable};
use monitor_common::state::LossKey;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names of the maps.
pub const NAMES: [&str; 3] = ["HANDOVER", "TOLD", "LOSS_TOLD"];
/// Entries of the two tables; a full one is emptied, and a few things may be told twice.
const ENTRIES: u32 = 4096;
/// Words of [`Handover::links`].
const LINK_WORDS: usize = 4;
/// Words of a [`Handover`].
const WORDS: usize = size_of::<Handover>() / 8;
/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// Counts over the life of the maps, all daemons together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Handover {
    /// Records that were judged, with all that came of them written, and records counted in `lost`.
    pub handled: u64,
    /// Records that a daemon took off the rings and did not get to: its queue was full, or it ended.
    pub lost: u64,
    /// Links that belong to the set, by their position in the table of hooks.
    pub links: [u64; LINK_WORDS],
    /// Daemons that have used these maps.
    pub lives: u64,
    /// Tells the rules apart from which the containers' policies were made.
    pub rules: u64,
}

impl Handover {
    /// Notes a link.
    pub fn add_link(&mut self, index: usize) {
        if let Some(word) = self.links.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Is it one of the set?
    pub fn has_link(&self, index: usize) -> bool {
        self.links.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}

/// Whom a finding that was told is about.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ToldKey {
    /// Kind of the finding, by its position in `FindingKind::ALL`.
    pub kind: u32,
    /// The culprit, 0 for a container as such.
    pub tgid: u32,
    /// Its start in clock ticks, or the container's key.
    pub start: u64,
}

/// See the module.
pub struct Ledger {
    /// Changes with every record.
    handover: Shared<[AtomicU64; WORDS]>,
    told: HashMap<MapData, Raw<ToldKey>, u64>,
    loss_told: HashMap<MapData, Raw<LossKey>, u64>,
}

impl Ledger {
    /// The ledger pinned in `folder`; `None` if there is none, or it is of another layout.
    pub fn pinned(folder: &Path) -> Option<Self> {
        let map = |name: &str| Map::from_map_data(MapData::from_pin(folder.join(name)).ok()?).ok();
        let [handover, told, loss_told] = NAMES;
        Some(Self {
            handover: Shared::of(map(handover)?.try_into().ok()?).ok()?,
            told: map(told)?.try_into().ok()?,
            loss_told: map(loss_told)?.try_into().ok()?,
        })
    }

    /// An empty one that ends with the process.
    ///
    /// # Errors
    /// The kernel refuses a map.
    pub fn create() -> Result<Self, MapError> {
        Ok(Self {
            handover: Shared::of(Array::create(1, MMAPABLE)?).map_err(MapError::IoError)?,
            told: HashMap::create(ENTRIES, 0)?,
            loss_told: HashMap::create(ENTRIES, 0)?,
        })
    }

    /// Pins it in `folder`, and is the pinned one from then on.
    ///
    /// # Errors
    /// The kernel refuses a pin.
    pub fn pin(self, folder: &Path) -> Result<Self, MapError> {
        let [handover, told, loss_told] = NAMES;
        let failed = |name: &str| {
            let name = Some(name.to_owned());
            move |error| MapError::PinError { name, error }
        };
        self.handover.map().map().pin(folder.join(handover)).map_err(failed(handover))?;
        self.told.pin(folder.join(told)).map_err(failed(told))?;
        self.loss_told.pin(folder.join(loss_told)).map_err(failed(loss_told))?;
        Self::pinned(folder).ok_or_else(|| MapError::InvalidName { name: handover.into() })
    }

    /// The counts as they stand.
    pub fn handover(&self) -> Handover {
        bytemuck::cast(self.handover.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }

    /// Replaces the counts.
    pub fn set_handover(&mut self, handover: &Handover) {
        let words: [u64; WORDS] = bytemuck::cast(*handover);
        for (to, word) in self.handover.iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
    }

    /// Was this told by this daemon or one before it?
    pub fn was_told(&self, key: &ToldKey) -> bool {
        self.told.get(&Raw(*key), 0).is_ok()
    }

    /// Notes that it was, with the time in ns since boot.
    pub fn tell(&mut self, key: &ToldKey, time_ns: u64) {
        if self.told.insert(Raw(*key), time_ns, 0).is_err() {
            let all: Vec<_> = self.told.keys().filter_map(Result::ok).collect();
            all.iter().for_each(|old| drop(self.told.remove(old)));
            super::maps::note("TOLD", self.told.insert(Raw(*key), time_ns, 0));
        }
    }

    /// Losses that were told, by container and kind.
    pub fn losses_told(&self) -> Vec<(LossKey, u64)> {
        self.loss_told.iter().filter_map(Result::ok).map(|(key, count)| (key.0, count)).collect()
    }

    /// Notes a loss as told.
    pub fn tell_loss(&mut self, key: &LossKey, count: u64) {
        if self.loss_told.insert(Raw(*key), count, 0).is_err() {
            let all: Vec<_> = self.loss_told.keys().filter_map(Result::ok).collect();
            all.iter().for_each(|old| drop(self.loss_told.remove(old)));
            super::maps::note("LOSS_TOLD", self.loss_told.insert(Raw(*key), count, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_bits_by_position() {
        let mut handover = Handover::default();
        for index in [0, 63, 64, 255] {
            handover.add_link(index);
        }
        let set: Vec<usize> = (0..300).filter(|index| handover.has_link(*index)).collect();
        assert_eq!(set, [0, 63, 64, 255]);
    }
}
