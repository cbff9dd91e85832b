//! Where an interpreter takes its program text from, by all of its arguments that are known: the kernel half looks at
//! the first few only ([`monitor_common::argv`]).

use monitor_common::argv::{Form, Scan};

/// Bytes of the arguments that are looked at; a power of two.
const SCANNED: usize = 4096;

/// Reads the arguments of a program of class `class` (`CLASS_*`), the first `leading` of which name it. `cut`: there
/// are more than are known.
pub fn form(args: &[impl AsRef<str>], cut: bool, class: u32, leading: u32) -> Form {
    let mut block = [0u8; SCANNED];
    let text = args.iter().flat_map(|arg| arg.as_ref().bytes().chain([0]));
    let length = block.iter_mut().zip(text).map(|(to, from)| *to = from).count();
    let complete = !cut && length < SCANNED;
    Scan::default().read(&block, length as u32, complete, class, leading).form
}
