//! Alerts out. `record` is the row (Elastic Common Schema), `human` its rendering for people,
//! `sink` where rows go (stdout, a rotated file), `writer` the thread and bounded queue between
//! the pipeline and the sink, `shares` who may have how much of that queue. What is worth an alert is decided elsewhere.

pub mod category;
mod clock;
pub mod escape;
pub mod events;
pub mod human;
pub mod notice;
pub mod record;
pub mod response;
pub mod schema;
mod shares;
pub mod sink;
pub mod writer;

pub use clock::Clock;
pub use events::Events;
pub use notice::Notice;
pub use record::{Alert, Row};
pub use writer::{Counters, Observer, Output, OutputError};

#[cfg(test)]
pub(crate) mod samples;
