//! Bytes off a ring → [`Event`]. Never panics: a record that is short, of another version or of an
//! unknown kind is an error the caller counts.

use crate::event::{
    Body, Cgroup, Connect, ConnectOp, Event, Exec, File, Form, Inode, Open, Origin, Payload, ProcessKey, Reach,
    Reached, Stdio, canonical,
};
use monitor_common::exec as raw_exec;
use monitor_common::file::{COMPONENTS, FILE_PATH_CUT, FileRef};
use monitor_common::header::{Header, Kind, Reason, Rung, Verdict};
use monitor_common::net as raw_net;
use monitor_common::own as raw_own;
use monitor_common::reach as raw_reach;
use monitor_common::{ABI_VERSION, state};
use smol_str::{SmolStr, SmolStrBuilder};
use std::net::SocketAddr;

/// Why a record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind needs.
    #[error("record of {got} bytes where {needed} are needed")]
    Short {
        /// Bytes there are.
        got: usize,
        /// Bytes there must be.
        needed: usize,
    },
    /// Written by programs of another version.
    #[error("record of ABI {0}")]
    Abi(u16),
    /// A code nobody knows.
    #[error("unknown {what} {value}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u32,
    },
}

/// Decodes one record.
///
/// # Errors
/// [`DecodeError`]; nothing of such a record may be used.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let header: Header = front(bytes)?;
    if header.abi != ABI_VERSION {
        return Err(DecodeError::Abi(header.abi));
    }
    let kind = Kind::try_from(header.kind).map_err(|value| unknown("kind", value.into()))?;
    let body = match kind {
        Kind::Exec => exec(bytes)?,
        Kind::Fork => fork(&front(bytes)?),
        Kind::Exit => Body::Exit { code: front::<raw_exec::Exit>(bytes)?.code },
        Kind::Connect => connect(&front(bytes)?)?,
        Kind::Open => open(&front(bytes)?)?,
        Kind::Payload => payload(&front(bytes)?),
        Kind::Cgroup => cgroup(&front(bytes)?),
        Kind::Moved => moved(&front(bytes)?),
        Kind::UnixConnect => unix_connect(&front(bytes)?),
        Kind::Tamper => tamper(&front(bytes)?)?,
        Kind::Reach => reach(&front(bytes)?)?,
        Kind::UnixPeer => unix_peer(&front(bytes)?),
        Kind::Again => again(&front(bytes)?),
    };
    Ok(Event {
        id: u64::from(header.cpu) << 48 | header.seq & 0xffff_ffff_ffff,
        time_ns: header.time_ns,
        process: ProcessKey { tgid: header.tgid, start_ns: header.start_ns },
        tid: header.tid,
        uid: header.uid,
        container: header.container,
        verdict: Verdict::try_from(header.verdict).map_err(|v| unknown("verdict", v.into()))?,
        reason: Reason::try_from(header.reason).map_err(|v| unknown("reason", v.into()))?,
        rung: Rung::try_from(header.rung).map_err(|v| unknown("rung", v.into()))?,
        peer_tgid: nonzero(header.peer_tgid),
        body,
    })
}

const fn unknown(what: &'static str, value: u32) -> DecodeError {
    DecodeError::Unknown { what, value }
}

pub(super) fn front<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Result<T, DecodeError> {
    let needed = size_of::<T>();
    bytes.get(..needed).map(bytemuck::pod_read_unaligned).ok_or(DecodeError::Short { got: bytes.len(), needed })
}

const fn nonzero(value: u32) -> Option<u32> {
    if value == 0 { None } else { Some(value) }
}

/// A NUL-padded field as text.
fn text(bytes: &[u8]) -> SmolStr {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into()
}

fn file(raw: &FileRef) -> File {
    let depth = (raw.depth as usize).min(COMPONENTS);
    let mut path = SmolStrBuilder::new();
    if raw.flags & FILE_PATH_CUT != 0 {
        path.push('…');
    }
    for name in raw.names[..depth].iter().rev() {
        path.push('/');
        // A component taken out of a whole path goes on after its end.
        path.push_str(text(name).split('/').next().unwrap_or_default());
    }
    if depth == 0 && raw.flags & FILE_PATH_CUT == 0 {
        path.push('/');
    }
    File {
        inode: Inode { dev: raw.dev, ino: raw.ino },
        mode: raw.mode,
        size: raw.size,
        flags: raw.flags,
        magic: raw.magic,
        path: path.finish(),
    }
}

fn peer(raw: &raw_net::Peer) -> Option<SocketAddr> {
    (raw.family != 0).then(|| canonical(raw.addr, raw.port))
}

fn origin(raw: &state::Origin) -> Option<Origin> {
    (raw.tgid != 0).then(|| Origin {
        process: ProcessKey { tgid: raw.tgid, start_ns: raw.start_ns },
        hops: raw.hops,
        peer: peer(&raw.peer),
        time_ns: raw.time_ns,
    })
}

fn stdio(raw: &raw_exec::Stdio) -> Stdio {
    let inode = Inode { dev: raw.dev, ino: raw.ino };
    match raw.kind {
        raw_exec::STDIO_NONE => Stdio::None,
        raw_exec::STDIO_TTY => Stdio::Tty,
        raw_exec::STDIO_FILE => Stdio::File(inode),
        raw_exec::STDIO_DEVICE => Stdio::Device,
        raw_exec::STDIO_PIPE => Stdio::Pipe(inode),
        raw_exec::STDIO_INET_OUT => Stdio::InetOut(canonical(raw.peer.addr, raw.peer.port)),
        raw_exec::STDIO_INET_OTHER => Stdio::InetOther(peer(&raw.peer)),
        raw_exec::STDIO_UNIX => Stdio::Unix(inode),
        _ => Stdio::Other,
    }
}

fn three(raw: &[raw_exec::Stdio; 3]) -> [Stdio; 3] {
    [stdio(&raw[0]), stdio(&raw[1]), stdio(&raw[2])]
}

fn exec(bytes: &[u8]) -> Result<Body, DecodeError> {
    let raw: raw_exec::Exec = front(bytes)?;
    let area = &bytes[size_of::<raw_exec::Exec>()..];
    let head = (raw.args_len as usize).min(area.len());
    let mut args = arguments(&area[..head]);
    if raw.args_tail != 0 && raw.args_tail as usize <= raw_exec::ARGS_TAIL {
        let from = raw_exec::ARGS_HEAD.min(area.len());
        let to = (from + raw.args_tail as usize).min(area.len());
        args.push("…".into());
        args.extend(arguments(&area[from..to]));
    }
    Ok(Body::Exec(Box::new(Exec {
        parent: ProcessKey { tgid: raw.parent_tgid, start_ns: raw.parent_start_ns },
        flags: raw.flags,
        task_flags: raw.task_flags,
        form: Form::from_u32(raw.form),
        exe: file(&raw.exe),
        fingerprint: raw.fingerprint,
        stdio: three(&raw.stdio),
        origin: origin(&raw.origin),
        comm: text(&raw.comm),
        filename: text(&raw.filename),
        args: args.into(),
        args_cut: raw.flags & raw_exec::EXEC_ARGS_CUT != 0,
    })))
}

fn arguments(block: &[u8]) -> Vec<SmolStr> {
    let block = block.strip_suffix(&[0]).unwrap_or(block);
    if block.is_empty() {
        return Vec::new();
    }
    block.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into()).collect()
}

fn fork(raw: &raw_exec::Fork) -> Body {
    Body::Fork { parent: ProcessKey { tgid: raw.parent_tgid, start_ns: raw.parent_start_ns }, comm: text(&raw.comm) }
}

/// What it runs is not in the record: who remembers the start that was told in full puts that in ([`super::again`]).
fn again(raw: &raw_exec::Again) -> Body {
    Body::Fork { parent: ProcessKey { tgid: raw.parent_tgid, start_ns: raw.parent_start_ns }, comm: SmolStr::default() }
}

fn connect(raw: &raw_net::Connect) -> Result<Body, DecodeError> {
    let op = match raw.op {
        raw_net::OP_CONNECT => ConnectOp::Connect,
        raw_net::OP_SENDTO => ConnectOp::SendTo,
        raw_net::OP_LISTEN => ConnectOp::Listen,
        raw_net::OP_FASTOPEN => ConnectOp::FastOpen,
        other => return Err(unknown("connect operation", other)),
    };
    Ok(Body::Connect(Connect {
        peer: canonical(raw.peer.addr, raw.peer.port),
        protocol: raw.peer.protocol,
        cookie: raw.cookie,
        op,
        task_flags: raw.task_flags,
        sink_tgid: nonzero(raw.sink_tgid),
        comm: text(&raw.comm),
    }))
}

fn open(raw: &monitor_common::file::Open) -> Result<Body, DecodeError> {
    let sensitive = u8::try_from(raw.sensitive)
        .ok()
        .and_then(|code| Reason::try_from(code).ok())
        .ok_or(unknown("sensitive class", raw.sensitive))?;
    Ok(Body::Open(Box::new(Open {
        file: file(&raw.file),
        origin: if raw.file.flags & monitor_common::file::FILE_TAINTED != 0 { origin(&raw.origin) } else { None },
        sensitive,
        task_flags: raw.task_flags,
    })))
}

fn payload(raw: &raw_net::Payload) -> Body {
    let len = (raw.len as usize).min(raw_net::PAYLOAD_LEN);
    Body::Payload(Box::new(Payload {
        peer: canonical(raw.peer.addr, raw.peer.port),
        protocol: raw.peer.protocol,
        cookie: raw.cookie,
        inbound: raw.inbound != 0,
        index: raw.index,
        segment: raw.segment,
        data: raw.data[..len].to_vec(),
    }))
}

fn cgroup(raw: &state::CgroupChange) -> Body {
    Body::Cgroup(Cgroup {
        id: raw.header.container,
        parent: raw.parent,
        gone: raw.gone != 0,
        hierarchy: raw.hierarchy,
        path: text(&raw.path).into(),
    })
}

fn moved(raw: &raw_exec::Moved) -> Body {
    Body::Moved { stdio: three(&raw.stdio), task_flags: raw.task_flags }
}

fn unix_connect(raw: &raw_net::UnixConnect) -> Body {
    Body::UnixConnect { name: text(&raw.name), known: raw.known != 0 }
}

fn unix_peer(raw: &raw_net::UnixPeer) -> Body {
    Body::UnixPeer { listener: raw.header.peer_tgid }
}

fn tamper(raw: &raw_own::Tamper) -> Result<Body, DecodeError> {
    let attempt = raw_own::Attempt::try_from(raw.attempt).map_err(|value| unknown("attempt", value))?;
    Ok(Body::Tamper { attempt, detail: raw.detail, object: raw.object })
}

fn reach(raw: &raw_reach::Reach) -> Result<Body, DecodeError> {
    let what = match raw.what {
        raw_reach::REACH_SETNS => Reached::Namespace(raw.number),
        raw_reach::REACH_MOUNT => Reached::Mount {
            source: text(&raw.source).into(),
            target: text(&raw.target).into(),
            user_namespace: raw.number,
        },
        raw_reach::REACH_MODULE => Reached::Module,
        raw_reach::REACH_BPF => Reached::Bpf(raw.number),
        raw_reach::REACH_TRACE => Reached::Trace { container: raw.number, tgid: raw.header.peer_tgid },
        other => return Err(unknown("reach", other)),
    };
    let (level, failed) = (raw.level, raw.failed != 0);
    Ok(Body::Reach(Box::new(Reach { what, task_flags: raw.task_flags, level, failed })))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    fn header(kind: Kind, len: usize) -> Header {
        Header {
            abi: ABI_VERSION,
            kind: kind as u16,
            len: len as u32,
            tgid: 7,
            start_ns: 9,
            cpu: 3,
            seq: 5,
            ..Header::zeroed()
        }
    }

    #[test]
    fn an_exec_comes_back_whole() {
        let mut raw = raw_exec::Exec::zeroed();
        raw.header = header(Kind::Exec, 0);
        raw.exe.depth = 2;
        raw.exe.names[0][..4].copy_from_slice(b"bash");
        raw.exe.names[1][..3].copy_from_slice(b"bin");
        raw.args_len = 8;
        let mut bytes = bytemuck::bytes_of(&raw).to_vec();
        bytes.extend(b"bash\0-i\0garbage");
        let event = decode(&bytes).unwrap();
        assert_eq!(event.id, 3 << 48 | 5);
        assert_eq!(event.process, ProcessKey { tgid: 7, start_ns: 9 });
        let Body::Exec(exec) = event.body else { panic!("not an exec") };
        assert_eq!((exec.exe.path.as_str(), &*exec.args), ("/bin/bash", &["bash".into(), "-i".into()][..]));
    }

    #[test]
    fn another_abi_is_refused() {
        let mut raw = raw_exec::Exit::zeroed();
        raw.header = Header { abi: ABI_VERSION + 1, ..header(Kind::Exit, 0) };
        assert_eq!(decode(bytemuck::bytes_of(&raw)).unwrap_err(), DecodeError::Abi(ABI_VERSION + 1));
    }

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let mut raw = raw_net::Connect::zeroed();
        raw.header = header(Kind::Connect, 0);
        raw.peer.family = 2;
        raw.peer.port = 4444;
        raw.peer.addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 66];
        let Body::Connect(connect) = decode(bytemuck::bytes_of(&raw)).unwrap().body else { panic!("not a connect") };
        assert_eq!(connect.peer.to_string(), "203.0.113.66:4444");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..7000)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn random_bodies_never_panic(kind in 1u16..=12, mut bytes in proptest::collection::vec(any::<u8>(), 64..7000)) {
            bytes[0..2].copy_from_slice(&ABI_VERSION.to_le_bytes());
            bytes[2..4].copy_from_slice(&kind.to_le_bytes());
            let _ = decode(&bytes);
        }
    }
}
