//! What responses ask of the kernel half; a trait, so that they are tested without one.

use crate::event::ContainerKey;
use crate::kernel::maps::Maps;
use monitor_common::policy::Policy;
use monitor_common::state::{CutKey, Task};

/// See the module.
pub trait Reflex {
    /// Sets the policy of a cgroup.
    fn policy(&mut self, cgroup: u64, policy: &Policy);
    /// `RESPONSE_*` in force from now on.
    fn responses(&mut self, bits: u32);
    /// Those in force.
    fn in_force(&self) -> u32;
    /// Cuts off what bears this mark; false if there is no room.
    fn cut(&mut self, key: CutKey, container: ContainerKey) -> bool;
    /// Takes a mark back.
    fn uncut(&mut self, key: CutKey);
    /// Who is born into this line from now on dies.
    fn doom(&mut self, lineage: u32, container: ContainerKey);
    /// How many were born into it since, and died.
    fn born(&self, lineage: u32) -> u64;
    /// Ends that.
    fn pardon(&mut self, lineage: u32);
    /// A living process.
    fn task(&self, tgid: u32) -> Option<Task>;
    /// Living processes of a container that descend from one of these lines.
    fn members(&self, container: ContainerKey, lines: &[u32]) -> Vec<(u32, Task)>;
}

/// Does the task descend from one of the lines (or is it the first of one)?
pub fn descends(task: &Task, lines: &[u32]) -> bool {
    task.lineage.iter().take(task.depth as usize).any(|id| lines.contains(id))
}

impl Reflex for Maps {
    fn policy(&mut self, cgroup: u64, policy: &Policy) {
        self.set_policy(cgroup, policy);
    }

    fn responses(&mut self, bits: u32) {
        self.set_responses(bits);
    }

    fn in_force(&self) -> u32 {
        Maps::responses(self)
    }

    fn cut(&mut self, key: CutKey, container: ContainerKey) -> bool {
        Maps::cut(self, key, container)
    }

    fn uncut(&mut self, key: CutKey) {
        Maps::uncut(self, key);
    }

    fn doom(&mut self, lineage: u32, container: ContainerKey) {
        Maps::doom(self, lineage, container);
    }

    fn born(&self, lineage: u32) -> u64 {
        Maps::born(self, lineage)
    }

    fn pardon(&mut self, lineage: u32) {
        Maps::pardon(self, lineage);
    }

    fn task(&self, tgid: u32) -> Option<Task> {
        Maps::task(self, tgid)
    }

    fn members(&self, container: ContainerKey, lines: &[u32]) -> Vec<(u32, Task)> {
        self.tasks_where(|task| task.container == container && descends(task, lines))
    }
}
