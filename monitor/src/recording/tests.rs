#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::container::path::Runtime;
use crate::container::registry::Metadata;
use crate::container::{Registry, hierarchy::Hierarchy};
use crate::detect::exec_for_tests;
use crate::event::{Body, ProcessKey, Reason, Rung, Verdict, state};
use crate::provenance::ProcessTable;
use proptest::prelude::*;
use std::sync::mpsc::{Receiver, sync_channel};

const A: ContainerKey = 11;
const B: ContainerKey = 12;

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
        Entry::Event(event(id, 1)).write(&mut bytes);
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
    let wanted: Vec<String> = (0..3).map(|id| format!("{:?}", Entry::Event(event(id, 1)))).collect();
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

fn taps(notes: Notes, container: Option<&str>, room: usize) -> (Taps, Receiver<Vec<u8>>, Registry) {
    let registry = Registry::new(Hierarchy::nowhere());
    for (key, id) in [(A, "aa"), (B, "bb")] {
        let container = Container {
            key,
            id: id.into(),
            runtime: Runtime::Docker,
            pod_uid: None,
            path: String::new(),
            metadata: Metadata { name: format!("name-{id}"), ..Metadata::default() },
            gone: false,
        };
        registry.restore(container);
    }
    let (queue, frames) = sync_channel(room);
    let mut taps = Taps::new(notes);
    taps.begin(
        Wish { queue, container: container.map(str::to_owned), no_host: false },
        &registry,
        &ProcessTable::default(),
    );
    (taps, frames, registry)
}

fn tell(taps: &mut Taps, registry: &Registry, id: u64, container: ContainerKey) {
    let copy = taps.before(&event(id, container), registry);
    taps.after(copy);
}

/// Containers are told first; what follows.
fn after_containers(bytes: &[u8], containers: usize) -> Vec<Entry> {
    let (mut entries, error) = read(bytes);
    assert!(error.is_none());
    let told: Vec<Entry> = entries.drain(..containers).collect();
    assert!(told.iter().all(|entry| matches!(entry, Entry::Container(_))), "{told:?}");
    entries
}

#[test]
fn a_slow_reader_is_told_what_it_missed() {
    let (mut taps, frames, registry) = taps(Notes::default(), None, 2);
    // The queue holds the beginning and one event.
    (0..5).for_each(|id| tell(&mut taps, &registry, id, A));
    let mut bytes: Vec<u8> = frames.try_iter().flatten().collect();
    tell(&mut taps, &registry, 5, A);
    bytes.extend(frames.try_iter().flatten());
    let entries = after_containers(&bytes, 2);
    let [Entry::Event(first), Entry::Lost(4), Entry::Event(last)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((first.id, last.id), (0, 5));
}

#[test]
fn one_container_is_recorded_alone() {
    for wanted in ["name-bb", "b"] {
        let (mut taps, frames, registry) = taps(Notes::default(), Some(wanted), 64);
        for (id, container) in [(1, A), (2, B), (3, state::HOST), (4, B)] {
            tell(&mut taps, &registry, id, container);
        }
        taps.gone(A);
        taps.gone(B);
        let bytes: Vec<u8> = frames.try_iter().flatten().collect();
        let entries = after_containers(&bytes, 1);
        let [Entry::Event(first), Entry::Event(last), Entry::Gone(B)] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((first.id, last.id), (2, 4));
    }
}

#[test]
fn answers_stand_before_their_event_and_are_not_asked_for_in_vain() {
    let notes = Notes::default();
    let file = crate::event::File { inode: Inode { dev: 1, ino: 2 }, ..crate::event::File::default() };
    notes.host_file(&file, true);
    let (mut taps, frames, registry) = taps(notes.clone(), Some("aa"), 8);
    for container in [B, A] {
        let copy = taps.before(&event(container, container), &registry);
        notes.host_file(&file, container == A);
        taps.after(copy);
    }
    let bytes: Vec<u8> = frames.try_iter().flatten().collect();
    let entries = after_containers(&bytes, 1);
    assert!(matches!(&entries[..], [Entry::HostFile(Inode { dev: 1, ino: 2 }, true), Entry::Event(_)]), "{entries:?}");
    drop(frames);
    tell(&mut taps, &registry, 3, A);
    assert!(taps.before(&event(4, A), &registry).is_none(), "nobody records any more");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = recorded(1);
        bytes.extend(tail);
        let _ = read(&bytes);
    }
}
