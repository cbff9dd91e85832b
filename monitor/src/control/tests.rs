#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::output::{Observer as _, samples};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn answers() -> Answers {
    Answers {
        status: Arc::new(|| serde_json::json!({ "mode": "monitor" })),
        handover: Arc::new(|| false),
        turns_away: Arc::new(|_| None),
        orders: orders(),
        record: Arc::new(drop),
    }
}

/// Knows one container.
fn orders() -> Arc<dyn Fn(Order) + Send + Sync> {
    Arc::new(|order: Order| {
        let answer = match order.container.as_str() {
            "web" => Answer::Done { done: format!("{} of web by {}", order.deed.name(), order.uid) },
            "busy" => return,
            _ => Answer::Unknown { unknown: "which?".into() },
        };
        order.answer.try_send(answer).unwrap();
    })
}

#[test]
fn orders_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _hub, _server) = server(&folder);
    let give = |container: &str| {
        let request = Request::Order { order: Deed::Quarantine, container: container.into() };
        let line = ask(&path, request).unwrap().lines().next().unwrap().unwrap();
        serde_json::from_str::<Answer>(&line).unwrap()
    };
    let me = rustix::process::geteuid().as_raw();
    assert_eq!(give("web"), Answer::Done { done: format!("quarantine of web by {me}") });
    assert_eq!(give("x"), Answer::Unknown { unknown: "which?".into() });
    assert!(matches!(give("busy"), Answer::Refused { error } if error.contains("too busy")));
}

#[test]
fn who_belongs_to_a_container_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = asked.clone();
    let turns_away = Arc::new(move |pid| {
        seen.store(pid, std::sync::atomic::Ordering::SeqCst);
        Some("it is in a container".to_owned())
    });
    let _server = Server::start(&path, Hub::new(), Answers { turns_away, ..answers() }).unwrap();
    let line = ask(&path, Request::Status).unwrap().lines().next().unwrap().unwrap();
    assert_eq!(refusal(&line).as_deref(), Some("it is in a container"));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), std::process::id());
}

fn server(folder: &tempfile::TempDir) -> (PathBuf, Arc<Hub>, Server) {
    let path = folder.path().join("run/control.sock");
    let hub = Hub::new();
    let server = Server::start(&path, hub.clone(), answers()).unwrap();
    (path, hub, server)
}

fn alert(hub: &Arc<Hub>, id: usize) {
    let mut finding = samples::reverse_shell();
    finding.id = format!("f-{id}");
    let row = samples::row(&finding);
    let json = serde_json::to_string(&row).unwrap();
    hub.row(&row, &json.into());
}

fn ids(lines: impl Iterator<Item = std::io::Result<String>>) -> Vec<String> {
    lines
        .map(|l| serde_json::from_str::<serde_json::Value>(&l.unwrap()).unwrap())
        .map(|v| v["event"]["id"].as_str().unwrap_or("-").to_owned())
        .collect()
}

fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < end, "in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn status_and_findings() {
    let folder = tempfile::tempdir().unwrap();
    let (path, hub, _server) = server(&folder);
    let line = ask(&path, Request::Status).unwrap().lines().next().unwrap().unwrap();
    assert_eq!(line, r#"{"mode":"monitor"}"#);
    (0..1003).for_each(|i| alert(&hub, i));
    let found = ids(ask(&path, Request::Findings).unwrap().lines());
    assert_eq!((found.len(), found[0].as_str()), (1000, "f-3"));
}

#[test]
fn events_begin_with_the_backlog_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (path, hub, _server) = server(&folder);
    (0..5).for_each(|i| alert(&hub, i));
    let answer = ask(&path, Request::Events { backlog: 2 }).unwrap();
    until(|| hub.followers() == 1);
    alert(&hub, 5);
    let row = samples::notice_row();
    hub.row(&row, &serde_json::to_string(&row).unwrap().into());
    assert_eq!(ids(answer.lines().take(4)), ["f-3", "f-4", "f-5", "-"]);
    assert_eq!(hub.recent(9).len(), 6, "notices are not findings");
}

#[test]
fn a_slow_client_is_let_go_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let (path, hub, _server) = server(&folder);
    let answer = ask(&path, Request::Events { backlog: 0 }).unwrap();
    until(|| hub.followers() == 1);
    let mut sent = 0;
    while hub.followers() == 1 {
        alert(&hub, sent);
        sent += 1;
        assert!(sent < 100_000);
    }
    let last = answer.lines().map(Result::unwrap).last().unwrap();
    assert!(last.contains("client_too_slow"), "{last}");
}

#[test]
fn a_client_that_went_away_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (path, hub, _server) = server(&folder);
    drop(ask(&path, Request::Events { backlog: 0 }).unwrap());
    until(|| {
        alert(&hub, 0);
        hub.followers() == 0
    });
}

#[test]
fn only_the_owner_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.sock");
    let me = rustix::process::geteuid().as_raw();
    let _server = Server::start_for(&path, Hub::new(), answers(), me + 1).unwrap();
    let line = ask(&path, Request::Status).unwrap().lines().next().unwrap().unwrap();
    assert_eq!(refusal(&line).unwrap(), format!("uid {me} may not use this socket"));
}

#[test]
fn the_file_is_private_and_goes_with_the_server() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (path, _hub, server) = server(&folder);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(server);
    assert!(!path.exists());
    let absent = ask(&path, Request::Status).err().unwrap().to_string();
    assert!(absent.contains("no daemon answers at") && absent.contains("bulkhead run"), "{absent}");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = Server::start(&path, Hub::new(), answers()).unwrap();
    let second = Server::start(&path, Hub::new(), answers()).err().unwrap();
    assert!(matches!(second, ControlError::InUse(_)));
    assert!(ask(&path, Request::Status).is_ok(), "the first goes on");
    drop(first);
    std::fs::write(&path, "x").unwrap();
    let third = Server::start(&path, Hub::new(), answers()).err().unwrap();
    assert!(matches!(third, ControlError::NotASocket(_)));
}

#[test]
fn nonsense_gets_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _hub, _server) = server(&folder);
    for text in ["{}\n", "status\n", "{\"cmd\":\"stop\"}\n", "{\"cmd\":\"events\",\"x\":1}\n"] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let line = BufReader::new(stream).lines().next().unwrap().unwrap();
        assert!(refusal(&line).unwrap().starts_with("not a request: "), "{line}");
    }
}

#[test]
fn a_handover_is_begun_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = asked.clone();
    // The second one finds it too busy.
    let handover = Arc::new(move || counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0);
    let path = folder.path().join("control.sock");
    let _server = Server::start(&path, Hub::new(), Answers { handover, ..answers() }).unwrap();
    let answer = || ask(&path, Request::Handover).unwrap().lines().next().unwrap().unwrap();
    assert!(refusal(&answer()).is_none());
    assert!(refusal(&answer()).is_some_and(|why| why.contains("busy")));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
}
