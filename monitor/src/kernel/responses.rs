//! The kernel half's part in responses: what is quarantined, and which sets of processes are being killed.

use super::maps::{Maps, Raw, note};
use monitor_common::state::{CutKey, Doomed, Task};

/// Looks at a task at most: the map is walked while it changes, and a walk that meets a deleted key
/// begins anew.
const WALK: usize = 200_000;

impl Maps {
    /// Tells the programs which responses are in force (`RESPONSE_*`).
    pub fn set_responses(&mut self, bits: u32) {
        if self.current.responses != bits {
            self.current.responses = bits;
            self.set_config(&self.current.clone());
        }
    }

    /// `RESPONSE_*` in force.
    pub fn responses(&self) -> u32 {
        self.current.responses
    }

    /// Everything by which something is cut off.
    pub fn cuts(&self) -> Vec<CutKey> {
        self.quarantine.keys().filter_map(Result::ok).map(|Raw(key)| key).collect()
    }

    /// Ends every killing.
    pub fn pardon_all(&mut self) {
        let doomed: Vec<u32> = self.doomed.keys().filter_map(Result::ok).collect();
        doomed.into_iter().for_each(|lineage| self.pardon(lineage));
    }

    /// Cuts a container off by one of its marks; false if the map is full.
    pub fn cut(&mut self, key: CutKey, container: u64) -> bool {
        let result = self.quarantine.insert(Raw(key), container, 0);
        let done = result.is_ok();
        note("QUARANTINE", result);
        done
    }

    /// Takes a mark back.
    pub fn uncut(&mut self, key: CutKey) {
        let _ = self.quarantine.remove(&Raw(key));
    }

    /// From now on who is born into this line dies.
    pub fn doom(&mut self, lineage: u32, container: u64) {
        note("DOOMED", self.doomed.insert(lineage, Raw(Doomed { container, born: 0 }), 0));
    }

    /// How many were born into this line since, and died.
    pub fn born(&self, lineage: u32) -> u64 {
        self.doomed.get(&lineage, 0).map_or(0, |set| set.0.born)
    }

    /// Ends that.
    pub fn pardon(&mut self, lineage: u32) {
        let _ = self.doomed.remove(&lineage);
    }

    /// A process as the programs know it.
    pub fn task(&self, tgid: u32) -> Option<Task> {
        self.tasks.get(&tgid, 0).ok().map(|raw| raw.0)
    }

    /// Living processes that `wanted` says yes to.
    pub fn tasks_where(&self, wanted: impl Fn(&Task) -> bool) -> Vec<(u32, Task)> {
        self.tasks
            .iter()
            .take(WALK)
            .filter_map(Result::ok)
            .filter(|(_, raw)| wanted(&raw.0))
            .map(|(tgid, raw)| (tgid, raw.0))
            .collect()
    }
}
