//! How a subject ends: by itself, whatever happens to it.

use std::time::Duration;

/// No subject, and no shell it starts, outlives this.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Lets the kernel end this process after `after` or [`LIMIT`], whichever comes first. The alarm survives
/// exec, so a shell that a subject turns into ends too; it does not survive fork: call it again there.
pub fn end_after(after: Duration) {
    let seconds = after.min(LIMIT).as_secs().max(1);
    // SAFETY: alarm(2) takes no pointers. Seconds are at most 90, so the cast loses nothing.
    unsafe { libc::alarm(seconds as libc::c_uint) };
}
