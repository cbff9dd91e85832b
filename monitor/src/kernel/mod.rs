//! The kernel half from the daemon's side: which hooks this kernel accepts (`hooks`), where its
//! fields are (`btf`), loading and attaching (`loader`), and what comes back (`ring`, `decode`).

pub mod again;
pub mod btf;
pub mod classes;
pub mod clock;
pub mod decode;
pub mod hooks;
pub mod ladder;
pub mod ledger;
pub mod links;
pub mod loader;
pub mod maps;
pub mod missed;
pub mod mounts;
pub mod object;
pub mod pins;
pub mod profiles;
pub mod responses;
pub mod ring;
pub mod shared;
