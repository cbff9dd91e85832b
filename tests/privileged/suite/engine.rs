//! As much of Docker's API as the daemon asks for, about containers that the harness made: labels reach
//! the kernel half the way they do on a real host, without an engine.

use crate::container::{Container, Group};
use crate::daemon::{Daemon, Settings, is_alert, outcome};
use crate::faults::attack_works;
use crate::pace;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Serves the list of containers; it ends with the process.
pub fn serve(socket: &Path, list: &str) -> Result<()> {
    let listener = UnixListener::bind(socket).context("listen as an engine")?;
    let list = list.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let list = list.clone();
            std::thread::spawn(move || answer(&stream, &list));
        }
    });
    Ok(())
}

/// Answers one client's requests until it hangs up.
fn answer(stream: &UnixStream, list: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let target = request.split(' ').nth(1).unwrap_or("").split('?').next().unwrap_or("");
        let (status, body) = match target {
            _ if target.ends_with("/version") => ("200 OK", r#"{"ApiVersion":"1.41","Version":"20.10.24"}"#),
            _ if target.ends_with("/info") => {
                ("200 OK", r#"{"DockerRootDir":"/nonexistent","ServerVersion":"20.10.24"}"#)
            }
            _ if target.ends_with("/containers/json") => ("200 OK", list),
            _ if target.ends_with("/stop") && list.contains(target.split('/').rev().nth(1).unwrap_or("?")) => {
                ("204 No Content", "")
            }
            _ if target.ends_with("/events") => {
                // A stream in which nothing ever comes.
                writer.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
                )?;
                continue;
            }
            _ => ("404 Not Found", r#"{"message":"unknown"}"#),
        };
        let length = body.len();
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
    }
}

/// `bulkhead.mode=off` takes one container out of a protected host, and only that one.
pub fn policy_off_label() -> Result<()> {
    let group = Group::make()?;
    let (off, other) = (Container::start(&group)?, Container::start(&group)?);
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("engine.sock");
    let entry = |id: &str, name: &str, labels: &str| {
        format!(
            r#"{{"Id":"{id}","Names":["/{name}"],"Image":"tomcat","ImageID":"sha256:x","State":"running","Labels":{{{labels}}}}}"#
        )
    };
    let labelled = entry(off.id(), "labelled", r#""bulkhead.mode":"off""#);
    serve(&socket, &format!("[{labelled},{}]", entry(other.id(), "other", "")))?;
    let engine = format!("docker = true\ndocker_socket = \"{}\"", socket.display());
    let daemon = Daemon::start(&group, &Settings { engine, ..Settings::mode("protect") })?;
    // Until the engine has told the label, the container is protected like any other.
    let deadline = Instant::now() + pace::wait(Duration::from_secs(8));
    while !attack_works(&off)? {
        ensure!(Instant::now() < deadline, "the label is not heeded:\n{}", daemon.log());
    }
    let about_off = || daemon.rows().iter().filter(|row| is_alert(row, "reverse_shell", off.id())).count();
    let before = about_off();
    ensure!(attack_works(&off)?, "protected again");
    ensure!(!attack_works(&other)?, "the label of one container reached another");
    let alert = daemon.await_alert("reverse_shell", other.id())?;
    ensure!(outcome(&alert) == "killed" && alert["container"]["name"] == "other", "{alert}");
    ensure!(about_off() == before, "a container that is off was alerted on");
    Ok(())
}
