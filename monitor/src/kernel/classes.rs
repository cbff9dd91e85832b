//! What a program is, told from its file: the fingerprint the kernel half computes at exec from the
//! memory layout, computed here from the ELF headers, so that a shell is known in every container
//! before it or a copy of it runs.

use monitor_common::state::Fingerprint;
use std::io::Read;
use std::path::Path;

const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
/// Program headers looked at; real programs have about a dozen.
const MOST_HEADERS: usize = 64;

/// Fingerprint of an ELF64 little-endian program; `None` for anything else.
pub fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut head = vec![0; 64 + 56 * MOST_HEADERS];
    let mut read = 0;
    while read < head.len() {
        match file.read(&mut head[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(_) => return None,
        }
    }
    head.truncate(read);
    from_headers(&head, size)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
}

/// As `load_elf_binary()` (fs/binfmt_elf.c) sets `start_code` … `end_data`; the load bias cancels out.
fn from_headers(head: &[u8], size: u64) -> Option<Fingerprint> {
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = word(head, 32)? as usize;
    let count = u16::from_le_bytes([*head.get(56)?, *head.get(57)?]) as usize;
    let (mut start_code, mut end_code, mut start_data, mut end_data) = (u64::MAX, 0u64, 0u64, 0u64);
    for i in 0..count.min(MOST_HEADERS) {
        let at = table.checked_add(i * 56)?;
        if half(head, at)? != PT_LOAD {
            continue;
        }
        let executable = half(head, at + 4)? & PF_X != 0;
        let start = word(head, at + 16)?;
        let end = start.checked_add(word(head, at + 32)?)?;
        if executable {
            start_code = start_code.min(start);
            end_code = end_code.max(end);
        }
        start_data = start_data.max(start);
        end_data = end_data.max(end);
    }
    Some(Fingerprint { size, code: end_code.wrapping_sub(start_code), data: end_data.wrapping_sub(start_data) })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_copy_has_the_same_and_another_program_has_not() {
        let shell = fingerprint(Path::new("/bin/bash")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("httpd");
        std::fs::copy("/bin/bash", &copy).unwrap();
        assert_eq!(fingerprint(&copy), Some(shell));
        assert_ne!(fingerprint(Path::new("/bin/cat")), Some(shell));
        assert!(shell.code > 0 && shell.data > 0);
    }

    #[test]
    fn not_a_program() {
        assert_eq!(fingerprint(Path::new("/etc/passwd")), None);
        assert_eq!(from_headers(b"\x7fELF\x02\x01", 6), None);
    }
}
