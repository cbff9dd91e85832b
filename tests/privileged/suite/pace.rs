//! How slow the machine is. A guest under software emulation is several times slower than a host: there
//! every wait is as many times longer, and what is only repeated for the sake of numbers is done less
//! often. `BULKHEAD_TEST_PACE` says how many times; without it, 1.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static PACE: LazyLock<u32> = LazyLock::new(|| {
    let said = std::env::var("BULKHEAD_TEST_PACE").ok().and_then(|text| text.parse().ok());
    said.unwrap_or(1).clamp(1, 60)
});

/// A wait that is long enough on a host, as long as this machine needs.
pub fn wait(host: Duration) -> Duration {
    host * *PACE
}

/// How often to do here what is done `host` times on a host.
pub fn times(host: usize) -> usize {
    (host / *PACE as usize).max(1)
}

/// Says on standard error what a test cost on a slow machine, when it is dropped.
pub struct Bill {
    name: &'static str,
    begun: Instant,
    idle: Option<Duration>,
}

impl Bill {
    /// From now on.
    pub fn open(name: &'static str) -> Self {
        Self { name, begun: Instant::now(), idle: idle() }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        if *PACE > 1
            && let (Some(before), Some(after)) = (self.idle, idle())
        {
            let busy = took.saturating_sub(after.saturating_sub(before));
            eprintln!("{}: {:.1} s, {:.1} s of them busy", self.name, took.as_secs_f64(), busy.as_secs_f64());
        }
    }
}

/// How long the processors have idled: the second number of /proc/uptime.
fn idle() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_secs_f64)
}
