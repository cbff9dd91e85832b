//! `fm`: a fake miner. It behaves like one as far as a monitor can see (arguments, names, connection, first
//! messages, CPU) and mines nothing. It talks to lab addresses only and ends within 90 seconds.
//!
//! Exit status: 0 after a full run, 1 when the pool could not be reached or the connection was refused,
//! 64 on bad usage.

mod disguise;
mod load;
mod options;
mod stratum;
mod transport;

use options::Options;
use std::io::{self, Read};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    subjects::life::end_after(subjects::life::LIMIT);
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(err) => {
            complain(&err);
            return ExitCode::from(64);
        }
    };
    if options.clobber_argv {
        disguise::clobber_argv();
    }
    if let Some(name) = &options.name {
        disguise::rename(name);
    }
    match mine(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            complain(&err);
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard error if there is one: `eprintln!` would panic where it is closed.
fn complain(message: &str) {
    use io::Write;
    drop(writeln!(io::stderr(), "fm: {message}"));
}

fn mine(options: &Options) -> Result<(), String> {
    let until = Instant::now() + options.burn.min(subjects::life::LIMIT);
    let block = load::memory(options.memory);
    load::tune(options);
    load::start(options, until);
    let first = first_bytes(options);
    let (mut stream, sent) = transport::connect(options, &first)?;
    let pool = options.pool.as_deref().unwrap_or_default();
    talk(options, &mut stream, if sent { &[] } else { &first }, until).map_err(|err| format!("{pool}: {err}"))?;
    std::hint::black_box(&block);
    Ok(())
}

fn first_bytes(options: &Options) -> Vec<u8> {
    if !options.tls {
        return stratum::greeting(options);
    }
    let pool = options.pool.as_deref().unwrap_or_default();
    let host = pool.rsplit_once(':').map_or(pool, |(host, _)| host);
    stratum::client_hello(options.sni.as_deref().unwrap_or(host))
}

/// Says what is left to say, then keeps the connection until `until`: reads what the pool sends, and
/// answers the first of it as a miner would.
fn talk(options: &Options, stream: &mut TcpStream, first: &[u8], until: Instant) -> io::Result<()> {
    transport::send(options, stream, first)?;
    let mut answered = options.tls;
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer) {
            Ok(0) => {
                // The pool hung up: the rest of the time is spent burning, as told.
                std::thread::sleep(left);
                return Ok(());
            }
            Ok(_) if !answered => {
                answered = true;
                transport::send(options, stream, &stratum::keepalive(options))?;
            }
            Ok(_) => {}
            Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(err) => return Err(err),
        }
    }
}
