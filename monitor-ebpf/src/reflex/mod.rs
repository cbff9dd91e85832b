//! The reflex: structural facts, decided in constant time inside the hook.
//!
//! Everything is inlined but what is declared `extern "C"` and `inline(never)`: functions of their own, which the
//! verifier walks once a program, whatever their callers know, and not once for every way there (kernel
//! documentation, "BPF Design Q&A"; global functions, since 5.6). They take and answer numbers: kernels before 5.12
//! allow nothing else (kernel/bpf/btf.c, `btf_prepare_func_args`).

pub mod doom;
pub mod expected;
pub mod guard;
pub mod held;
pub mod marks;
pub mod own;
pub mod program;
pub mod provenance;
pub mod quarantine;
pub mod sensitive;
pub mod stdio;
