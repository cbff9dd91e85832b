//! What a program is: shell, interpreter, package manager — by name hash, and by content
//! fingerprint so that a copy under another name is still what it is.

use crate::kernel::Object;
use crate::kernel::file::Dentry;
use crate::kernel::task::Mm;
use aya_ebpf::btf_maps::{HashMap, LruHashMap};
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::btf_map;
use core::hint::black_box;
use core::mem::MaybeUninit;
use monitor_common::argv::{SCAN_LEN, Scan, Text};
use monitor_common::hash;
use monitor_common::state::{CLASS_MULTICALL, Fingerprint};

/// Class bits by [`hash::program`] of the executable's (or applet's) name.
#[btf_map]
static CLASSES: HashMap<u32, u32, 1024> = HashMap::new();

/// Class bits by content.
#[btf_map]
static FINGERPRINTS: LruHashMap<Fingerprint, u32, 4096> = LruHashMap::new();

/// Bytes an applet's name must end within.
const APPLET_LEN: usize = 64;

/// Room for the first arguments, which the stack does not have.
#[repr(C)]
pub struct Arguments {
    scan: Scan,
    words: [u32; 2],
    index: u32,
    /// Bytes read of them, and whether that is all.
    length: u32,
    complete: u32,
    /// How many of them name the program.
    leading: u32,
    bytes: [u8; SCAN_LEN],
}

/// A program's class, and how it was told.
#[derive(Clone, Copy)]
pub struct Class {
    pub bits: u32,
    pub by_fingerprint: bool,
}

/// Class bits of a name.
#[inline(always)]
pub fn named(hash: u32) -> u32 {
    // SAFETY: read at once; entries change only on reload.
    unsafe { CLASSES.get(&hash) }.copied().unwrap_or(0)
}

/// Classifies a program just started. `name` is the hash of its executable's own name, `genuine`
/// tells that the executable is from the image, so that its content may be learned under its name.
#[inline(always)]
pub fn classify(name: u32, print: &Fingerprint, genuine: bool) -> Class {
    let bits = named(name);
    if bits == 0 {
        // SAFETY: read at once.
        let known = unsafe { FINGERPRINTS.get(print) };
        return Class { bits: known.copied().unwrap_or(0), by_fingerprint: known.is_some() };
    }
    if genuine {
        let _ = FINGERPRINTS.insert(print, &bits, 0);
    }
    Class { bits, by_fingerprint: false }
}

/// Reads the arguments of a program of class `bits`; answers the class of the applet where it is a multi-call binary.
#[inline(always)]
pub fn begin(arguments: *mut Arguments, bits: u32, mm: Mm) -> Option<u32> {
    let (length, complete) = read_arguments(arguments, mm)?;
    let (class, leading) = if bits & CLASS_MULTICALL != 0 { applet(arguments, length) } else { (bits, 1) };
    // SAFETY: the caller's own.
    unsafe {
        (*arguments).length = length;
        (*arguments).complete = u32::from(complete);
        (*arguments).leading = leading;
    }
    Some(class)
}

/// What the arguments say to a program of class `bits`.
#[inline(always)]
pub fn text(arguments: &mut Arguments, bits: u32) -> Text {
    let Arguments { scan, bytes, length, complete, leading, .. } = arguments;
    scan.read(bytes, *length, *complete != 0, bits, *leading)
}

#[inline(always)]
fn read_arguments(arguments: *mut Arguments, mm: Mm) -> Option<(u32, bool)> {
    let (start, end) = mm.arguments()?;
    let total = end.wrapping_sub(start);
    let length = if total > SCAN_LEN as u64 { SCAN_LEN as u32 } else { total as u32 };
    // SAFETY: `bytes` has SCAN_LEN bytes and `length` is at most that.
    let status = unsafe {
        bpf_probe_read_user(
            (&raw mut (*arguments).bytes).cast(),
            black_box(length).min(SCAN_LEN as u32),
            start as *const _,
        )
    };
    if status != 0 { None } else { Some((length, total <= SCAN_LEN as u64)) }
}

/// The applet of a multi-call binary: its class and how many arguments name it. The binary itself
/// goes by argv\[0\], so a spoofed argv\[0\] changes what runs, not what we believe.
#[inline(always)]
fn applet(arguments: *mut Arguments, length: u32) -> (u32, u32) {
    hash_words(arguments, length);
    // SAFETY: the caller's own.
    let words = unsafe { (*black_box(arguments)).words };
    let first = named(hash::finish(words[0]));
    if first & CLASS_MULTICALL == 0 {
        return (first, 1);
    }
    (named(hash::finish(words[1])), 2)
}

/// Hashes of the last path components of the first two arguments, into `words`.
#[inline(always)]
fn hash_words(arguments: *mut Arguments, length: u32) {
    // SAFETY: the caller's own.
    unsafe {
        (*arguments).words = [hash::OFFSET; 2];
        (*arguments).index = 0;
        (*arguments).length = length;
    }
    for i in 0..APPLET_LEN {
        // Opaque each round, see `Scan`.
        let arguments = black_box(arguments);
        // SAFETY: as above; the index is masked into bounds.
        unsafe {
            let byte = (*arguments).bytes[i];
            let index = (*arguments).index;
            if index > 1 || i as u32 >= (*arguments).length {
                break;
            }
            let word = (*arguments).words.as_mut_ptr().add((index & 1) as usize);
            if byte == 0 {
                (*arguments).index = index + 1;
            } else if byte == b'/' {
                *word = hash::OFFSET;
            } else if byte != b'-' || *word != hash::OFFSET {
                // A leading dash marks a login shell (`-sh`).
                *word = hash::step(*word, byte);
            }
        }
    }
}

/// Hash of a program's name.
#[inline(always)]
pub fn hash_of(entry: Dentry) -> Option<u32> {
    match program_name(entry.0.raw() as u64) {
        0 => None,
        hash => Some(hash),
    }
}

/// A function of its own (see [`super`]): 0 if there is no name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn program_name(entry: u64) -> u32 {
    let mut buffer = MaybeUninit::<[u8; hash::HASHED_LEN]>::uninit();
    // SAFETY: the helper writes the name and the NUL that ends the hash.
    let bytes = unsafe { &mut *buffer.as_mut_ptr() };
    let copied = Object::new(entry as *const u8).and_then(|entry| Dentry(entry).name(bytes));
    if copied.is_some() { hash::program(bytes) } else { 0 }
}
