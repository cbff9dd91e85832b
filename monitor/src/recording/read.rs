//! Reading a recording.

use super::{Entry, FRAME_MAX, Head, MAGIC};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

/// What a compressed file begins with (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Bytes read from a file at a time.
const BUFFER: usize = 1 << 18;

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
    at: u64,
    frame: Vec<u8>,
    head: Head,
}

impl Reader<Box<dyn Read>> {
    /// Opens a file, which may be compressed with gzip.
    ///
    /// # Errors
    /// It cannot be read, or is none of ours.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let mut file = BufReader::with_capacity(BUFFER, File::open(path)?);
        let compressed = file.fill_buf()?.starts_with(&GZIP);
        Self::new(if compressed {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        })
    }
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// It cannot be read, or is no recording.
    pub fn new(mut from: R) -> Result<Self, RecordingError> {
        let mut magic = [0; MAGIC.len()];
        match from.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Ok(()) => return Err(RecordingError::NotARecording),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(RecordingError::NotARecording),
            Err(error) => return Err(error.into()),
        }
        let mut frame = Vec::new();
        let read = next_frame(&mut from, &mut frame)?;
        let head = Some(()).filter(|()| read == Frame::Whole).and_then(|()| postcard::from_bytes(&frame).ok());
        let head = head.ok_or(RecordingError::NotARecording)?;
        Ok(Self { from, at: (MAGIC.len() + 4 + frame.len()) as u64, frame, head })
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
        let damaged = RecordingError::Damaged { at: self.at };
        match next_frame(&mut self.from, &mut self.frame)? {
            Frame::End => Ok(None),
            Frame::TooLong => Err(damaged),
            Frame::Whole => {
                let entry = postcard::from_bytes(&self.frame).map_err(|_| damaged)?;
                self.at += 4 + self.frame.len() as u64;
                Ok(Some(entry))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Whole,
    TooLong,
    End,
}

fn next_frame(from: &mut impl Read, frame: &mut Vec<u8>) -> io::Result<Frame> {
    let mut length = [0; 4];
    if !filled(from, &mut length)? {
        return Ok(Frame::End);
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_MAX {
        return Ok(Frame::TooLong);
    }
    frame.resize(length, 0);
    Ok(if filled(from, frame)? { Frame::Whole } else { Frame::End })
}

/// Fills the buffer; `false` if there is not enough left.
fn filled(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
