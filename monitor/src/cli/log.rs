//! The daemon's own log: to standard error, apart from alerts.

use crate::config::Level;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts it. `BULKHEAD_LOG` (a tracing filter) comes before the configured level.
pub fn start(level: Level) {
    let filter = EnvFilter::try_from_env("BULKHEAD_LOG").unwrap_or_else(|_| EnvFilter::new(level.name()));
    let terminal = std::io::stderr().is_terminal();
    // A second start (a test in one process) keeps the first.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).try_init();
}
