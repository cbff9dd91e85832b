//! `bulkhead record`: what the running daemon is given to judge, into a file.

use super::{CliError, CliResult, Exit, RecordArgs};
use crate::control::{ControlError, Request, connect, refusal};
use crate::recording::{Entry, Head, Reader, RecordingError};
use nix::sys::signal::{SigSet, Signal};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(super) fn main(args: &RecordArgs) -> CliResult {
    let socket = args.socket.path()?;
    let fail = |error: std::io::Error| CliError::failure(format!("{}: {error}", socket.display()));
    let out = create(&args.file)?;
    let recorded = record(args, &socket, out);
    match recorded {
        Ok(counts) => {
            eprintln!("{}: {} events, {} lost", args.file.display(), counts.events, counts.lost);
            Ok(Exit::Ok)
        }
        Err(error) => {
            // Nothing was recorded: no empty file is left behind.
            if std::fs::metadata(&args.file).is_ok_and(|meta| meta.len() == 0) {
                std::fs::remove_file(&args.file).map_err(fail)?;
            }
            Err(error)
        }
    }
}

/// Recordings hold command lines and first bytes of connections: they are root's.
fn create(path: &Path) -> Result<File, CliError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| CliError::failure(format!("make {}: {error}", path.display())))
}

fn record(args: &RecordArgs, socket: &Path, out: File) -> Result<Counts, CliError> {
    let fail = |error: std::io::Error| CliError::failure(format!("{}: {error}", socket.display()));
    let stream = connect(socket, Request::Record { container: args.container.clone(), no_host: args.no_host })?;
    end_when_asked(&stream, args.seconds)?;
    let mut stream = BufReader::new(stream);
    if stream.fill_buf().map_err(fail)?.first() == Some(&b'{') {
        let mut line = String::new();
        stream.read_line(&mut line).map_err(fail)?;
        return Err(ControlError::Refused(refusal(&line).unwrap_or(line)).into());
    }
    let broken = |error: RecordingError| CliError::failure(format!("{}: {error}", socket.display()));
    let mut reader = Reader::new(stream).map_err(broken)?;
    let mut kept = Kept { out: BufWriter::new(out), counts: Counts::default() };
    kept.begin(reader.head()).map_err(fail)?;
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        kept.take(&entry).map_err(|error| CliError::failure(format!("{}: {error}", args.file.display())))?;
    }
    kept.out.flush().map_err(fail)?;
    Ok(kept.counts)
}

/// An interrupt, or the time, ends the request; what is on its way still comes.
fn end_when_asked(stream: &UnixStream, seconds: Option<u32>) -> Result<(), CliError> {
    let fail = |error: String| CliError::failure(format!("wait for the end: {error}"));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(|error| fail(error.to_string()))?;
    let end = |stream: &UnixStream| {
        let stream = stream.try_clone()?;
        Ok(move || drop(stream.shutdown(Shutdown::Write)))
    };
    let ended = |error: std::io::Error| fail(error.to_string());
    let asked = end(stream).map_err(ended)?;
    std::thread::spawn(move || {
        let _ = signals.wait();
        asked();
    });
    if let Some(seconds) = seconds {
        let over = end(stream).map_err(ended)?;
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(u64::from(seconds)));
            over();
        });
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    events: u64,
    lost: u64,
}

struct Kept {
    out: BufWriter<File>,
    counts: Counts,
}

impl Kept {
    fn begin(&mut self, head: &Head) -> std::io::Result<()> {
        self.out.write_all(&head.bytes())?;
        // Who waits for the recording to have begun looks at the file.
        self.out.flush()
    }

    fn take(&mut self, entry: &Entry) -> std::io::Result<()> {
        match entry {
            Entry::Event(_) => self.counts.events += 1,
            Entry::Lost(events) => self.counts.lost += events,
            _ => {}
        }
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        self.out.write_all(&bytes)
    }
}
