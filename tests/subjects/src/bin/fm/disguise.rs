//! Other names: comm and the argument block, as miners that pose as kernel threads change them.

use std::ffi::CString;

/// Sets comm (`PR_SET_NAME`); the kernel cuts it at 15 bytes.
pub fn rename(name: &str) {
    if let Ok(name) = CString::new(name) {
        // Refused only for a bad pointer; a miner would go on either way.
        let _ = rustix::thread::set_name(&name);
    }
}

/// Fills the argument block with zeros, so that `/proc/PID/cmdline` is empty as a kernel thread's is. The
/// arguments must have been read: afterwards they are gone.
pub fn clobber_argv() {
    let Some((start, end)) = argument_block() else {
        return;
    };
    // SAFETY: the kernel reports this range as the process's argument strings: it is mapped, writable and
    // belongs to the initial stack. Nothing in this program refers to it after Options::read.
    unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
}

/// `arg_start` and `arg_end`: fields 48 and 49 of proc_pid_stat(5).
fn argument_block() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // comm may hold spaces and parentheses; field 3 follows its last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(48 - 3);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (start != 0 && start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_block_is_found() {
        assert!(super::argument_block().is_some_and(|(start, end)| end - start < 1 << 20));
    }
}
