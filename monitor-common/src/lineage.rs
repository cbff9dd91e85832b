//! Whose descendant a process is, in a word per ancestor.

/// Generations told apart, counted from the container's outermost process. What is deeper shares the
/// last one's place and goes down with it.
pub const LINEAGE: usize = 15;

/// USER_HZ is part of the ABI and 100 on every architecture: all that /proc tells of a start.
pub const TICK_NS: u64 = 10_000_000;

/// A process in one word. Its start counts to the clock tick only, so that a process known from /proc
/// has the same word as one known from the kernel.
#[inline(always)]
pub const fn id(tgid: u32, start_ns: u64) -> u32 {
    // Fibonacci hashing (Knuth, TAOCP 6.4): the upper half of a product with 2^64 over the golden ratio.
    let word = (start_ns / TICK_NS) << 22 ^ tgid as u64;
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_known_to_the_tick_is_the_same_process() {
        assert_eq!(id(4711, 1_234_567_890_123), id(4711, 1_234_560_000_000));
        assert_ne!(id(4711, 1_234_567_890_123), id(4711, 1_234_570_000_000));
        assert_ne!(id(4711, 1_234_567_890_123), id(4712, 1_234_567_890_123));
    }

    #[test]
    fn neighbours_do_not_collide() {
        let mut all = [0; 4000];
        for (tgid, slot) in (1..).zip(&mut all) {
            *slot = id(tgid, u64::from(tgid) * 3_000_000);
        }
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
