//! Bulkhead's daemon. One way through: `kernel` (ring, decode) → `container` and `provenance`
//! (enrich) → `detect` → `respond` → `output`; `config` and `cli` stand beside it.

/// Subcommands, one file each.
pub mod cli {
    pub mod audit;
}
pub mod container;
pub mod event;
pub mod finding;
pub mod respond;
pub mod startup;
