//! As much of Docker's API as the daemon asks for, about cgroups that no engine made. Their label alone puts them into
//! `protect`: nothing else on the machine is acted upon.

use anyhow::{Context, Result};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// Serves a list of containers of one image; it ends with the process.
pub fn serve(socket: &Path, image: &str, ids: &[&str]) -> Result<()> {
    let listener = UnixListener::bind(socket).context("listen as an engine")?;
    let one = |id: &&str| {
        serde_json::json!({
            "Id": id, "Names": [format!("/{}", id.get(..12).unwrap_or(id))], "Image": image, "ImageID": "",
            "State": "running", "Labels": { "bulkhead.mode": "protect" },
        })
    };
    let list: Arc<str> = serde_json::Value::from_iter(ids.iter().map(one)).to_string().into();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let list = Arc::clone(&list);
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
        let target = request.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
        let (status, body) = match target.rsplit('/').next().unwrap_or_default() {
            "version" => ("200 OK", r#"{"ApiVersion":"1.41","Version":"20.10.24"}"#),
            "info" => ("200 OK", r#"{"DockerRootDir":"/nonexistent","ServerVersion":"20.10.24"}"#),
            "json" if target.ends_with("/containers/json") => ("200 OK", list),
            "events" => {
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
