#![expect(clippy::unwrap_used, reason = "tests")]

//! An engine that is absent, slow, restarted or forgetful, played by a few lines of HTTP on a unix
//! socket.

use super::*;
use crate::container::hierarchy::Hierarchy;
use crate::event::Cgroup;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

const ID: &str = "3fa1c6d2b7e84f0a9c5d1e2f3a4b5c6d7e8f90123456789abcdef0123456789a";
const ID2: &str = "0b8e6a2c4d1f35978e6a2c4d1f3597b08e6a2c4d1f35970b8e6a2c4d1f3597aa";
const WAIT: Duration = Duration::from_secs(10);

/// What it answers.
#[derive(Clone, Default)]
struct Script {
    /// `/containers/json`.
    list: String,
    /// Lines of the event stream.
    events: String,
    /// `/containers/ID/json`; empty: 404.
    inspect: String,
    /// Before every inspection.
    delay: Duration,
}

/// Stops listening and hangs up when dropped.
struct Fake {
    open: Arc<Mutex<Vec<UnixStream>>>,
    path: PathBuf,
    stopped: Arc<AtomicBool>,
}

impl Fake {
    fn start(path: &Path, script: Script) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (streams, stop) = (Arc::clone(&open), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let script = script.clone();
                std::thread::spawn(move || serve(stream, &script));
            }
        });
        Self { open, path: path.to_owned(), stopped }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn serve(stream: UnixStream, script: &Script) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            line.clear();
        }
        let target = request.split(' ').nth(1).unwrap_or("").split('?').next().unwrap_or("").to_owned();
        let found = |body: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let answer = if target.ends_with("/version") {
            found(r#"{"ApiVersion":"1.41","Version":"20.10.24"}"#)
        } else if target.ends_with("/info") {
            found(r#"{"DockerRootDir":"/srv/docker","ServerVersion":"20.10.24"}"#)
        } else if target.ends_with("/containers/json") {
            found(&script.list)
        } else if target.ends_with("/events") {
            let body = &script.events;
            let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")
        } else {
            std::thread::sleep(script.delay);
            if target.contains("/containers/") && !script.inspect.is_empty() {
                found(&script.inspect)
            } else {
                "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{\"message\":\"gone\"}".to_owned()
            }
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn event(action: &str, id: &str, name: &str) -> String {
    format!(
        r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"image":"docker123321/mysql","name":"{name}","team":"a"}}}}}}"#
    ) + "\n"
}

fn registry_with(id: &str, key: u64) -> Registry {
    let r = Registry::new(Hierarchy { id: 0, controller: String::new(), mount: "/nonexistent".into() });
    let path = format!("/docker/{id}");
    r.on_cgroup(&Cgroup { id: key, parent: 1, gone: false, hierarchy: 0, path }).unwrap();
    r
}

fn client(socket: &Path, registry: &Registry) -> (Engine, Receiver<Notice>) {
    let (sender, notices) = sync_channel(64);
    let mut settings = Settings::new(socket);
    settings.request_timeout = Duration::from_secs(1);
    settings.max_backoff = Duration::from_millis(300);
    (start(settings, registry.clone(), sender).unwrap(), notices)
}

fn connected(notices: &Receiver<Notice>) {
    let expected = Notice::Connected { data_root: Some("/srv/docker".into()) };
    assert_eq!(notices.recv_timeout(WAIT).unwrap(), expected);
}

#[test]
fn a_container_that_is_gone_before_it_can_be_inspected_is_named_by_its_event() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("d.sock");
    let events = event("create", ID, "short") + &event("destroy", ID, "short");
    let _fake = Fake::start(&socket, Script { list: "[]".into(), events, ..Script::default() });
    let registry = registry_with(ID, 9);
    let (_engine, notices) = client(&socket, &registry);
    connected(&notices);
    assert_eq!(notices.recv_timeout(WAIT).unwrap(), Notice::Completed(9));
    let view = registry.view(9);
    assert_eq!((view.name.as_str(), view.image.as_str(), view.complete), ("short", "docker123321/mysql", true));
    assert_eq!(view.labels["team"], "a");
}

#[test]
fn an_absent_engine_that_comes_and_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("d.sock");
    let registry = registry_with(ID, 9);
    let (engine, notices) = client(&socket, &registry);
    assert!(notices.recv_timeout(Duration::from_millis(400)).is_err(), "nobody is there");
    let list = |id: &str, name: &str| {
        format!(r#"[{{"Id":"{id}","Names":["/{name}"],"Image":"tomcat","ImageID":"sha256:x","State":"running"}}]"#)
    };
    let fake = Fake::start(&socket, Script { list: list(ID, "web"), ..Script::default() });
    connected(&notices);
    assert_eq!(notices.recv_timeout(WAIT).unwrap(), Notice::Completed(9));
    assert_eq!((registry.view(9).name.as_str(), registry.view(9).digest.as_str()), ("web", "sha256:x"));
    assert!(engine.stats().connected.load(Ordering::Relaxed));
    // It goes, a container is started meanwhile, it comes back: listed again.
    drop(fake);
    let hierarchy = 0;
    registry.on_cgroup(&Cgroup { id: 10, parent: 1, gone: false, hierarchy, path: format!("/docker/{ID2}") }).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let _fake = Fake::start(&socket, Script { list: list(ID2, "other"), ..Script::default() });
    connected(&notices);
    assert_eq!(notices.recv_timeout(WAIT).unwrap(), Notice::Completed(10));
    assert_eq!(registry.view(10).name, "other");
    assert_eq!(engine.stats().connections.load(Ordering::Relaxed), 2);
}

#[test]
fn a_slow_engine_delays_the_digest_not_the_name_and_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("d.sock");
    let script = Script {
        list: "[]".into(),
        events: event("start", ID, "slow"),
        delay: Duration::from_secs(5),
        ..Script::default()
    };
    let _fake = Fake::start(&socket, script);
    let registry = registry_with(ID, 9);
    let begun = std::time::Instant::now();
    let (engine, notices) = client(&socket, &registry);
    connected(&notices);
    while registry.view(9).name != "slow" {
        assert!(begun.elapsed() < Duration::from_secs(2), "the name does not wait for the inspection");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!registry.view(9).complete);
    let begun = std::time::Instant::now();
    drop(engine);
    assert!(begun.elapsed() < Duration::from_secs(1), "stopping does not wait for the engine");
}

#[test]
fn answers_that_make_no_sense_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("d.sock");
    let fake = Fake::start(&socket, Script { list: "{\"no\":".into(), ..Script::default() });
    let registry = registry_with(ID, 9);
    let (_engine, notices) = client(&socket, &registry);
    assert!(notices.recv_timeout(Duration::from_millis(600)).is_err());
    drop(fake);
    let _fake = Fake::start(&socket, Script { list: "[]".into(), ..Script::default() });
    connected(&notices);
}
