//! The doors: one file a hook family. An entry function is thin; `try_*` does the work.

pub mod bpf;
pub mod cgroup;
pub mod connect;
pub mod descriptor;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod name;
pub mod open;
pub mod packet;
pub mod path;
pub mod program;
pub mod reach;
pub mod ring;
pub mod tamper;
pub mod unix;
