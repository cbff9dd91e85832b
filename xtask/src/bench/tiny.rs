//! The smallest program there is: a static ELF file of one segment that calls exit(0). Starting it costs
//! the kernel's own work and nothing else: no dynamic linker, no libc, no page faults worth the name.

use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `exit(0)`: mov eax, 60; xor edi, edi; syscall.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// `exit(0)`: mov x8, #93; mov x0, #0; svc #0.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[0xa8, 0x0b, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const HEADERS_BYTES: u64 = 64 + 56;
const LOAD_ADDRESS: u64 = 0x40_0000;

/// Writes the program to `path`, executable.
pub fn write(path: &Path) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o755).open(path);
    file.and_then(|mut file| file.write_all(&image())).with_context(|| format!("write {}", path.display()))
}

/// File header, one program header, code (elf(5)).
fn image() -> Vec<u8> {
    let size = HEADERS_BYTES + CODE.len() as u64;
    let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut half = |value: u16| image.extend(value.to_le_bytes());
    half(2); // e_type: ET_EXEC
    half(MACHINE);
    image.extend(1_u32.to_le_bytes()); // e_version
    for value in [LOAD_ADDRESS + HEADERS_BYTES, 64, 0] {
        image.extend(value.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    image.extend(0_u32.to_le_bytes()); // e_flags
    for value in [64_u16, 56, 1, 64, 0, 0] {
        image.extend(value.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    }
    image.extend(1_u32.to_le_bytes()); // p_type: PT_LOAD
    image.extend(5_u32.to_le_bytes()); // p_flags: R + X
    for value in [0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000] {
        image.extend(value.to_le_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    }
    image.extend(CODE);
    image
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_program_runs_and_exits_zero() {
        let path = std::env::temp_dir().join(format!("bulkhead-tiny-{}", std::process::id()));
        write(&path).unwrap();
        let status = std::process::Command::new(&path).status();
        fs::remove_file(&path).unwrap();
        assert!(status.unwrap().success());
    }
}
