//! How slow the machine is. A guest under software emulation is several times slower than a host: there
//! every wait is as many times longer, and what is only repeated for the sake of numbers is done less
//! often. `BULKHEAD_TEST_PACE` says how many times; without it, 1.

use std::sync::LazyLock;
use std::time::Duration;

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
