//! Bulkhead.
fn main() {}
