//! Where an interpreter takes its program text from, told from its arguments. The kernel half
//! needs the answer before the first instruction, so it is one pass over the first bytes of the
//! argument block, with a fixed bound; the daemon runs the same code over all of them.

use crate::state;
use core::hint::black_box;

/// Bytes of the argument block the kernel half looks at.
pub const SCAN_LEN: usize = 128;

/// Where the program text comes from.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Form {
    /// Not an interpreter, or not decided within the bound.
    Unknown = 0,
    /// Standard input: no operand, `-`, or a shell's `-s`.
    Stdin = 1,
    /// An argument (`-c`, `-e`, `-m`, …).
    Argument = 2,
    /// A script file: the first operand.
    Script = 3,
}

impl Form {
    /// From the integer in a record.
    pub const fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Stdin,
            2 => Self::Argument,
            3 => Self::Script,
            _ => Self::Unknown,
        }
    }
}

/// What [`Scan::read`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// The form.
    pub form: Form,
    /// [`Form::Script`]: hash of the operand's last path component, as [`crate::hash::name`];
    /// [`Form::Argument`] by Python's `-m`: the module's; else 0.
    pub script: u32,
}

/// Arguments looked at.
const ARGUMENTS: usize = 8;
/// Letters looked at of one option cluster (`-euxo`).
const LETTERS: usize = 8;

/// Working memory of a scan. It lives in a map on the kernel side, and each round reaches it
/// through an opaque pointer: what the verifier reads back is an unknown scalar, so that the paths
/// of a round join at its end instead of multiplying from round to round.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    starts: [u32; ARGUMENTS],
    count: u32,
    skip: u32,
    operands: u32,
    module: u32,
    letters: u32,
    form: u32,
    script_at: u32,
    hash: u32,
    ended: u32,
    // Inputs are kept here as well: a tested bit of a register is remembered, and known bits keep
    // paths apart.
    class: u32,
    leading: u32,
    length: u32,
}

/// Bit of [`letter`] for a shell's `-s`.
const LETTER_S: u32 = 1 << 16;

/// What an option letter means: `CLASS_FLAG_*` of the programs for which it introduces text, or
/// [`LETTER_S`].
#[inline(always)]
const fn letter(byte: u8) -> u32 {
    match byte {
        b'c' => state::CLASS_FLAG_C,
        b'e' | b'E' => state::CLASS_FLAG_E,
        b'r' => state::CLASS_FLAG_R,
        b's' => LETTER_S,
        _ => 0,
    }
}

impl Scan {
    /// Reads the argument block in the first `length` of `bytes` (`argv[0] NUL argv[1] NUL …`);
    /// `complete` tells that nothing was cut off. `class` is the program's `CLASS_*` bits,
    /// `leading` how many arguments name the program (1, or 2 for `busybox sh`). `N` is a power of
    /// two.
    #[inline(always)]
    pub fn read<const N: usize>(
        &mut self,
        bytes: &[u8; N],
        length: u32,
        complete: bool,
        class: u32,
        leading: u32,
    ) -> Text {
        self.class = class;
        self.leading = leading;
        self.length = length;
        self.split(bytes);
        self.skip = 0;
        self.operands = 0;
        self.module = 0;
        self.form = 0;
        self.script_at = 0;
        self.ended = 0;
        for index in 1..ARGUMENTS - 1 {
            let scan = black_box(&mut *self);
            if index as u32 >= scan.leading && !scan.argument(bytes, index) {
                break;
            }
        }
        let scan = black_box(&mut *self);
        let form = match Form::from_u32(scan.form) {
            // All arguments seen, none of them says otherwise.
            Form::Unknown if complete && scan.ended != 0 => Form::Stdin,
            form => form,
        };
        let script = if scan.script_at == 0 { 0 } else { scan.last_component(bytes) };
        Text { form, script }
    }

    /// Where each argument starts.
    #[inline(always)]
    fn split<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.starts[0] = 0;
        self.count = 1;
        for (i, byte) in bytes.iter().enumerate() {
            let scan = black_box(&mut *self);
            if i as u32 >= scan.length {
                break;
            }
            if *byte == 0 {
                let count = scan.count;
                if count >= ARGUMENTS as u32 {
                    break;
                }
                scan.starts[count as usize & (ARGUMENTS - 1)] = i as u32 + 1;
                scan.count = count + 1;
            }
        }
    }

    /// Takes one argument in; false when the answer is known or there are no more.
    #[inline(always)]
    fn argument<const N: usize>(&mut self, bytes: &[u8; N], index: usize) -> bool {
        if index as u32 + 1 >= self.count {
            self.ended = 1;
            return false;
        }
        let start = self.starts[index];
        let end = self.starts[index + 1].wrapping_sub(1);
        let at = |i: u32| bytes[i as usize & (N - 1)];
        let (first, second, last) = (at(start), at(start + 1), at(end.wrapping_sub(1)));
        if self.skip != 0 {
            self.skip = 0;
            return true;
        }
        if self.module != 0 {
            self.form = Form::Argument as u32;
            self.script_at = start;
            return false;
        }
        if self.operands != 0 || (first != b'-' && first != b'+') {
            self.form = Form::Script as u32;
            self.script_at = start;
            // An empty operand names nothing.
            return first == 0;
        }
        if second == 0 {
            self.form = Form::Stdin as u32;
            return false;
        }
        if second == b'-' {
            // `--` alone ends the options; a long option is passed over, of bash's `--rcfile` and `--init-file` the
            // operand as well (`--restricted`, `--verbose` and `--noprofile` have none).
            self.operands = u32::from(end.wrapping_sub(start) == 2);
            let third = at(start + 2);
            if last == b'e' && (third == b'r' || third == b'i') && self.class & state::CLASS_SHELL != 0 {
                self.skip = 1;
            }
            return true;
        }
        self.option(bytes, start, last)
    }

    /// A cluster of option letters.
    #[inline(always)]
    fn option<const N: usize>(&mut self, bytes: &[u8; N], start: u32, last: u8) -> bool {
        self.letters = 0;
        for i in 1..=LETTERS as u32 {
            let scan = black_box(&mut *self);
            let byte = bytes[(start + i) as usize & (N - 1)];
            if byte == 0 {
                break;
            }
            scan.letters |= letter(byte);
        }
        let Self { letters, class, .. } = *black_box(&mut *self);
        let python = class & state::CLASS_INTERPRETER != 0 && class & state::CLASS_FLAG_C != 0;
        if letters & class & (state::CLASS_FLAG_C | state::CLASS_FLAG_E | state::CLASS_FLAG_R) != 0 {
            self.form = Form::Argument as u32;
            return false;
        }
        if letters & LETTER_S != 0 && class & state::CLASS_SHELL != 0 {
            self.form = Form::Stdin as u32;
            return false;
        }
        if python && last == b'm' {
            self.module = 1;
        } else if (class & state::CLASS_SHELL != 0 && (last == b'o' || last == b'O'))
            || (class & state::CLASS_INTERPRETER != 0 && (last == b'W' || last == b'X' || last == b'I'))
        {
            self.skip = 1;
        }
        true
    }

    #[inline(always)]
    fn last_component<const N: usize>(&mut self, bytes: &[u8; N]) -> u32 {
        self.hash = crate::hash::OFFSET;
        for i in 0..N as u32 {
            let scan = black_box(&mut *self);
            let at = scan.script_at + i;
            let byte = bytes[at as usize & (N - 1)];
            if byte == 0 || at >= N as u32 {
                break;
            }
            scan.hash = if byte == b'/' { crate::hash::OFFSET } else { crate::hash::step(scan.hash, byte) };
        }
        crate::hash::finish(black_box(&mut *self).hash)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::state::{CLASS_FLAG_C, CLASS_FLAG_E, CLASS_INTERPRETER, CLASS_SHELL};

    const SHELL: u32 = CLASS_SHELL | CLASS_FLAG_C;
    const PYTHON: u32 = CLASS_INTERPRETER | CLASS_FLAG_C;
    const PERL: u32 = CLASS_INTERPRETER | CLASS_FLAG_E;

    fn read(class: u32, args: &[&str]) -> Text {
        let mut bytes = [0u8; SCAN_LEN];
        let mut length = 0;
        for a in args {
            bytes[length..length + a.len()].copy_from_slice(a.as_bytes());
            length += a.len() + 1;
        }
        Scan::default().read(&bytes, length as u32, true, class, 1)
    }

    fn scan(class: u32, args: &[&str]) -> Form {
        read(class, args).form
    }

    #[test]
    fn shells() {
        for (args, form) in [
            (&["bash"][..], Form::Stdin),
            (&["bash", "-i"], Form::Stdin),
            (&["bash", "-s", "x"], Form::Stdin),
            (&["sh", "-"], Form::Stdin),
            (&["-bash"], Form::Stdin),
            (&["bash", "-o", "pipefail"], Form::Stdin),
            (&["bash", "-eo", "pipefail", "-c", "id"], Form::Argument),
            (&["sh", "-c", "id"], Form::Argument),
            (&["sh", "-ec", "id"], Form::Argument),
            (&["sh", "-e"], Form::Stdin),
            (&["bash", "--norc"], Form::Stdin),
            (&["bash", "--rcfile", "/dev/null", "-i"], Form::Stdin),
            (&["bash", "--init-file", "f", "-c", "id"], Form::Argument),
            (&["bash", "--noprofile", "f"], Form::Script),
            (&["bash", "--restricted", "--verbose", "f"], Form::Script),
            (&["bash", "--", "x"], Form::Script),
            (&["bash", "/tmp/logo3.jpg"], Form::Script),
            (&["bash", "-x", "f", "-c"], Form::Script),
        ] {
            assert_eq!(scan(SHELL, args), form, "{args:?}");
        }
    }

    #[test]
    fn interpreters() {
        assert_eq!(scan(PYTHON, &["python3", "-"]), Form::Stdin);
        assert_eq!(scan(PYTHON, &["python3", "-m", "json.tool"]), Form::Argument);
        assert_eq!(scan(PYTHON, &["python3", "-W", "ignore", "-"]), Form::Stdin);
        assert_eq!(scan(PYTHON, &["python3", "-u", "x.py"]), Form::Script);
        assert_eq!(scan(PERL, &["perl", "-ne", "print"]), Form::Argument);
        assert_eq!(scan(PERL, &["perl"]), Form::Stdin);
    }

    #[test]
    fn the_script_is_known_by_its_last_component() {
        let text = read(SHELL, &["sh", "/tmp/a/x.sh", "arg"]);
        assert_eq!((text.form, text.script), (Form::Script, crate::hash::name(b"x.sh")));
        let text = read(PYTHON, &["python3", "-Bm", "pip", "install"]);
        assert_eq!((text.form, text.script), (Form::Argument, crate::hash::name(b"pip")));
    }

    #[test]
    fn a_cut_block_without_an_answer_stays_open() {
        let mut bytes = [0u8; SCAN_LEN];
        bytes[..12].copy_from_slice(b"bash\0--norc\0");
        assert_eq!(Scan::default().read(&bytes, 12, false, SHELL, 1).form, Form::Unknown);
    }
}
