//! Resident memory after the start: what only starting needed is given back.

use std::path::Path;

/// Gives back what starting took and nobody needs again: memory that reading the kernel's type information used, some
/// 15 MiB, and the pages of the program's own file that are mapped by now, as far as they are not touched again.
pub(super) fn trim() {
    // SAFETY: glibc's allocator may be trimmed at any time from any thread.
    unsafe { libc::malloc_trim(0) };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(|line| unwritten(line, &program)) {
        // SAFETY: a private mapping of a file that nothing has been written to: who touches a page of it again gets
        // the same bytes (madvise(2)).
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Where a line of /proc/PID/maps says that the program's code or constants are. What the linker has filled in is
/// read-only by now too, but further behind in the file.
fn unwritten(line: &str, program: &Path) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let is_meant = rights == "r-xp" || rights == "r--p" && offset.bytes().all(|digit| digit == b'0');
    if !is_meant || fields.nth(2).map(Path::new) != Some(program) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_given_back() {
        let program = Path::new("/usr/sbin/bulkhead");
        let line = |rights: &str, offset: &str, path: &str| {
            unwritten(&format!("5585484e0000-5585484e3000 {rights} {offset} fe:00 131 {path}"), program)
        };
        let code = Some((0x5585_484e_0000, 0x3000));
        assert_eq!(line("r-xp", "00bcd000", "/usr/sbin/bulkhead"), code);
        assert_eq!(line("r--p", "00000000", "     /usr/sbin/bulkhead"), code);
        assert_eq!(line("r--p", "01472000", "/usr/sbin/bulkhead"), None, "filled in by the linker");
        assert_eq!(line("rw-p", "00000000", "/usr/sbin/bulkhead"), None);
        assert_eq!(line("r-xp", "00000000", "/usr/lib/libc.so.6"), None, "another file");
        assert_eq!(line("rw-p", "00000000", ""), None);
    }
}
