#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::container::{Registry, hierarchy::Hierarchy};
use crate::detect::exec_for_tests;
use crate::event::{Body, ProcessKey, Reason, Rung, Verdict};
use crate::provenance::ProcessTable;
use proptest::prelude::*;
use std::sync::mpsc::sync_channel;

fn event(id: u64, container: ContainerKey) -> Event {
    Event {
        id,
        time_ns: id,
        process: ProcessKey { tgid: 7, start_ns: 9 },
        tid: 7,
        uid: 0,
        container,
        verdict: Verdict::Killed,
        reason: Reason::DownloadExec,
        rung: Rung::Signal,
        peer_tgid: Some(3),
        body: Body::Exec(Box::new(exec_for_tests(1, &["bash", "-s"]))),
    }
}

fn read(bytes: &[u8]) -> (Vec<Entry>, Option<RecordingError>) {
    let mut reader = Reader::new(bytes).unwrap();
    let mut entries = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => return (entries, None),
            Err(error) => return (entries, Some(error)),
        }
    }
}

fn recorded(events: u64) -> Vec<u8> {
    let mut bytes = Head::now().bytes();
    for id in 0..events {
        Entry::Event(Box::new(event(id, 1))).write(&mut bytes);
    }
    bytes
}

#[test]
fn what_is_written_is_read() {
    let bytes = recorded(3);
    assert_eq!(Reader::new(&*bytes).unwrap().head().version, env!("CARGO_PKG_VERSION"));
    let (entries, error) = read(&bytes);
    assert!(error.is_none());
    let shown: Vec<String> = entries.iter().map(|entry| format!("{entry:?}")).collect();
    let wanted: Vec<String> = (0..3).map(|id| format!("{:?}", Entry::Event(Box::new(event(id, 1))))).collect();
    assert_eq!(shown, wanted);
}

#[test]
fn a_cut_end_is_an_end_and_nonsense_is_damage() {
    let bytes = recorded(3);
    let (entries, error) = read(&bytes[..bytes.len() - 5]);
    assert!(entries.len() == 2 && error.is_none(), "{error:?}");
    let mut long = recorded(1);
    long.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&long), (entries, Some(RecordingError::Damaged { .. })) if entries.len() == 1));
    let mut bad = recorded(1);
    bad.extend_from_slice(&[1, 0, 0, 0, 0xff]);
    assert!(matches!(read(&bad).1, Some(RecordingError::Damaged { .. })));
    assert!(matches!(Reader::new(&b"{\"error\":\"no\"}"[..]), Err(RecordingError::NotARecording)));
    assert!(matches!(Reader::new(&b""[..]), Err(RecordingError::NotARecording)));
}

#[test]
fn a_slow_reader_is_told_what_it_missed() {
    let registry = Registry::new(Hierarchy::nowhere());
    let (queue, frames) = sync_channel(2);
    let mut tap = Tap::begin(queue, &Notes::default(), &registry, &ProcessTable::default());
    let mut told = |id| {
        let bytes = tap.before(&event(id, 1), &registry);
        tap.after(&bytes)
    };
    assert!((0..5).all(&mut told), "the queue holds the beginning and one event");
    let mut bytes: Vec<u8> = frames.try_iter().flatten().collect();
    assert!(told(5));
    bytes.extend(frames.try_iter().flatten());
    let (entries, error) = read(&bytes);
    assert!(error.is_none());
    assert!(
        matches!(&entries[..], [Entry::Event(first), Entry::Lost(4), Entry::Event(last)] if first.id == 0 && last.id == 5)
    );
    drop(frames);
    assert!(!told(6), "nobody records any more");
}

#[test]
fn answers_stand_before_their_event() {
    let registry = Registry::new(Hierarchy::nowhere());
    let notes = Notes::default();
    let file = crate::event::File { inode: Inode { dev: 1, ino: 2 }, ..crate::event::File::default() };
    notes.host_file(&file, true);
    let (queue, frames) = sync_channel(8);
    let mut tap = Tap::begin(queue, &notes, &registry, &ProcessTable::default());
    let bytes = tap.before(&event(1, 1), &registry);
    notes.host_file(&file, true);
    tap.after(&bytes);
    let all: Vec<u8> = frames.try_iter().flatten().collect();
    let (entries, _) = read(&all);
    assert!(matches!(&entries[..], [Entry::HostFile(Inode { dev: 1, ino: 2 }, true), Entry::Event(_)]), "{entries:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = recorded(1);
        bytes.extend(tail);
        let _ = read(&bytes);
    }
}
