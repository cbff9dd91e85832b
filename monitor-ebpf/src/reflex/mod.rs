//! The reflex: structural facts, decided in constant time inside the hook.

pub mod doom;
pub mod guard;
pub mod marks;
pub mod own;
pub mod program;
pub mod provenance;
pub mod quarantine;
pub mod sensitive;
pub mod stdio;
