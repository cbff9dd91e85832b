//! Findings of one attack, told as one story. Made from the rows that the daemon wrote, by whoever asks: from the log of
//! last week as well as from the running daemon. `log` reads the rows, `group` finds out what belongs together and says
//! why, `story` tells it, `tree` and `damage` help, and `text`, `html` and `svg` render it.

pub mod damage;
pub mod group;
pub mod html;
pub mod log;
pub mod story;
pub mod svg;
pub mod text;
pub mod tree;

#[cfg(test)]
pub(crate) mod samples;

use jiff::SignedDuration;

/// A tree of processes that was quiet for so long, and is found again, is another incident: an entry point may live for months.
pub const LINEAGE_QUIET: SignedDuration = SignedDuration::from_hours(1);
/// What a file or a download ties together may lie as far apart: a weekly cron job.
pub const TIE_QUIET: SignedDuration = SignedDuration::from_hours(7 * 24);
