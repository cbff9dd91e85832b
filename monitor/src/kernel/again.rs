//! Program starts that the kernel half counted instead of telling them, and tells after all: it names the like of it that
//! was told in full, which is remembered here.

use super::decode::{DecodeError, decode, front};
use crate::event::{Body, Event, Exec, Inode, ProcessKey, Stdio};
use monitor_common::exec as raw;
use monitor_common::header::{Header, Kind};
use monitor_common::state::InodeKey;
use std::collections::HashMap;

/// Starts remembered, twice. One takes about 1 KiB.
const REMEMBERED: usize = 2048;

/// A start that was told in full.
#[derive(Debug)]
struct Known {
    exec: Exec,
    uid: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Shapes {
    young: HashMap<u64, Known>,
    old: HashMap<u64, Known>,
}

impl Shapes {
    /// Decodes a record, with what is remembered.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Event, DecodeError> {
        let mut event = decode(bytes)?;
        match Kind::try_from(front::<Header>(bytes)?.kind) {
            Ok(Kind::Exec) => self.remember(front::<raw::Exec>(bytes)?.shape, &event),
            Ok(Kind::Again) => self.complete(&front(bytes)?, &mut event),
            _ => {}
        }
        Ok(event)
    }

    fn remember(&mut self, shape: u64, event: &Event) {
        let Body::Exec(exec) = &event.body else { return };
        if shape == 0 {
            return;
        }
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(shape, Known { exec: Exec::clone(exec), uid: event.uid });
    }

    /// Without the start it is about, the event only says once more whose child the process is.
    fn complete(&mut self, raw: &raw::Again, event: &mut Event) {
        let Some(known) = self.young.get(&raw.shape).or_else(|| self.old.get(&raw.shape)) else { return };
        let mut exec = known.exec.clone();
        exec.parent = ProcessKey { tgid: raw.parent_tgid, start_ns: raw.parent_start_ns };
        exec.task_flags = raw.task_flags;
        // The like of it had pipes of its own.
        for (stdio, key) in exec.stdio.iter_mut().zip([&raw.stdin, &raw.stdout]) {
            if matches!(stdio, Stdio::Pipe(_)) {
                *stdio = Stdio::Pipe(inode(key));
            }
        }
        event.uid = known.uid;
        event.body = Body::Exec(Box::new(exec));
    }
}

const fn inode(key: &InodeKey) -> Inode {
    Inode { dev: key.dev, ino: key.ino }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use bytemuck::Zeroable;
    use monitor_common::ABI_VERSION;

    fn header(kind: Kind, tgid: u32) -> Header {
        Header { abi: ABI_VERSION, kind: kind as u16, tgid, start_ns: 9, ..Header::zeroed() }
    }

    fn exec(shape: u64) -> Vec<u8> {
        let mut record = raw::Exec::zeroed();
        record.header = Header { uid: 33, ..header(Kind::Exec, 7) };
        record.exe.depth = 1;
        record.exe.names[0][..2].copy_from_slice(b"id");
        record.stdio[1].kind = raw::STDIO_PIPE;
        record.shape = shape;
        record.args_len = 3;
        [bytemuck::bytes_of(&record), b"id\0"].concat()
    }

    fn again(shape: u64) -> Vec<u8> {
        let mut record = raw::Again::zeroed();
        record.header = header(Kind::Again, 8);
        record.parent_tgid = 5;
        record.shape = shape;
        record.stdout.ino = 77;
        bytemuck::bytes_of(&record).to_vec()
    }

    #[test]
    fn what_was_told_in_full_stands_for_the_like_of_it() {
        let mut shapes = Shapes::default();
        shapes.decode(&exec(3)).unwrap();
        let event = shapes.decode(&again(3)).unwrap();
        assert_eq!((event.process.tgid, event.uid), (8, 33));
        let Body::Exec(exec) = event.body else { panic!("not an exec") };
        assert_eq!((exec.parent.tgid, exec.exe.path.as_str(), &*exec.args), (5, "/id", &["id".into()][..]));
        assert_eq!(exec.stdio[1], Stdio::Pipe(Inode { dev: 0, ino: 77 }));
    }

    #[test]
    fn what_nobody_told_is_no_program() {
        let mut shapes = Shapes::default();
        shapes.decode(&exec(0)).unwrap();
        for shape in [0, 4] {
            let event = shapes.decode(&again(shape)).unwrap();
            assert!(matches!(event.body, Body::Fork { parent, .. } if parent.tgid == 5));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut shapes = Shapes::default();
        for shape in 1..4 * REMEMBERED as u64 {
            shapes.decode(&exec(shape)).unwrap();
            assert!(shapes.young.len() + shapes.old.len() <= 2 * REMEMBERED);
        }
    }
}
