//! Reading kernel objects. One file a struct; every accessor answers `None` when the kernel lacks
//! the field or the memory cannot be read, and offsets come from the running kernel's BTF.

pub mod cgroup;
pub mod file;
pub mod ring;
pub mod sock;
pub mod task;

use crate::maps::offset;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use monitor_common::field::Field;

/// Address of a kernel object; never null.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Object(*const u8);

impl Object {
    /// `None` for null.
    #[inline(always)]
    pub fn new<T>(address: *const T) -> Option<Self> {
        if address.is_null() { None } else { Some(Self(address.cast())) }
    }

    /// As [`Self::new`], for a hook's argument that is to go into a function of its own (see `reflex`). These take
    /// numbers, and the verifier knows what an argument points to until a helper has copied it.
    #[inline(always)]
    pub fn argument(address: *const u8) -> Option<Self> {
        Self::new(read(&raw const address)?)
    }

    /// Address of a field.
    #[inline(always)]
    pub fn address(self, field: Field) -> Option<*const u8> {
        Some(self.0.wrapping_add(offset(field)?))
    }

    /// The object itself as an address.
    #[inline(always)]
    pub fn raw(self) -> *const u8 {
        self.0
    }

    /// Reads a field of plain type.
    #[inline(always)]
    pub fn get<T>(self, field: Field) -> Option<T> {
        read(self.address(field)?.cast())
    }

    /// Follows a pointer field; `None` for null.
    #[inline(always)]
    pub fn follow(self, field: Field) -> Option<Self> {
        Self::new(self.get::<*const u8>(field)?)
    }

    /// A struct embedded in this one.
    #[inline(always)]
    pub fn embedded(self, field: Field) -> Option<Self> {
        Some(Self(self.address(field)?))
    }
}

/// Reads kernel memory.
#[inline(always)]
pub fn read<T>(address: *const T) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel answers an error for an address it cannot read.
    unsafe { bpf_probe_read_kernel(address).ok() }
}

/// Copies a small value word by word. Plain assignment of more than a few words becomes a call of
/// memmove, which here is a loop over bytes in both directions that the verifier walks each time.
#[inline(always)]
pub fn copy_words<T: Copy>(from: &T, to: &mut T) {
    let from = (&raw const *from).cast::<u64>();
    let to = (&raw mut *to).cast::<u64>();
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: in bounds; every type copied is 8-aligned and a multiple of 8 long.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

/// Clears a small value word by word; see [`copy_words`].
#[inline(always)]
pub fn clear_words<T: Copy>(to: &mut T) {
    let to = (&raw mut *to).cast::<u64>();
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: as in `copy_words`.
        unsafe { to.add(i).write_volatile(0) };
    }
}
