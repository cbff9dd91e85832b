//! A ring of io_uring: entries, submissions, completions.

use rustix::fd::OwnedFd;
use rustix::io_uring::{
    IORING_OFF_SQ_RING, IORING_OFF_SQES, IoringEnterFlags, IoringFeatureFlags, IoringRegisterOp, IoringSetupFlags,
    io_uring_enter, io_uring_params, io_uring_register, io_uring_setup,
};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// `IOSQE_*` of linux/io_uring.h.
pub const FIXED_FILE: u8 = 1 << 0;
/// The next entry waits for this one.
pub const LINK: u8 = 1 << 2;
/// Left to a worker.
pub const ASYNC: u8 = 1 << 4;
/// Nothing is said of a success.
pub const SILENT: u8 = 1 << 6;

/// Entries that can be under way.
const ENTRIES: u32 = 4;

/// The fields of an `io_uring_sqe` that are used here.
#[derive(Default)]
pub struct Entry {
    /// `IORING_OP_*`.
    pub op: u8,
    /// `IOSQE_*`.
    pub how: u8,
    /// Descriptor.
    pub fd: i32,
    /// Offset or second address.
    pub off: u64,
    /// Address.
    pub addr: u64,
    /// Length.
    pub len: u32,
    /// The operation's own flags.
    pub flags: u32,
    /// Place among the ring's own files, from 1.
    pub slot: u32,
}

/// A small ring. Its mappings live as long as the process.
pub struct Ring {
    fd: OwnedFd,
    params: io_uring_params,
    rings: *mut u8,
    entries: *mut u64,
}

impl Ring {
    /// Makes one; `polled`: a thread of the kernel's takes entries out by itself.
    ///
    /// # Errors
    /// The kernel refuses, or is older than 5.4.
    pub fn new(polled: bool) -> io::Result<Self> {
        let mut params = io_uring_params::default();
        if polled {
            params.flags = IoringSetupFlags::SQPOLL;
            params.sq_thread_idle = 1000;
        }
        // SAFETY: params is a valid structure; the kernel fills it in.
        let fd = unsafe { io_uring_setup(ENTRIES, &mut params) }?;
        if !params.features.contains(IoringFeatureFlags::SINGLE_MMAP) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let completions = params.cq_off.cqes as usize + params.cq_entries as usize * 16;
        let submissions = params.sq_off.array as usize + params.sq_entries as usize * 4;
        let map = |len: usize, offset: u64| {
            // SAFETY: a fresh mapping at an address of the kernel's choice, of the length and offset that
            // io_uring_setup(2) prescribes.
            unsafe {
                mmap(
                    std::ptr::null_mut::<c_void>(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::POPULATE,
                    &fd,
                    offset,
                )
            }
        };
        let rings = map(completions.max(submissions), IORING_OFF_SQ_RING)?.cast();
        let entries = map(params.sq_entries as usize * 64, IORING_OFF_SQES)?.cast();
        Ok(Self { fd, params, rings, entries })
    }

    /// Gives it places for files of its own.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hold_files(&self) -> io::Result<()> {
        let empty = [-1_i32; ENTRIES as usize];
        // SAFETY: so many descriptors lie there, and they are copied during the call.
        unsafe {
            io_uring_register(&self.fd, IoringRegisterOp::RegisterFiles, empty.as_ptr().cast(), ENTRIES)?;
        }
        Ok(())
    }

    /// Submits operations together, waits for them and returns their results; `None` of one that says nothing.
    ///
    /// # Safety
    /// What the entries point to must be alive during the call.
    ///
    /// # Errors
    /// The kernel takes nothing.
    pub unsafe fn run(&mut self, entries: &[Entry]) -> io::Result<Vec<Option<i32>>> {
        let tail = self.word(self.params.sq_off.tail);
        let start = tail.load(Ordering::Acquire);
        for (number, entry) in entries.iter().enumerate() {
            let at = (start.wrapping_add(number as u32) & (self.params.sq_entries - 1)) as usize;
            let words = [
                u64::from(entry.op) | u64::from(entry.how) << 8 | u64::from(entry.fd as u32) << 32,
                entry.off,
                entry.addr,
                u64::from(entry.len) | u64::from(entry.flags) << 32,
                number as u64,
                u64::from(entry.slot) << 32,
                0,
                0,
            ];
            // SAFETY: `at` is a slot of the entries' mapping, 64 bytes each, and of the index array; no
            // submission is in flight, as the call before waited for its completions.
            unsafe {
                self.entries.add(at * 8).copy_from_nonoverlapping(words.as_ptr(), words.len());
                self.rings.add(self.params.sq_off.array as usize).cast::<u32>().add(at).write(at as u32);
            }
        }
        tail.fetch_add(entries.len() as u32, Ordering::Release);
        let count = entries.len() as u32;
        let expected = entries.iter().filter(|entry| entry.how & SILENT == 0).count() as u32;
        let flags = match self.params.flags.contains(IoringSetupFlags::SQPOLL) {
            true => IoringEnterFlags::GETEVENTS | IoringEnterFlags::SQ_WAKEUP,
            false => IoringEnterFlags::GETEVENTS,
        };
        // SAFETY: the entries' pointers are valid for the whole call, see this function's contract.
        unsafe { io_uring_enter(&self.fd, count, expected, flags) }?;
        Ok(self.results(entries.len()))
    }

    /// As [`Self::run`], of one operation that says how it ended.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// The operation's own.
    pub unsafe fn run_one(&mut self, entry: Entry) -> io::Result<i32> {
        // SAFETY: the same contract.
        let results = unsafe { self.run(&[entry]) }?;
        checked(results.first().copied().flatten().unwrap_or(0))
    }

    /// Takes out what has completed.
    fn results(&self, count: usize) -> Vec<Option<i32>> {
        let mut results = vec![None; count];
        let (head, tail) = (self.word(self.params.cq_off.head), self.word(self.params.cq_off.tail));
        while head.load(Ordering::Acquire) != tail.load(Ordering::Acquire) {
            let slot = head.load(Ordering::Acquire) & (self.params.cq_entries - 1);
            let at = self.params.cq_off.cqes as usize + slot as usize * 16;
            // SAFETY: the completion lies in the mapping and was filled in before the tail passed it: 8 bytes of
            // user data, then the result.
            let (number, result) = unsafe {
                let at = self.rings.add(at);
                (at.cast::<u64>().read_volatile(), at.add(8).cast::<i32>().read_volatile())
            };
            if let Some(place) = results.get_mut(number as usize) {
                *place = Some(result);
            }
            head.fetch_add(1, Ordering::Release);
        }
        results
    }

    /// One of the ring's counters.
    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets point at aligned u32 inside the mapping, which is never unmapped, and
        // both sides use atomic access.
        unsafe { AtomicU32::from_ptr(self.rings.add(offset as usize).cast()) }
    }
}

/// A result as the kernel writes it.
///
/// # Errors
/// It is one.
pub fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}
