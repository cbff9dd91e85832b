//! Recordings: what judgement was given, kept in a file, so that it can judge again without a kernel, without
//! root and with another configuration. `bulkhead record` makes them of a running daemon, `bulkhead replay` reads
//! them.
//!
//! A file is [`MAGIC`], then frames: a length (u32, little endian) and so many bytes of postcard. The first frame is a
//! [`Head`], all others are [`Entry`]s. What judgement asked /proc and the mount table while it judged an event stands
//! before that event: a replay asks nobody.

mod read;
mod tap;
mod woven;

pub use read::{Reader, RecordingError};
pub use tap::{Notes, TAPS, Taps, Wish};
pub use woven::Woven;

use crate::container::registry::Container;
use crate::event::{ContainerKey, Event, Inode};
use crate::provenance::Process;
use serde::{Deserialize, Serialize};

/// First bytes of a recording; the last one is the version of the format.
pub const MAGIC: [u8; 8] = *b"BULKREC\x01";

/// Longest frame. An event has at most some 10 KiB.
pub const FRAME_MAX: usize = 1 << 20;

/// Where and when a recording was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the daemon.
    pub version: String,
    /// The machine's name.
    pub host: String,
    /// Its kernel's release.
    pub kernel: String,
    /// When the recording began, ns since boot.
    pub boot_ns: u64,
    /// The same moment, ns since 1970.
    pub wall_ns: i64,
}

/// One thing that judgement was told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A container as it is known from here on.
    Container(Box<Container>),
    /// A container is gone.
    Gone(ContainerKey),
    /// A process that is older than the recording.
    Process(Box<Process>),
    /// What /proc answered while the next event was judged.
    Resolved(Box<Process>),
    /// Whether a file lies on a mount of the host's, as answered while the next event was judged.
    HostFile(Inode, bool),
    /// An event.
    Event(Event),
    /// So many events are missing here: who records was too slow.
    Lost(u64),
    /// What the system answered while the next event was judged.
    Answer(Question, Option<u64>),
}

/// What judgement asks the system besides; yes is 1 and no is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Question {
    /// Is another process of the container than this one in this mount namespace (inode number)?
    SharesMounts(ContainerKey, u64, u32),
    /// Is this the user namespace (inode number) of the container's first process?
    OwnUserNamespace(ContainerKey, u64),
    /// The process' id as its own pid namespace counts.
    InnerPid(u32),
}

impl Entry {
    /// Appends the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        frame(self, out);
    }
}

impl Head {
    /// Of this machine, now.
    pub fn now() -> Self {
        let clock = crate::output::Clock::now();
        let boot_ns = crate::kernel::clock::boot_ns();
        let uname = rustix::system::uname();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            boot_ns,
            wall_ns: i64::try_from(clock.at(boot_ns).as_nanosecond()).unwrap_or(0),
        }
    }

    /// Magic and first frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        frame(self, &mut bytes);
        bytes
    }
}

fn frame<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let taken = std::mem::take(out);
    // Cannot fail: memory grows, and none of the types has a length that is not known.
    let Ok(mut grown) = postcard::to_extend(value, taken) else { return };
    let length = u32::try_from(grown.len() - start - 4).unwrap_or(u32::MAX);
    grown[start..start + 4].copy_from_slice(&length.to_le_bytes());
    *out = grown;
}

#[cfg(test)]
mod tests;
