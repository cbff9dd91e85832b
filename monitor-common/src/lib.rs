//! Everything the kernel half and the daemon share: event records, map keys and values, policy
//! bits and the list of kernel fields the programs read. `no_std`, fixed layout, no pointers.
//!
//! One topic a file. A kind, reason or verdict travels as an integer and is checked on arrival.
#![no_std]

pub mod argv;
pub mod exec;
pub mod field;
pub mod file;
pub mod hash;
pub mod header;
pub mod lineage;
pub mod net;
pub mod own;
pub mod policy;
pub mod profile;
pub mod reach;
pub mod state;

/// Version of every layout in this crate. It is part of each record, and the daemon refuses an
/// object that was built with another one.
pub const ABI_VERSION: u16 = 5;
