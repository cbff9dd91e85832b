//! Bulkhead's daemon. One way through: `kernel` (ring, decode) → `container` and `provenance`
//! (enrich) → `detect` → `respond` → `output`; `config` and `cli` stand beside it.

pub mod event;
pub mod finding;

pub mod detect;
pub mod provenance;
