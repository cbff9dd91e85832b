//! What a program is: shell, interpreter, package manager — by name hash, and by content
//! fingerprint so that a copy under another name is still what it is.

use crate::kernel::task::Mm;
use aya_ebpf::btf_maps::{HashMap, LruHashMap};
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::btf_map;
use core::hint::black_box;
use core::mem::MaybeUninit;
use monitor_common::argv::{Form, SCAN_LEN, Scan, Text};
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
    length: u32,
    bytes: [u8; SCAN_LEN],
    name: [u8; hash::HASHED_LEN],
}

/// A program's class, and how it was told.
#[derive(Clone, Copy)]
pub struct Class {
    pub bits: u32,
    pub by_fingerprint: bool,
    pub text: Text,
}

const UNKNOWN: Text = Text { form: Form::Unknown, script: 0 };

/// Class bits of a name.
#[inline(always)]
pub fn named(hash: u32) -> u32 {
    // SAFETY: read at once; entries change only on reload.
    unsafe { CLASSES.get(&hash) }.copied().unwrap_or(0)
}

/// Classifies a program just started. `name` is the hash of its executable's own name, `genuine`
/// tells that the executable is from the image, so that its content may be learned under its name.
#[inline(always)]
pub fn classify(arguments: *mut Arguments, name: u32, print: &Fingerprint, genuine: bool, mm: Mm) -> Class {
    let mut bits = named(name);
    let mut by_fingerprint = false;
    if bits == 0 {
        // SAFETY: read at once.
        if let Some(known) = unsafe { FINGERPRINTS.get(print) } {
            bits = *known;
            by_fingerprint = true;
        }
    } else if genuine {
        let _ = FINGERPRINTS.insert(print, &bits, 0);
    }
    if bits == 0 {
        return Class { bits, by_fingerprint, text: UNKNOWN };
    }
    let Some((length, complete)) = read_arguments(arguments, mm) else {
        return Class { bits, by_fingerprint, text: UNKNOWN };
    };
    let mut leading = 1;
    if bits & CLASS_MULTICALL != 0 {
        let (applet, skipped) = applet(arguments, length);
        bits = applet;
        leading = skipped;
    }
    // SAFETY: the caller's own.
    let Arguments { scan, bytes, .. } = unsafe { &mut *arguments };
    let text = scan.read(bytes, length, complete, bits, leading);
    Class { bits, by_fingerprint, text }
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

/// Hash of a program name, by way of the buffer for it.
#[inline(always)]
pub fn hash_of(arguments: *mut Arguments, dentry: crate::kernel::file::Dentry) -> Option<u32> {
    // SAFETY: the caller's own.
    let name = unsafe { &mut (*arguments).name };
    dentry.name(name)?;
    Some(hash::program(name))
}

/// As [`hash_of`], for hooks that may be preempted: a slot of this CPU could be written by another.
#[inline(always)]
pub fn hash_on_stack(dentry: crate::kernel::file::Dentry) -> Option<u32> {
    let mut name = MaybeUninit::<[u8; hash::HASHED_LEN]>::uninit();
    // SAFETY: the helper writes the name and the NUL that ends the hash.
    let name = unsafe { &mut *name.as_mut_ptr() };
    dentry.name(name)?;
    Some(hash::program(name))
}
