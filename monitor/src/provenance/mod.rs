//! Who started whom: the daemon's own picture of the processes, kept from exec, fork and exit
//! events, with what each program has done on the network. What the bytes of a process come from
//! (taint) is the kernel half's business and arrives in the events.

mod process;
mod table;
#[cfg(test)]
mod tests;

pub use process::{Neighbour, Outbound, Process, Program};
pub use table::{ANCESTORS, Limits, ProcessTable, Resolve};
