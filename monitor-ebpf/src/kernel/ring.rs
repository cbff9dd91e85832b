//! `struct io_kiocb`: a request to io_uring, and the files that a ring holds by itself.

use super::file::File;
use super::{Object, read};
use crate::maps::offset;
use aya_ebpf::programs::TracePointContext;
use monitor_common::field::Field;

/// Flags in the lowest bits of a file's address (`FFS_MASK`, io_uring/filetable.h, rsrc.h).
const FLAGS: usize = 7;
/// The ring chooses the place (`IORING_FILE_INDEX_ALLOC`, include/uapi/linux/io_uring.h).
const ANY_SLOT: u32 = u32::MAX;

/// `IOSQE_CQE_SKIP_SUCCESS`, which the request's own flags begin with.
const SILENT: u32 = 1 << 6;

/// A request.
#[derive(Clone, Copy)]
pub struct Request(Object);

impl Request {
    /// The one that a record is about. `None`: a completion may be about none.
    #[inline(always)]
    pub fn of(ctx: &TracePointContext, field: Field) -> Option<Self> {
        // SAFETY: within the tracepoint's record.
        Object::new(unsafe { ctx.read_at::<*const u8>(offset(field)?) }.ok()?).map(Self)
    }

    /// `IORING_OP_*`.
    #[inline(always)]
    pub fn opcode(self) -> Option<u8> {
        self.0.get(Field::RequestOpcode)
    }

    /// Does it complete without a word?
    #[inline(always)]
    pub fn is_silent(self) -> Option<bool> {
        Some(self.0.get::<u32>(Field::RequestFlags)? & SILENT != 0)
    }

    /// What it works on.
    #[inline(always)]
    pub fn file(self) -> Option<File> {
        self.0.follow(Field::RequestFile).map(File)
    }

    /// What it keeps for its operation: `struct io_open` and its like.
    #[inline(always)]
    pub fn command(self) -> Option<Object> {
        self.0.embedded(Field::RequestCommand)
    }

    /// The file that an open gave its ring to hold; `result` is the open's.
    #[inline(always)]
    pub fn held(self, slot: u32, result: u32) -> Option<File> {
        let slot = if slot == ANY_SLOT { result } else { slot.wrapping_sub(1) };
        let ring = self.0.follow(Field::RequestRing)?;
        let at = |table: Object| table.raw().wrapping_add(slot as usize * 8);
        let file: usize = match ring.follow(Field::RingNodes) {
            Some(nodes) => Object::new(read::<*const u8>(at(nodes).cast())?)?.get(Field::NodeFile)?,
            None => read(at(ring.follow(Field::RingFiles)?).cast())?,
        };
        Object::new((file & !FLAGS) as *const u8).map(File)
    }
}
