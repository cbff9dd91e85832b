//! Credentials are opened by a program that has no business with them: account databases, private keys and
//! cloud tokens by shells and copying tools, another process' memory; or they leave over a connection.

use super::Detector;
use super::context::Context;
use crate::event::{Body, Event, File, Form, HOST, Kind, Open, Payload, Reason, file, last_component, state};
use crate::finding::{Detection, FindingKind};
use crate::provenance::Process;
use smol_str::SmolStr;

/// File system of /proc (include/uapi/linux/magic.h).
const PROC: u32 = 0x9fa0;
/// Tools that carry a file's bytes elsewhere and know nothing of their meaning.
const COPIERS: &[&str] = &[
    "cat", "tac", "cp", "mv", "dd", "tar", "cpio", "zip", "7z", "gzip", "xz", "base64", "base32", "od", "xxd",
    "hexdump", "strings", "head", "tail", "less", "more", "grep", "egrep", "sed", "awk", "gawk", "mawk", "cut", "tee",
    "sort", "curl", "wget", "nc", "ncat", "socat", "rsync", "openssl", "busybox", "toybox", "diff", "nl", "paste",
];
/// Of these, the ones that take whole trees with them.
const ARCHIVERS: &[&str] = &["tar", "bsdtar", "cpio", "zip", "7z", "rsync", "cp", "diff"];
/// And the ones that look through them.
const SEARCHERS: &[&str] = &["grep", "egrep", "rg", "ag", "ack"];
/// Programs that look into others' memory by design.
const DEBUGGERS: &[&str] =
    &["gdb", "gdbserver", "lldb", "lldb-server", "strace", "ltrace", "dlv", "rr", "perf", "crash", "criu"];
/// What an account database or a private key begins with: one of two bytes.
const TELLTALES: &[&[u8]] =
    &[b"root:x:0:0:", b"root:$", b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----BEGIN RSA PRIVATE KEY-----"];

/// See the module.
pub struct CredentialAccess;

impl Detector for CredentialAccess {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Open, Kind::Payload]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        if event.container == HOST {
            return None;
        }
        match &event.body {
            Body::Open(open) if open.sensitive == Reason::Watched => opened(event, open, cx),
            Body::Payload(payload) if !payload.inbound => sent(event, payload, cx),
            _ => None,
        }
    }
}

fn opened(event: &Event, open: &Open, cx: &Context<'_>) -> Option<Detection> {
    if state::may_install(open.task_flags) {
        return None;
    }
    let process = cx.process(event)?;
    let (what, holds) = match open.file.name() {
        "mem" => {
            let foreign = is_foreign_memory(event, open, process, cx);
            return foreign.then(|| tell(event, open, "process_memory", "another process' memory", cx));
        }
        "shadow" | "shadow-" | "gshadow" | "master.passwd" => ("account_database", "the accounts' password hashes"),
        "nr_hugepages" | "msr" => return None,
        // Putting one into place is set-up.
        _ if open.file.has(file::FILE_WRITE) => return None,
        _ => ("private_key", "a private key or token"),
    };
    let accounts = what == "account_database";
    // An application uses its own key or token; none has use for the hashes of accounts. Perl looks at them
    // whenever it asks for an account.
    let interpreter = accounts && process.has(state::TASK_INTERPRETER) && !is_perl_script(process);
    let foreign = process.has(state::TASK_DRIFT | state::TASK_EXE_TAINTED);
    let carries = process.has(state::TASK_SHELL) || is_copier(process) && !is_swept_up(process, &open.file);
    (interpreter || foreign || carries).then(|| tell(event, open, what, holds, cx))
}

fn is_perl_script(process: &Process) -> bool {
    process.program.name().starts_with("perl") && process.program.form == Form::Script
}

fn is_copier(process: &Process) -> bool {
    let recursive = |arg: &SmolStr| {
        arg == "--recursive" || arg.starts_with('-') && !arg.starts_with("--") && arg.contains(['r', 'R'])
    };
    is_named(process, COPIERS) && !(is_named(process, SEARCHERS) && process.program.args.iter().any(recursive))
}

fn is_named(process: &Process, list: &[&str]) -> bool {
    list.contains(&process.program.name()) || list.contains(&process.comm.as_str())
}

/// Is the file only one of a tree that is copied, as backups do: `tar cf x /etc`, `rsync -a / …`? A home, or a folder of
/// credentials, is what it is copied for.
fn is_swept_up(process: &Process, file: &File) -> bool {
    if !is_named(process, ARCHIVERS) {
        return false;
    }
    let path: Vec<&str> = file.path.rsplit('/').collect();
    let own = if path.get(1) == Some(&"etc") { 1 } else { 3 };
    let (near, above) = path.split_at(own.min(path.len()));
    let operands = || process.program.args.iter().skip(1).filter_map(|arg| folder_name(arg));
    operands().any(|name| above.contains(&name)) && !operands().any(|name| near.contains(&name))
}

/// Last name of a path; none for the root, nothing for what only stands for where it is.
fn folder_name(arg: &str) -> Option<&str> {
    let path = arg.strip_suffix("/.").unwrap_or(arg);
    match last_component(path.trim_end_matches('/')) {
        "" if path.starts_with('/') || arg == "/." => Some(""),
        "" | "." | ".." => None,
        name => Some(name),
    }
}

/// `/proc/N/mem` of somebody else, for writing; or for reading by a program that can be anything, or that only carries
/// bytes elsewhere.
fn is_foreign_memory(event: &Event, open: &Open, process: &Process, cx: &Context<'_>) -> bool {
    if open.file.magic != PROC || Context::is_from_image(process) && DEBUGGERS.contains(&process.program.name()) {
        return false;
    }
    let own = cx.containers.inner_pid(event.process.tgid).or(Some(event.process.tgid));
    if owner(&open.file) == own {
        return false;
    }
    let any = process.has(state::TASK_SHELL | state::TASK_INTERPRETER | state::TASK_DRIFT | state::TASK_EXE_TAINTED);
    open.file.has(file::FILE_WRITE) || any || is_copier(process)
}

/// The process that a file of /proc belongs to.
fn owner(file: &File) -> Option<u32> {
    file.path.trim_start_matches(['…', '/']).split('/').next()?.parse().ok()
}

fn tell(event: &Event, open: &Open, what: &str, holds: &str, cx: &Context<'_>) -> Detection {
    let for_writing = if open.file.has(file::FILE_WRITE) { " for writing" } else { "" };
    let path = &open.file.path;
    let message = format!("{} opens {path}{for_writing}, which holds {holds}", cx.describe(event.process));
    let detail = format!("{path} opened{for_writing}");
    let mut detection =
        Detection::new(FindingKind::CredentialAccess, event.process, message).with(event.id, what, 0, detail);
    detection.file = Some(path.to_string());
    detection
}

fn sent(event: &Event, payload: &Payload, cx: &Context<'_>) -> Option<Detection> {
    let data = payload.data.as_slice();
    let begins = |at: usize| TELLTALES.iter().any(|telltale| data[at..].starts_with(telltale));
    (0..data.len()).find(|at| matches!(data[*at], b'r' | b'-') && begins(*at))?;
    let message = format!("{} sends accounts or a private key to {}", cx.describe(event.process), payload.peer);
    let detail = format!("{} bytes to {}", payload.segment, payload.peer);
    let mut detection = Detection::new(FindingKind::CredentialAccess, event.process, message).with(
        event.id,
        "credentials_sent",
        0,
        detail,
    );
    detection.peer = Some(payload.peer);
    Some(detection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::testing::{Lab, kinds, open};
    use FindingKind::CredentialAccess as Found;

    fn read(lab: &mut Lab, pid: u32, path: &str, flags: u32) -> Vec<FindingKind> {
        let mut body = open(path, flags | file::FILE_SENSITIVE, 0);
        body.file.magic = if path.ends_with("/mem") { PROC } else { 0 };
        body.sensitive = Reason::Watched;
        body.task_flags = lab.table.get(Lab::key(pid)).map_or(0, |p| p.task_flags);
        kinds(&lab.act(pid, Body::Open(Box::new(body))))
    }

    fn reads(args: &[&str], path: &str) -> Vec<FindingKind> {
        let mut lab = Lab::new();
        lab.exec(20, 9, args);
        read(&mut lab, 20, path, 0)
    }

    #[test]
    fn who_reads_password_hashes() {
        assert_eq!(reads(&["cat", "/etc/shadow"], "/etc/shadow"), [Found]);
        assert_eq!(reads(&["python3", "-c", "x"], "/etc/shadow"), [Found]);
        assert_eq!(reads(&["sh", "-c", "x"], "/etc/shadow-"), [Found]);
        for honest in [&["su", "-"][..], &["sshd"], &["perl", "/usr/sbin/deluser"], &["grep", "-rs", "x", "/etc"]] {
            assert!(reads(honest, "/etc/shadow").is_empty(), "{honest:?}");
        }
        let mut lab = Lab::new();
        lab.exec_with(20, 9, &["/tmp/su"], |exec| exec.task_flags |= state::TASK_DRIFT);
        assert_eq!(read(&mut lab, 20, "/etc/shadow", 0), [Found], "not the image's su");
    }

    #[test]
    fn who_reads_keys() {
        assert_eq!(reads(&["tar", "cf", "-", "/root"], "/root/.ssh/id_rsa"), [Found]);
        for honest in [&["ssh", "host"][..], &["python3", "app.py"], &["git", "pull"]] {
            assert!(reads(honest, "/root/.ssh/id_rsa").is_empty(), "{honest:?}");
        }
    }

    #[test]
    fn backups_take_whole_trees() {
        let (shadow, key) = ("/etc/shadow", "/home/lab/.ssh/id_rsa");
        for backup in [
            &["tar", "czf", "/b/etc.tgz", "/etc"][..],
            &["tar", "cf", "-", "-C", "/", "etc"],
            &["rsync", "-a", "/etc/", "/b/r/"],
            &["cp", "-a", "/etc/.", "/b"],
            &["tar", "cf", "-", "/"],
        ] {
            assert!(reads(backup, shadow).is_empty(), "{backup:?}");
        }
        assert!(reads(&["rsync", "-a", "/home/", "b:/home/"], key).is_empty());
        assert!(reads(&["tar", "cf", "-", "/"], key).is_empty());
        for (taken, path) in [
            (&["tar", "cz", "/etc/shadow", "/etc"][..], shadow),
            (&["cp", "/etc/shadow", "/tmp/s"], shadow),
            (&["tar", "cf", "-", "."], shadow),
            (&["cat", "/etc"], shadow),
            (&["cp", "-r", "/home/lab/.ssh", "/"], key),
            (&["tar", "cf", "-", "-C", "/", "home/lab"], key),
            (&["tar", "cf", "-", "/home/lab/"], key),
        ] {
            assert_eq!(reads(taken, path), [Found], "{taken:?}");
        }
    }

    #[test]
    fn memory() {
        let mut lab = Lab::new();
        lab.exec(20, 9, &["/usr/bin/dumper"]);
        assert!(read(&mut lab, 20, "/20/mem", file::FILE_WRITE).is_empty(), "its own");
        assert!(read(&mut lab, 20, "/77/mem", 0).is_empty());
        assert_eq!(read(&mut lab, 20, "/77/mem", file::FILE_WRITE), [Found]);
        assert_eq!(reads(&["python3", "-c", "x"], "/77/mem"), [Found]);
        assert_eq!(reads(&["dd", "if=/proc/77/mem"], "/77/mem"), [Found]);
        assert!(reads(&["grep", "-rs", "x", "/proc"], "/77/mem").is_empty());
        lab.exec(21, 9, &["gdb", "-p", "77"]);
        assert!(read(&mut lab, 21, "/77/mem", file::FILE_WRITE).is_empty());
        assert!(read(&mut lab, 21, "/dev/cpu/0/msr", file::FILE_WRITE).is_empty());
    }

    #[test]
    fn what_leaves() {
        let mut lab = Lab::new();
        let body = b"--x\r\n\r\nroot:x:0:0:root:/root:/bin/bash\n";
        assert_eq!(kinds(&lab.payload(9, "203.0.113.66:8220", 1, false, body)), [Found]);
        assert!(Lab::new().payload(9, "203.0.113.66:8220", 1, true, body).is_empty(), "received");
        assert!(Lab::new().payload(9, "203.0.113.66:8220", 1, false, b"user=root&id=0").is_empty());
    }
}
