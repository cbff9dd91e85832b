//! What the containers of an image do, learned or written down, and whether they still do just that. `observe` makes acts
//! of events, `learn` holds them back until they are known to be honest, `merge` makes few entries of many, `file`,
//! `write` and `store` keep them; `live` puts it together. What is done about a deviation is `respond`'s.

pub mod compile;
pub mod entry;
pub mod file;
mod general;
mod learn;
pub mod live;
pub mod merge;
mod observe;
pub mod pattern;
pub mod store;
mod value;
pub mod write;

pub use file::{Baseline, Identity, Stage};
pub use live::{Baselines, Promotion, Settings};
pub use store::Profile;
