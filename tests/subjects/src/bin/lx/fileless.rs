//! Programs without a file.

use crate::{Outcome, failed};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Copies `program` into a memfd and executes that.
pub fn memfd(program: &str, args: &[&str]) -> Outcome {
    let bytes = std::fs::read(program).map_err(failed(program))?;
    // Not close-on-exec: the path /proc/self/fd/N must exist while the kernel opens it, and an attacker's
    // loader leaves it open as well.
    let mut file = File::from(memfd_create("lab", MemfdFlags::empty()).map_err(failed("memfd_create"))?);
    file.write_all(&bytes).map_err(failed("memfd"))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Err(failed(&path)(Command::new(&path).arg0(program).args(args).exec()))
}
