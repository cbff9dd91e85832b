//! Name hashes: how names reach the kernel half.

/// Bytes of a name that are hashed; the rest is ignored on both sides.
pub const HASHED_LEN: usize = 32;

/// FNV-1a, 32 bits, over at most [`HASHED_LEN`] bytes, ending before a NUL. Never 0.
#[inline(always)]
pub const fn name(bytes: &[u8]) -> u32 {
    let mut hash: u32 = OFFSET;
    let mut i = 0;
    while i < HASHED_LEN && i < bytes.len() {
        let b = bytes[i];
        if b == 0 {
            break;
        }
        hash = step(hash, b);
        i += 1;
    }
    finish(hash)
}

/// Start value.
pub const OFFSET: u32 = 0x811c_9dc5;

/// One byte.
#[inline(always)]
pub const fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(0x0100_0193)
}

/// Never 0, which stands for "no name".
#[inline(always)]
pub const fn finish(hash: u32) -> u32 {
    if hash == 0 { 1 } else { hash }
}

/// [`name`] of a program without its version: `python3.11` counts as `python`, `lua5.4` as `lua`; a
/// name of nothing but digits, dots and dashes keeps them.
#[inline(always)]
pub fn program(bytes: &[u8]) -> u32 {
    let mut hash: u32 = OFFSET;
    let mut kept: u32 = 0;
    let mut i = 0;
    while i < HASHED_LEN && i < bytes.len() {
        let b = bytes[i];
        if b == 0 {
            break;
        }
        hash = step(hash, b);
        if !(b.is_ascii_digit() || b == b'.' || b == b'-') {
            kept = hash;
        }
        i += 1;
    }
    finish(if kept == 0 { hash } else { kept })
}

/// Key of the `SENSITIVE` map for the last components of a path: file name, parent directory,
/// grandparent. 0 stands for "any".
#[inline(always)]
pub const fn path_key(name: u32, parent: u32, grandparent: u32) -> u64 {
    let low = name as u64 | (parent as u64) << 32;
    low.rotate_left(13) ^ (grandparent as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::{name, program};

    #[test]
    fn versions_do_not_count() {
        assert_eq!(program(b"python3.11\0garbage"), name(b"python"));
        assert_eq!(program(b"busybox"), name(b"busybox"));
        assert_eq!(program(b"7z"), name(b"7z"));
        assert_eq!(program(b"42"), name(b"42"));
        assert_ne!(program(b"bash"), program(b"dash"));
    }
}
