//! Where rendered rows go: standard output, or a file that is rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A place for rows.
pub trait Sink: Send {
    /// Writes one rendered row, with its line end, as a whole.
    ///
    /// # Errors
    /// The row is not in the sink; a later row may be.
    fn write(&mut self, row: &str) -> io::Result<()>;

    /// Opens a file anew (an external rotation has moved it).
    fn reopen(&mut self) {}
}

/// Standard output.
#[derive(Debug, Default)]
pub struct Stdout;

impl Sink for Stdout {
    fn write(&mut self, row: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(row.as_bytes())?;
        out.flush()
    }
}

/// A file that grows to `max_bytes`, is then renamed to `.1`, `.1` to `.2`, and so on to `.keep`.
#[derive(Debug)]
pub struct RotatedFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// (device, inode): tells whether the path still leads here.
    id: (u64, u64),
    regular: bool,
}

impl RotatedFile {
    /// Opens the file, making its folder if needed.
    ///
    /// # Errors
    /// The folder cannot be made or the file not opened.
    pub fn new(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let mut sink = Self { path: path.into(), max_bytes, keep, open: None };
        sink.open = Some(sink.opened()?);
        Ok(sink)
    }

    fn opened(&self) -> io::Result<Open> {
        if let Some(folder) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        }
        // 0640: alerts hold command lines, which hold secrets.
        let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o640).open(&self.path)?;
        let meta = file.metadata()?;
        let mut size = meta.len();
        let regular = meta.is_file();
        if regular && size > 0 && last_byte(&mut file)? != b'\n' {
            // A crash or a full disk cut the last row: the next one must not be glued to it.
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok(Open { file, size, id: (meta.dev(), meta.ino()), regular })
    }

    /// The open file; opened anew if the path no longer leads to it.
    fn current(&mut self) -> io::Result<&mut Open> {
        let here = std::fs::metadata(&self.path).map(|m| (m.dev(), m.ino())).ok();
        let open = match self.open.take() {
            Some(open) if here == Some(open.id) => open,
            _ => self.opened()?,
        };
        Ok(self.open.insert(open))
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        if self.keep == 0 {
            std::fs::remove_file(&self.path)?;
        }
        for n in (0..self.keep).rev() {
            let from = if n == 0 { self.path.clone() } else { numbered(&self.path, n) };
            match std::fs::rename(from, numbered(&self.path, n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.open = Some(self.opened()?);
        Ok(())
    }
}

impl Sink for RotatedFile {
    fn write(&mut self, row: &str) -> io::Result<()> {
        let (max, length) = (self.max_bytes, row.len() as u64);
        let open = self.current()?;
        if open.regular && open.size > 0 && open.size + length > max {
            self.rotate()?;
        }
        let open = self.current()?;
        match open.file.write_all(row.as_bytes()) {
            Ok(()) => {
                open.size += length;
                Ok(())
            }
            Err(error) => {
                // Take back the half row that a full disk may have let through.
                if open.regular && open.file.set_len(open.size).is_err() {
                    self.open = None;
                }
                Err(error)
            }
        }
    }

    fn reopen(&mut self) {
        self.open = None;
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut byte = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_else(|_| "missing".into())
    }

    #[test]
    fn rotation_keeps_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.jsonl");
        let mut sink = RotatedFile::new(&path, 8, 2).unwrap();
        for row in ["1111\n", "2222\n", "3333\n", "4444\n"] {
            sink.write(row).unwrap();
        }
        assert_eq!(read(&path), "4444\n");
        assert_eq!(read(&numbered(&path, 1)), "3333\n");
        assert_eq!(read(&numbered(&path, 2)), "2222\n");
        assert_eq!(read(&numbered(&path, 3)), "missing");
        sink.write("a row longer than the file may be\n").unwrap();
        assert_eq!(read(&path), "a row longer than the file may be\n");
    }

    #[test]
    fn keep_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut sink = RotatedFile::new(&path, 8, 0).unwrap();
        sink.write("11111\n").unwrap();
        sink.write("22222\n").unwrap();
        assert_eq!((read(&path), std::fs::read_dir(&dir).unwrap().count()), ("22222\n".into(), 1));
    }

    #[test]
    fn a_vanished_or_moved_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut sink = RotatedFile::new(&path, 100, 1).unwrap();
        sink.write("1\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        sink.write("2\n").unwrap();
        assert_eq!(read(&path), "2\n");
        let moved = dir.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        sink.write("3\n").unwrap();
        assert_eq!((read(&path), read(&moved)), ("3\n".into(), "2\n".into()));
    }

    #[test]
    fn appends_after_a_cut_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "{\"cut").unwrap();
        RotatedFile::new(&path, 100, 1).unwrap().write("2\n").unwrap();
        assert_eq!(read(&path), "{\"cut\n2\n");
    }

    #[test]
    fn only_the_owner_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        drop(RotatedFile::new(&path, 100, 1).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o137, 0);
    }
}
