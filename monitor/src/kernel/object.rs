//! The eBPF object this daemon was built with.

/// The object file; empty if the daemon was built without it (see `build.rs`).
pub static BYTES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bulkhead.bpf.o"));
