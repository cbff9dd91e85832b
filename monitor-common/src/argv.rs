//! Where an interpreter takes its program text from, told from its arguments. The kernel half
//! needs the answer before the first instruction, so it is one pass over the first bytes of the
//! argument block, with a fixed bound; the daemon runs the same code over all of them.

/// Bytes of the argument block the kernel half looks at.
pub const SCAN_LEN: usize = 128;

/// Where the program text comes from.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Result of [`Scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// The form.
    pub form: Form,
    /// [`Form::Script`]: hash of the operand's last path component, as [`crate::hash::name`];
    /// [`Form::Argument`] by Python's `-m`: the module's; else 0.
    pub script: u32,
}

/// A one-pass reader of an argument block (`argv[0] NUL argv[1] NUL …`).
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    class: u32,
    /// Arguments still to pass over: `argv[0]`, an applet's name, an option's value.
    skip: u32,
    /// Bytes of this argument so far (0, 1, 2 = more).
    at: u32,
    first: u8,
    second: u8,
    last: u8,
    /// `--` was seen.
    operands: u32,
    /// A letter of this option cluster introduces text.
    text: u32,
    /// A shell's `-s` is in this option cluster.
    stdin: u32,
    /// The next argument is the module of `-m`.
    module: u32,
    hash: u32,
    form: u32,
    script: u32,
}

impl Scan {
    /// `class` is the program's `CLASS_*` bits, `leading` how many arguments name the program
    /// (1, or 2 for `busybox sh`).
    #[inline(always)]
    pub const fn new(class: u32, leading: u32) -> Self {
        Self {
            class,
            skip: leading,
            at: 0,
            first: 0,
            second: 0,
            last: 0,
            operands: 0,
            text: 0,
            stdin: 0,
            module: 0,
            hash: crate::hash::OFFSET,
            form: 0,
            script: 0,
        }
    }

    /// Feeds one byte; arguments end with NUL.
    #[inline(always)]
    pub fn feed(&mut self, byte: u8) {
        if byte == 0 {
            self.end_of_argument();
            self.at = 0;
            self.text = 0;
            self.stdin = 0;
            self.hash = crate::hash::OFFSET;
            return;
        }
        if self.at == 0 {
            self.first = byte;
            self.second = 0;
            self.at = 1;
        } else {
            if self.at == 1 {
                self.second = byte;
                self.at = 2;
            }
            let wanted = match byte {
                b'c' => crate::state::CLASS_FLAG_C,
                b'e' | b'E' => crate::state::CLASS_FLAG_E,
                b'r' => crate::state::CLASS_FLAG_R,
                _ => 0,
            };
            if self.class & wanted != 0 {
                self.text = 1;
            }
            if byte == b's' && self.class & crate::state::CLASS_SHELL != 0 {
                self.stdin = 1;
            }
        }
        self.last = byte;
        self.hash = if byte == b'/' {
            crate::hash::OFFSET
        } else {
            crate::hash::step(self.hash, byte)
        };
    }

    #[inline(always)]
    fn end_of_argument(&mut self) {
        if self.form != 0 || self.at == 0 {
            return;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        if self.module != 0 {
            self.form = Form::Argument as u32;
            self.script = crate::hash::finish(self.hash);
            return;
        }
        let option = self.operands == 0 && (self.first == b'-' || self.first == b'+');
        if !option {
            self.form = Form::Script as u32;
            self.script = crate::hash::finish(self.hash);
        } else if self.at == 1 {
            self.form = Form::Stdin as u32;
        } else if self.second == b'-' {
            // `--` alone ends the options; a long option is passed over.
            if self.last == b'-' {
                self.operands = 1;
            }
        } else if self.text != 0 {
            self.form = Form::Argument as u32;
        } else if self.last == b'm'
            && self.class & crate::state::CLASS_INTERPRETER != 0
            && self.class & crate::state::CLASS_FLAG_C != 0
        {
            self.module = 1;
        } else if self.stdin != 0 {
            self.form = Form::Stdin as u32;
        } else if (self.class & crate::state::CLASS_SHELL != 0
            && (self.last == b'o' || self.last == b'O'))
            || (self.class & crate::state::CLASS_INTERPRETER != 0
                && (self.last == b'W' || self.last == b'X' || self.last == b'I'))
        {
            self.skip = 1;
        }
    }

    /// Nothing more will change the answer.
    #[inline(always)]
    pub const fn decided(&self) -> bool {
        self.form != 0
    }

    /// The answer. `complete` tells whether all arguments were fed.
    #[inline(always)]
    pub const fn finish(&self, complete: bool) -> Text {
        let form = if self.form != 0 {
            Form::from_u32(self.form)
        } else if complete {
            Form::Stdin
        } else {
            Form::Unknown
        };
        Text { form, script: self.script }
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

    fn scan(class: u32, args: &[&str]) -> Form {
        let mut s = Scan::new(class, 1);
        for a in args {
            for b in a.bytes() {
                s.feed(b);
            }
            s.feed(0);
        }
        s.finish(true).form
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
        let mut s = Scan::new(SHELL, 1);
        for b in b"sh\0/tmp/a/x.sh\0arg\0" {
            s.feed(*b);
        }
        let text = s.finish(true);
        assert_eq!((text.form, text.script), (Form::Script, crate::hash::name(b"x.sh")));
    }

    #[test]
    fn a_cut_block_without_an_answer_stays_open() {
        let mut s = Scan::new(SHELL, 1);
        for b in b"bash\0--norc\0" {
            s.feed(*b);
        }
        assert_eq!(s.finish(false).form, Form::Unknown);
    }
}
