//! Bulkhead's daemon. One way through: `kernel` (ring, decode) → `container` and `provenance`
//! (enrich) → `detect` → `respond` → `output`; `config` and `cli` stand beside it. `recording` keeps what
//! judgement was given, for `pipeline::replay`; `baseline` knows what containers are expected to do;
//! `argv` reads arguments as the kernel half does.

pub mod argv;
pub mod baseline;
pub mod canary;
pub mod cli;
pub mod config;
pub mod container;
pub mod control;
pub mod detect;
pub mod event;
pub mod finding;
pub mod incident;
pub mod kernel;
pub mod output;
pub mod pipeline;
pub mod privileges;
pub mod provenance;
pub mod recording;
pub mod respond;
pub mod response;
pub mod startup;
