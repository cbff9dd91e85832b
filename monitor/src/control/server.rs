//! The daemon's end of the control socket: one thread that accepts, one short-lived thread a
//! client, at most [`CLIENTS`] of them.

use super::hub::{Hub, REMEMBERED, Subscription};
use super::{Answer, ControlError, Order, Request};
use crate::output::notice::{NoticeKind, NoticeRow};
use crate::output::{Clock, Notice, writer};
use crate::recording::{TAPS, Wish};
use crate::response::Deed;
use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Clients at a time.
const CLIENTS: usize = 16;
/// Longest request line; the longest sensible one has 40 bytes.
const REQUEST_MAX: u64 = 4096;
/// How long a client may take to send its request or to take a row.
const PATIENCE: Duration = Duration::from_secs(5);
/// Frames that may wait for a client that records: some 16 MiB.
const FRAMES: usize = 16_384;
/// How often a quiet follower is looked at for having hung up.
const LOOK: Duration = Duration::from_millis(500);

/// What the daemon does when it is asked.
#[derive(Clone)]
pub struct Answers {
    /// Gives the object that `status` answers with.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Begins the handover to another daemon; `false` if it cannot now.
    pub handover: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Says why a process is turned away, and reports it: it belongs to a container.
    pub turns_away: Arc<dyn Fn(u32) -> Option<String> + Send + Sync>,
    /// Carries an order out.
    pub orders: Arc<dyn Fn(Order) + Send + Sync>,
    /// Begins a recording; its queue is closed at once if it cannot.
    pub record: Arc<dyn Fn(Wish) + Send + Sync>,
}

/// The listening socket. Dropping it ends the service and removes the file.
pub struct Server {
    path: PathBuf,
    id: (u64, u64),
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Service {
    hub: Arc<Hub>,
    answers: Answers,
    owner: u32,
    stop: Arc<AtomicBool>,
    clients: AtomicUsize,
}

impl Server {
    /// Listens at `path` for the user the daemon runs as, which is root. A socket file that nobody
    /// listens on is replaced.
    ///
    /// # Errors
    /// The path is taken or cannot be used.
    pub fn start(path: &Path, hub: Arc<Hub>, answers: Answers) -> Result<Self, ControlError> {
        Self::start_for(path, hub, answers, rustix::process::geteuid().as_raw())
    }

    pub(super) fn start_for(path: &Path, hub: Arc<Hub>, answers: Answers, owner: u32) -> Result<Self, ControlError> {
        let fail = |source: io::Error| ControlError::Io { path: path.into(), source };
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(fail)?;
        // Who connects before this line is turned away by the check of the peer's uid.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        let meta = std::fs::symlink_metadata(path).map_err(fail)?;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = AtomicUsize::new(0);
        let service = Arc::new(Service { hub, answers, owner, stop: stop.clone(), clients });
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &service))
            .map_err(fail)?;
        Ok(Self { path: path.into(), id: (meta.dev(), meta.ino()), stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes the accepting thread.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn clear_stale(path: &Path) -> Result<(), ControlError> {
    let fail = |source: io::Error| ControlError::Io { path: path.into(), source };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(fail)?;
    }
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(fail(e)),
        Ok(meta) if !meta.file_type().is_socket() => Err(ControlError::NotASocket(path.into())),
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(fail),
            Err(e) => Err(fail(e)),
            Ok(_) => Err(ControlError::InUse(path.into())),
        },
    }
}

fn accept(listener: &UnixListener, service: &Arc<Service>) {
    loop {
        let accepted = listener.accept();
        if service.stop.load(SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _)) => take(stream, service),
            Err(error) => {
                tracing::warn!(%error, "control socket: accept");
                // Out of descriptors, say: not in a busy loop.
                std::thread::sleep(LOOK);
            }
        }
    }
}

fn take(mut stream: UnixStream, service: &Arc<Service>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    if let Err(why) = admitted(&stream, service.owner, &*service.answers.turns_away) {
        let _ = refuse(&mut stream, &why);
        return;
    }
    if service.clients.fetch_add(1, SeqCst) >= CLIENTS {
        service.clients.fetch_sub(1, SeqCst);
        let _ = refuse(&mut stream, &format!("{CLIENTS} clients are connected already"));
        return;
    }
    let shared = service.clone();
    let spawned = std::thread::Builder::new().name("control-client".into()).spawn(move || {
        if let Err(error) = serve(&mut stream, &shared) {
            tracing::debug!(%error, "control client");
        }
        shared.clients.fetch_sub(1, SeqCst);
    });
    if let Err(error) = spawned {
        service.clients.fetch_sub(1, SeqCst);
        tracing::warn!(%error, "control socket: thread");
    }
}

/// Is the peer who may ask? Its user and process are those that connected (`SO_PEERCRED`, unix(7)).
fn admitted(
    stream: &UnixStream,
    owner: u32,
    turns_away: &(dyn Fn(u32) -> Option<String> + Send + Sync),
) -> Result<(), String> {
    let peer = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|error| format!("the peer's credentials cannot be read: {error}"))?;
    if peer.uid.as_raw() != owner {
        return Err(format!("uid {} may not use this socket", peer.uid.as_raw()));
    }
    // Taken first: what is found out about the number is about the peer as long as this one lives.
    let process = peer_process(stream);
    let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or(0);
    if let Some(why) = turns_away(pid) {
        return Err(why);
    }
    match process {
        Some(process) if !lives(&process) => Err("the process that connected has ended".into()),
        _ => Ok(()),
    }
}

/// The peer as a pidfd, from Linux 6.5 on.
fn peer_process(stream: &UnixStream) -> Option<OwnedFd> {
    /// include/uapi/asm-generic/socket.h
    const SO_PEERPIDFD: libc::c_int = 77;
    let (mut fd, mut length): (libc::c_int, libc::socklen_t) = (-1, size_of::<libc::c_int>() as libc::socklen_t);
    let target = (&raw mut fd).cast();
    // SAFETY: the kernel writes at most `length` bytes to `fd`, which outlives the call.
    let result =
        unsafe { libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, target, &raw mut length) };
    // SAFETY: a descriptor that was made for us just now.
    (result == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pidfd can be read, as it were, once its process has ended (pidfd_open(2)).
fn lives(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ended| ended == 0)
}

fn refuse(stream: &mut UnixStream, why: &str) -> io::Result<()> {
    send(stream, &serde_json::json!({ "error": why }).to_string())
}

fn send(stream: &mut UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")
}

fn serve(stream: &mut UnixStream, service: &Service) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?.take(REQUEST_MAX)).read_line(&mut line)?;
    match serde_json::from_str(&line) {
        Err(error) => refuse(stream, &format!("not a request: {error}")),
        Ok(Request::Status) => send(stream, &(service.answers.status)().to_string()),
        Ok(Request::Order { order, container }) => {
            let answer = give(stream, service, order, container);
            send(stream, &serde_json::to_string(&answer)?)
        }
        Ok(Request::Handover) if (service.answers.handover)() => {
            send(stream, &serde_json::json!({ "handing_over": true, "pid": std::process::id() }).to_string())
        }
        Ok(Request::Handover) => refuse(stream, "it is too busy to hand over now"),
        Ok(Request::Record { container, no_host }) => record(stream, service, container, no_host),
        Ok(Request::Findings) => service.hub.recent(REMEMBERED).iter().try_for_each(|row| send(stream, row)),
        Ok(Request::Events { backlog }) => {
            let (past, subscription) = service.hub.follow(backlog);
            past.iter().try_for_each(|row| send(stream, row))?;
            follow(stream, &subscription, &service.stop)
        }
    }
}

/// Hands an order over and waits for what comes of it.
fn give(stream: &UnixStream, service: &Service, deed: Deed, container: String) -> Answer {
    let refused = |why: &str| Answer::Refused { error: why.into() };
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else {
        return refused("the peer's credentials cannot be read");
    };
    let (answer, answered) = sync_channel(1);
    let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or(0);
    (service.answers.orders)(Order { deed, container, uid: peer.uid.as_raw(), pid, answer });
    match answered.recv_timeout(PATIENCE) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => refused("the daemon is too busy to say what came of it; see its rows"),
        Err(RecvTimeoutError::Disconnected) => refused("the daemon is too busy to take orders, or is ending"),
    }
}

/// Streams a recording until the client has had enough.
fn record(stream: &mut UnixStream, service: &Service, container: Option<String>, no_host: bool) -> io::Result<()> {
    let (queue, frames) = sync_channel(FRAMES);
    (service.answers.record)(Wish { queue, container, no_host });
    match frames.recv_timeout(PATIENCE) {
        Ok(first) => stream.write_all(&first)?,
        Err(RecvTimeoutError::Disconnected) => {
            return refuse(stream, &format!("{TAPS} recordings are being made already"));
        }
        Err(RecvTimeoutError::Timeout) => return refuse(stream, "the daemon is too busy to begin a recording"),
    }
    while !service.stop.load(SeqCst) {
        match frames.recv_timeout(LOOK) {
            Ok(frame) => stream.write_all(&frame)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if hung_up(stream)? {
            break;
        }
    }
    rest(stream, &frames)
}

/// What was queued when the client had enough is its recording's end.
fn rest(stream: &mut UnixStream, frames: &Receiver<Vec<u8>>) -> io::Result<()> {
    frames.try_iter().take(FRAMES).try_for_each(|frame| stream.write_all(&frame))
}

fn follow(stream: &mut UnixStream, from: &Subscription, stop: &AtomicBool) -> io::Result<()> {
    loop {
        match from.rows.recv_timeout(LOOK) {
            Ok(row) => send(stream, &row)?,
            Err(RecvTimeoutError::Timeout) if hung_up(stream)? || stop.load(SeqCst) => {
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if from.lagged.load(SeqCst) {
        let message = "this client was too slow and is disconnected; rows are missing here";
        let notice = Notice::new(NoticeKind::PipelineError, "client_too_slow", message);
        let row = NoticeRow::new(&notice, &writer::host_name(), &Clock::now());
        send(stream, &serde_json::to_string(&row)?)?;
    }
    Ok(())
}

fn hung_up(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
}
