//! Words that an array map and this process have in common: read and written without a system call.

use super::maps::Raw;
use aya::maps::{Array, IterableMap as _, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ops::Deref;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Memory of such a map: a page at least.
const LENGTH: usize = 4096;

/// What may lie in memory that others write at any time.
///
/// # Safety
/// Made of atomics only, and of the size of the map's value.
pub unsafe trait Words {
    /// The map's value.
    type Value: bytemuck::Pod;
}

// SAFETY: an atomic of the value's size.
unsafe impl Words for AtomicU32 {
    type Value = u32;
}

// SAFETY: atomics of the value's size.
unsafe impl<const N: usize> Words for [AtomicU64; N]
where
    [u64; N]: bytemuck::Pod,
{
    type Value = [u64; N];
}

/// The only value of an array map that was made with `BPF_F_MMAPABLE`.
pub struct Shared<T: Words> {
    address: NonNull<T>,
    /// Its descriptor is what programs are loaded with.
    map: Array<MapData, Raw<T::Value>>,
}

// SAFETY: what is shared is atomics.
unsafe impl<T: Words> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Words> Sync for Shared<T> {}

impl<T: Words> Shared<T> {
    /// Maps it into this process.
    ///
    /// # Errors
    /// The kernel refuses, for one because the map was made without the flag.
    pub fn of(map: Array<MapData, Raw<T::Value>>) -> std::io::Result<Self> {
        const { assert!(size_of::<T>() <= LENGTH && size_of::<T>() == size_of::<T::Value>()) };
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new memory, at an address of the kernel's choice.
        let memory =
            unsafe { mmap(std::ptr::null_mut(), LENGTH, protection, MapFlags::SHARED, map.map().fd().as_fd(), 0) }?;
        let address = NonNull::new(memory.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { address, map })
    }

    /// The map.
    pub fn map(&self) -> &Array<MapData, Raw<T::Value>> {
        &self.map
    }
}

impl<T: Words> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped until dropped; at least as long as T, page-aligned, and made of atomics.
        unsafe { self.address.as_ref() }
    }
}

impl<T: Words> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `of`, and nobody has a reference any more.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), LENGTH) };
    }
}
