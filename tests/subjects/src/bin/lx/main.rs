//! `lx VERB …`: exec and relay kit. Each verb starts a shell, a program or a connection in one of the ways
//! that detectors have been blind to. The shells read only what the lab's listener sends; everything talks to
//! lab addresses only and ends within 90 seconds.
//!
//! Exit status: the shell's where one is run, 1 when something was refused, 64 on bad usage.

mod fileless;
mod outside;
mod relays;
mod shells;
mod traffic;

use std::io::Write;
use std::process::ExitCode;
use subjects::uring;

/// What a verb came to, or why it did not.
type Outcome = Result<(), String>;

const USAGE: &str = "usage: lx VERB ARGS
  dup2shell ADDR:PORT       connect, dup2 to 0-2, exec /bin/sh
  fdupshell ADDR:PORT       the same with close and fcntl(F_DUPFD)
  vforkshell ADDR:PORT      the shell as a CLONE_VFORK child
  dblforkshell ADDR:PORT    fork, setsid, fork; the middle exits; then connect
  tfoshell ADDR:PORT        connection by TCP Fast Open
  scmshell ADDR:PORT        the socket is handed to another process over AF_UNIX
  piperelay ADDR:PORT       shell on pipes, relayed to the socket
  udpshell ADDR:PORT [LINE] shell on pipes, relayed over unconnected UDP
  icmpshell ADDR [LINE]     shell on pipes, relayed over ICMP echo
  memexec PROGRAM ARGS      run PROGRAM's bytes from a memfd
  ulexec                    code from an anonymous mapping, without exec
  setns PID FILE            join the mount namespace of PID, make FILE there
  badmodule                 offer the kernel an empty file as a module
  uringconn ADDR:PORT [--send-login]   socket, connect, send through io_uring
  uringwrite PATH [HOW ...] open and write through io_uring: openat2, direct, chain, polled, worker, silent,
                            uncached, existing, warm
  uringsave ADDR:PORT PATH [HOW ...]   write likewise what a listener sends first
  uringname rename|link|symlink FROM TO   the same for names
  uringask PATH             connect to a socket file through io_uring and ask for the version
  flood [--exec N] [--open N] [-- COMMAND]   failing execs and opens, then COMMAND
  beacon [--every SEC] [--count N] ADDR:PORT
  scan --port N NETWORK/BITS";

fn main() -> ExitCode {
    subjects::life::end_after(subjects::life::LIMIT);
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    match run(&args) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(err)) => {
            complain(&err);
            ExitCode::FAILURE
        }
        None => {
            complain(USAGE);
            ExitCode::from(64)
        }
    }
}

fn run(args: &[&str]) -> Option<Outcome> {
    Some(match *args {
        ["dup2shell", addr] => shells::dup2(addr),
        ["fdupshell", addr] => shells::fdup(addr),
        ["vforkshell", addr] => shells::vfork(addr),
        ["dblforkshell", addr] => shells::double_fork(addr),
        ["tfoshell", addr] => shells::fast_open(addr),
        ["scmshell", addr] => shells::handed_over(addr),
        ["piperelay", addr] => relays::pipes(addr),
        ["udpshell", addr] => relays::udp(addr, "hello"),
        ["udpshell", addr, greeting] => relays::udp(addr, greeting),
        ["icmpshell", addr] => relays::icmp(addr, "hello"),
        ["icmpshell", addr, greeting] => relays::icmp(addr, greeting),
        ["ulexec"] => fileless::mapped(),
        ["setns", pid, path] => outside::join(pid, path),
        ["badmodule"] => outside::module(),
        ["memexec", program, ref rest @ ..] => fileless::memfd(program, rest),
        ["uringconn", addr] => uring::connect(addr, false),
        ["uringconn", addr, "--send-login"] => uring::connect(addr, true),
        ["uringask", path] => uring::ask(path),
        ["uringwrite", path, ref how @ ..] => return uring::write(path, how),
        ["uringsave", addr, path, ref how @ ..] => return uring::save(addr, path, how),
        ["uringname", verb, from, to] => return uring::name(verb, from, to),
        ["flood", ref rest @ ..] => traffic::flood(rest),
        ["beacon", ref rest @ ..] => traffic::beacon(rest),
        ["scan", ref rest @ ..] => traffic::scan(rest),
        _ => return None,
    })
}

/// Writes to standard error if there is one: `eprintln!` would panic where it is closed.
fn complain(message: &str) {
    drop(writeln!(std::io::stderr(), "lx: {message}"));
}

/// Adapter for `map_err`: what was tried, and why it failed.
fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    move |err| format!("{what}: {err}")
}
