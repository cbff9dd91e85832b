//! Reading a recording.

use super::{Entry, FRAME_MAX, Head, MAGIC};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::ops::Range;
use std::path::Path;

/// What a compressed file begins with (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Bytes read at a time.
const BUFFER: usize = 1 << 16;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be opened or read.
    #[error("read the recording: {0}")]
    Read(#[from] io::Error),
    /// It does not begin as a recording does.
    #[error("not a recording of this version of Bulkhead (make one with `bulkhead record`)")]
    NotARecording,
    /// A frame makes no sense.
    #[error("the recording is damaged at byte {at}")]
    Damaged {
        /// Where the frame begins.
        at: u64,
    },
}

/// A recording, read from front to back.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// What was read; from `next` to `end` it is still to be looked at.
    buffer: Vec<u8>,
    next: usize,
    end: usize,
    at: u64,
    head: Head,
}

impl Reader<Box<dyn Read>> {
    /// Opens a file, which may be compressed with gzip.
    ///
    /// # Errors
    /// It cannot be read, or is none of ours.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        // Half of what is asked for at a time: then it is read past this buffer.
        let mut file = BufReader::with_capacity(BUFFER / 2, File::open(path)?);
        let compressed = file.fill_buf()?.starts_with(&GZIP);
        Self::new(if compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
    }
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// It cannot be read, or is no recording.
    pub fn new(from: R) -> Result<Self, RecordingError> {
        let head = Head { version: String::new(), host: String::new(), kernel: String::new(), boot_ns: 0, wall_ns: 0 };
        let mut reader = Self { from, buffer: vec![0; BUFFER], next: 0, end: 0, at: 0, head };
        if !reader.has(MAGIC.len())? || reader.buffer[..MAGIC.len()] != MAGIC {
            return Err(RecordingError::NotARecording);
        }
        reader.next = MAGIC.len();
        reader.at = MAGIC.len() as u64;
        let head = match reader.frame() {
            Ok(Some(frame)) => postcard::from_bytes(&reader.buffer[frame]).ok(),
            Ok(None) | Err(RecordingError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        reader.head = head.ok_or(RecordingError::NotARecording)?;
        Ok(reader)
    }

    /// Where and when it was made.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next entry; `None` at the end. A last frame that was cut off (who recorded was killed) is the end as well.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, RecordingError> {
        let at = self.at;
        let Some(frame) = self.frame()? else { return Ok(None) };
        postcard::from_bytes(&self.buffer[frame]).map(Some).map_err(|_| RecordingError::Damaged { at })
    }

    /// Where the next frame is in the buffer.
    fn frame(&mut self) -> Result<Option<Range<usize>>, RecordingError> {
        const LENGTH: usize = size_of::<u32>();
        if !self.has(LENGTH)? {
            return Ok(None);
        }
        let length = self.buffer[self.next..].first_chunk::<LENGTH>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(RecordingError::Damaged { at: self.at });
        }
        if !self.has(LENGTH + length)? {
            return Ok(None);
        }
        let start = self.next + LENGTH;
        self.next = start + length;
        self.at += (LENGTH + length) as u64;
        Ok(Some(start..self.next))
    }

    /// Reads on until so many bytes are there; `false` if there are not.
    fn has(&mut self, wanted: usize) -> io::Result<bool> {
        while self.end - self.next < wanted {
            if self.buffer.len() - self.next < wanted {
                self.buffer.copy_within(self.next..self.end, 0);
                self.end -= self.next;
                self.next = 0;
                self.buffer.resize(self.buffer.len().max(wanted), 0);
            }
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
