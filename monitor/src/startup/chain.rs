//! Live pipe chains: whether the process at the far end of a shell's standard input or output
//! holds an outbound connection (`curl … | bash`, `mkfifo` and `nc`, `python -c pty.spawn`).

use super::proc_scan::{PipeEnd, Task};
use crate::event::{ContainerKey, Inode};
use std::collections::HashMap;

/// Stages followed: more filters than anyone puts between a download and a shell.
const MAX_STAGES: usize = 6;

/// Who holds which end of which pipe. Only processes of the same container are of one chain: the
/// runtime outside holds the far end of every container's standard descriptors.
pub(super) struct Chains<'t> {
    writers: HashMap<(ContainerKey, Inode), Vec<&'t Task>>,
    readers: HashMap<(ContainerKey, Inode), Vec<&'t Task>>,
    masters: HashMap<(ContainerKey, u32), Vec<&'t Task>>,
}

impl<'t> Chains<'t> {
    pub(super) fn new(tasks: &'t [Task]) -> Self {
        let mut chains = Self { writers: HashMap::new(), readers: HashMap::new(), masters: HashMap::new() };
        for task in tasks {
            for pipe in &task.pipes {
                let key = (task.container, pipe.inode);
                if pipe.writes {
                    chains.writers.entry(key).or_default().push(task);
                }
                if pipe.reads {
                    chains.readers.entry(key).or_default().push(task);
                }
            }
            for master in &task.masters {
                chains.masters.entry((task.container, *master)).or_default().push(task);
            }
        }
        chains
    }

    /// The process with an outbound connection that what this one reads comes from.
    pub(super) fn network_end_of_stdin(&self, task: &Task) -> Option<&'t Task> {
        self.terminal_master(task).or_else(|| self.follow(task, &self.writers, |p| p.fd == 0 && p.reads, |p| p.reads))
    }

    /// The one that what it writes goes to.
    pub(super) fn network_end_of_stdout(&self, task: &Task) -> Option<&'t Task> {
        let first = |p: &PipeEnd| (p.fd == 1 || p.fd == 2) && p.writes;
        self.terminal_master(task).or_else(|| self.follow(task, &self.readers, first, |p| p.writes))
    }

    fn terminal_master(&self, task: &Task) -> Option<&'t Task> {
        let holders = self.masters.get(&(task.container, task.terminal?))?;
        holders.iter().copied().find(|h| h.key != task.key && h.outbound().is_some())
    }

    /// Goes from `task` over the pipes that `first` picks to whoever holds their other end, and on
    /// over the pipes that `next` picks.
    fn follow(
        &self,
        task: &Task,
        others: &HashMap<(ContainerKey, Inode), Vec<&'t Task>>,
        first: impl Fn(&PipeEnd) -> bool,
        next: impl Fn(&PipeEnd) -> bool,
    ) -> Option<&'t Task> {
        let mut pipes: Vec<Inode> = task.pipes.iter().filter(|p| first(p)).map(|p| p.inode).collect();
        let mut seen = pipes.clone();
        for _ in 0..MAX_STAGES {
            let mut further = Vec::new();
            let holders = pipes.iter().filter_map(|p| others.get(&(task.container, *p))).flatten();
            for holder in holders.filter(|h| h.key != task.key) {
                if holder.outbound().is_some() {
                    return Some(holder);
                }
                for pipe in holder.pipes.iter().filter(|p| next(p)) {
                    if !seen.contains(&pipe.inode) {
                        seen.push(pipe.inode);
                        further.push(pipe.inode);
                    }
                }
            }
            pipes = further;
        }
        None
    }
}
