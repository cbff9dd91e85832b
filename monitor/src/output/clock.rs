//! From the kernel's boot clock to wall time.

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks. Taken afresh for every row, so that a step of the wall clock (NTP,
/// resume) is followed at once.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    boot_ns: u64,
}

impl Clock {
    /// Reads both clocks now.
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(boot.tv_nsec).unwrap_or(0);
        Self { wall: Timestamp::now(), boot_ns: seconds.saturating_mul(1_000_000_000) + nanos }
    }

    /// A reading made up for tests and examples.
    pub fn fixed(wall: Timestamp, boot_ns: u64) -> Self {
        Self { wall, boot_ns }
    }

    /// Now.
    pub fn wall(&self) -> Timestamp {
        self.wall
    }

    /// Wall time of a moment given in ns since boot.
    pub fn at(&self, boot_ns: u64) -> Timestamp {
        let nanos = i128::from(boot_ns) - i128::from(self.boot_ns);
        let nanos = i64::try_from(nanos).unwrap_or(0);
        self.wall.saturating_add(SignedDuration::from_nanos(nanos)).unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_and_after_the_reading() {
        let clock = Clock::fixed(Timestamp::UNIX_EPOCH, 5_000_000_000);
        assert_eq!(clock.at(4_500_000_000).to_string(), "1969-12-31T23:59:59.5Z");
        assert_eq!(clock.at(6_000_000_001).to_string(), "1970-01-01T00:00:01.000000001Z");
    }

    #[test]
    fn a_moment_ago_is_a_moment_ago() {
        let clock = Clock::now();
        assert_eq!(clock.at(clock.boot_ns), clock.wall());
        assert!(clock.boot_ns > 0);
    }
}
