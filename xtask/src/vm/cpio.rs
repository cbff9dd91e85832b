//! Writes initramfs archives: the `newc` format of cpio, as the kernel reads it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in the making. Several of them, one after the other, are one initramfs.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a file, and the folders above it; `path` is relative to the root.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.folders_above(path);
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    /// Adds a file of the host.
    pub fn copy(&mut self, path: &str, permissions: u32, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(path, permissions, &content);
        Ok(())
    }

    /// Adds `/dev/console`, which the kernel opens for the first process before anything is mounted.
    pub fn console(&mut self) {
        self.folders_above("dev/console");
        self.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    }

    /// The archive's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn folders_above(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // modification time
            content.len() as u32,
            0, // device the file lies on
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum, unused
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_folders_come_first() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"text!");
        archive.file("a/b/d", 0o644, b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<usize> = ["a\0", "a/b\0", "a/b/c\0", "a/b/d\0", "TRAILER!!!\0"]
            .iter()
            .map(|name| text.find(name).unwrap_or(usize::MAX))
            .collect();
        assert!(names.is_sorted() && names[4] < usize::MAX, "{names:?}");
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.contains("000081ed"), "mode of a program");
        assert!(text.contains("text!\x00\x00\x00070701"), "content is padded to four bytes");
    }
}
