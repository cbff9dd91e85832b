//! Programs without a file.

use crate::{Outcome, failed};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
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

/// `exit(0)` as x86-64 machine code: mov eax, 60; xor edi, edi; syscall.
const EXIT: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

/// Writes code into an anonymous mapping and jumps to it: no file, no exec.
pub fn mapped() -> Outcome {
    if !cfg!(target_arch = "x86_64") {
        return Err("ulexec: its code is for x86-64".into());
    }
    let all = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
    // SAFETY: a fresh mapping that nothing else refers to.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, all, MapFlags::PRIVATE) }.map_err(failed("mmap"))?;
    // SAFETY: the page is ours, writable, executable, and longer than the code; the code ends the process.
    unsafe {
        std::ptr::copy_nonoverlapping(EXIT.as_ptr(), page.cast(), EXIT.len());
        let code: extern "C" fn() -> ! = std::mem::transmute(page);
        code()
    }
}
