//! A shell holds a connection of its own (`exec 3<>/dev/tcp/…`) and converses over it, without the
//! shape of a reverse shell. Alert only.
//!
//! What makes a conversation, and what does not:
//! - a probe (wait-for-it: connect, at most a newline, done) and a logger (bytes go out only) are
//!   silent, and so is anything on a log port;
//! - one request and its answer is a health check (HTTP, `PING`, `ruok`, Redis): the shell speaks
//!   first and stops when it has its answer; HTTP stays silent however long it goes on;
//! - a server that speaks first with a protocol's greeting (SMTP, FTP, SSH, POP, IMAP) is a check of
//!   that service, until it becomes a dialogue of several rounds;
//! - a server that speaks first with anything else and is answered gives orders;
//! - programs writing to the connection after bytes came in are answers, two of them a habit.

use super::Detector;
use super::bounded::Bounded;
use super::context::Context;
use crate::event::{Body, Connect, ConnectOp, Event, Exec, Kind, Payload, ProcessKey, state};
use crate::finding::{Detection, FindingKind};
use std::net::SocketAddr;

/// Connections of shells followed at a time.
const FOLLOWED: usize = 256;
/// Programs that write to the connection before it counts as used by programs.
const WRITERS: u32 = 2;

/// One connection of a shell.
#[derive(Debug)]
struct Talk {
    owner: ProcessKey,
    peer: SocketAddr,
    opened: u64,
    inbound: u32,
    /// Segments sent that were more than a probe's newline.
    outbound: u32,
    /// Times an answer followed something received.
    rounds: u32,
    last_inbound: bool,
    server_first: bool,
    greeting: bool,
    http: bool,
    writers: u32,
    told: bool,
}

/// See the module.
pub struct ShellConnect {
    talks: Bounded<u64, Talk>,
}

impl Default for ShellConnect {
    fn default() -> Self {
        Self { talks: Bounded::new(FOLLOWED) }
    }
}

impl Detector for ShellConnect {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Connect, Kind::Payload, Kind::Exec]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        match &event.body {
            Body::Connect(connect) => {
                self.connect(event, connect, cx);
                None
            }
            Body::Payload(payload) => self.payload(event, payload, cx),
            Body::Exec(exec) => self.exec(event, exec, cx),
            _ => None,
        }
    }
}

impl ShellConnect {
    fn connect(&mut self, event: &Event, connect: &Connect, cx: &Context<'_>) {
        let shell = connect.task_flags & state::TASK_SHELL != 0;
        let lookup = connect.peer.port() == 53;
        let logger = cx.settings.log_ports.contains(&connect.peer.port());
        let expected = cx.containers.expects_connect(event.container, connect.peer);
        if !shell || lookup || logger || expected || connect.op == ConnectOp::Listen {
            return;
        }
        if event.container == crate::event::HOST || event.prevented() {
            return;
        }
        let talk = Talk {
            owner: event.process,
            peer: connect.peer,
            opened: event.id,
            inbound: 0,
            outbound: 0,
            rounds: 0,
            last_inbound: false,
            server_first: false,
            greeting: false,
            http: false,
            writers: 0,
            told: false,
        };
        self.talks.insert(connect.cookie, talk);
    }

    fn payload(&mut self, event: &Event, payload: &Payload, cx: &Context<'_>) -> Option<Detection> {
        let talk = self.talks.get_mut(&payload.cookie)?;
        if payload.inbound {
            if talk.inbound == 0 && talk.outbound == 0 {
                talk.server_first = true;
                talk.greeting = is_greeting(&payload.data);
            }
            talk.inbound += 1;
            talk.last_inbound = true;
            return None;
        }
        if payload.data.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        if talk.outbound == 0 {
            talk.http = is_http_request(&payload.data);
        }
        talk.outbound += 1;
        if talk.last_inbound {
            talk.rounds += 1;
        }
        talk.last_inbound = false;
        let ordered = talk.server_first && !talk.greeting && talk.rounds >= 1;
        let conversation = talk.rounds >= cx.settings.shell_rounds;
        if talk.http || talk.told || !(ordered || conversation) {
            return None;
        }
        let detail = if ordered {
            format!("{} spoke first and was answered", talk.peer)
        } else {
            format!("{} rounds with {}", talk.rounds, talk.peer)
        };
        Some(tell(event, talk, "conversation", &detail, cx))
    }

    fn exec(&mut self, event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<Detection> {
        let writes_to = exec.stdio[1].outbound().or_else(|| exec.stdio[2].outbound())?;
        let cookie = self.find(exec.parent, writes_to, cx)?;
        let talk = self.talks.get_mut(&cookie)?;
        // `exec >/dev/tcp/…`: everything the script says goes there, like a log.
        let redirected = cx
            .processes
            .get(talk.owner)
            .is_some_and(|p| p.has(state::TASK_STDOUT_INET) && !p.has(state::TASK_STDIN_INET));
        talk.writers += 1;
        let answers = talk.inbound > 0 && !talk.greeting;
        // A program whose input comes from there as well converses by itself.
        let both = exec.stdio[0].outbound() == Some(talk.peer);
        let habit = talk.writers >= WRITERS && (answers || !redirected);
        if talk.http || talk.told || !(both || habit) {
            return None;
        }
        let detail = format!("{} programs write to {}", talk.writers, talk.peer);
        Some(tell(event, talk, "children_write_to_socket", &detail, cx))
    }

    /// The connection of the parent (or of the process it was forked from) to that peer.
    fn find(&self, parent: ProcessKey, peer: SocketAddr, cx: &Context<'_>) -> Option<u64> {
        cx.processes
            .outbound(parent)
            .map(|o| o.cookie)
            .find(|cookie| self.talks.get(cookie).is_some_and(|t| t.peer == peer))
    }
}

fn tell(event: &Event, talk: &mut Talk, what: &str, detail: &str, cx: &Context<'_>) -> Detection {
    talk.told = true;
    let message = format!("{} converses with {} by itself", cx.describe(talk.owner), talk.peer);
    let mut detection = Detection::new(FindingKind::ShellConnect, talk.owner, message)
        .with(event.id, what, 0, detail)
        .with(talk.opened, "shell_connects", 0, format!("the shell connected to {}", talk.peer));
    detection.peer = Some(talk.peer);
    detection.alert_only = true;
    detection
}

/// Does a server that speaks first greet in a known protocol?
pub(super) fn is_greeting(data: &[u8]) -> bool {
    let status =
        data.len() >= 4 && data[..3].iter().all(u8::is_ascii_digit) && matches!(data[3], b' ' | b'-' | b'\r' | b'\n');
    let named: [&[u8]; 7] = [b"SSH-", b"+OK", b"* OK", b"RFB ", b"@RSYNCD", b"AMQP", b"-ERR"];
    // MySQL and its like: binary.
    let binary = std::str::from_utf8(data).is_err() || data.contains(&0);
    status || binary || named.iter().any(|n| data.starts_with(n))
}

fn is_http_request(data: &[u8]) -> bool {
    let methods: [&[u8]; 8] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ", b"DELETE ", b"PATCH ", b"CONNECT "];
    // Written piece by piece (`echo -n GET`) the method stands alone.
    methods.iter().any(|m| data.starts_with(m) || data == &m[..m.len() - 1])
}

#[cfg(test)]
mod tests;
