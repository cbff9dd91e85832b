//! Noise and network patterns: event floods, beacons, scans.

use crate::{Outcome, failed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Longest wait for an answer to a beacon.
const ANSWER: Duration = Duration::from_secs(2);

/// Most hosts a scan touches.
const MAX_HOSTS: u32 = 1024;

/// Sockets a scan holds at a time.
const BATCH: usize = 64;

/// Failing execs and opens, then the command.
pub fn flood(args: &[&str]) -> Outcome {
    let (flags, command) = match args.iter().position(|arg| *arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[][..]),
    };
    let (mut execs, mut opens) = (0_u32, 0_u32);
    for pair in flags.chunks(2) {
        match *pair {
            ["--exec", count] => execs = number(count)?,
            ["--open", count] => opens = number(count)?,
            _ => return Err(format!("flood: {}: unknown", pair.join(" "))),
        }
    }
    for _ in 0..execs {
        // Fails: that is the noise.
        drop(Command::new("/nonexistent/lab").exec());
    }
    for _ in 0..opens {
        drop(std::fs::File::open("/etc/hostname"));
    }
    match command {
        [] => Ok(()),
        [program, rest @ ..] => Err(failed(program)(Command::new(program).args(rest).exec())),
    }
}

/// A few bytes to the same address at regular times.
pub fn beacon(args: &[&str]) -> Outcome {
    let (mut every, mut count, mut target) = (5_u64, 3_u32, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().copied().ok_or_else(|| format!("{arg}: value missing"));
        match *arg {
            "--every" => every = number(value()?)?,
            "--count" => count = number(value()?)?,
            addr => target = Some(addr),
        }
    }
    let target = target.ok_or("beacon: no address")?;
    let addr = subjects::addr::resolve(target).map_err(|err| err.to_string())?;
    for round in 0..count {
        if round > 0 {
            std::thread::sleep(Duration::from_secs(every));
        }
        let mut stream = TcpStream::connect(addr).map_err(failed(target))?;
        stream.set_read_timeout(Some(ANSWER)).map_err(failed(target))?;
        stream.write_all(b"GET /beat HTTP/1.0\r\n\r\n").map_err(failed(target))?;
        // A beacon does not care what comes back.
        drop(stream.read(&mut [0; 512]));
    }
    Ok(())
}

/// A connect scan: one port on every host of an IPv4 network of the lab.
pub fn scan(args: &[&str]) -> Outcome {
    let ["--port", port, network] = *args else {
        return Err("scan: --port N NETWORK/BITS".into());
    };
    let port: u16 = number(port)?;
    let (base, bits) = network.split_once('/').ok_or("scan: NETWORK/BITS")?;
    let base: Ipv4Addr = base.parse().map_err(failed(base))?;
    let bits: u32 = number(bits)?;
    let hosts = 1_u32.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(u32::MAX).min(MAX_HOSTS);
    let targets = (0..hosts).filter_map(|host| base.to_bits().checked_add(host).map(Ipv4Addr::from_bits));
    let mut open = Vec::new();
    for ip in targets {
        if !subjects::addr::allowed(ip.into()) {
            return Err(format!("{ip} is outside the lab's ranges, refused"));
        }
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None)
            .map_err(failed("socket"))?;
        // In progress, refused or denied: the attempt is the point.
        let _ = connect(&socket, &SocketAddr::from((ip, port)));
        open.push(socket);
        if open.len() == BATCH {
            settle(&mut open)?;
        }
    }
    settle(&mut open)
}

/// Gives a batch a tenth of a second to connect, then lets it go.
fn settle(open: &mut Vec<rustix::fd::OwnedFd>) -> Outcome {
    let mut polled = open.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)).collect::<Vec<_>>();
    let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    poll(&mut polled, Some(&tenth)).map_err(failed("poll"))?;
    open.clear();
    Ok(())
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value}: not a number"))
}
