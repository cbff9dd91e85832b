//! Shared code of the test subjects: which addresses they may talk to, and how they end.
//!
//! The subjects stand in for attackers' tools. They make the same system calls in the same order, and
//! nothing else: every address is checked against the lab's own ranges after name resolution, and every
//! program ends by itself within [`life::LIMIT`].

pub mod addr;
pub mod life;
pub mod ring;
pub mod uring;
