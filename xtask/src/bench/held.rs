//! `cargo xtask bench --held`: does it cost more to hold containers to baselines when there are more rules and more
//! containers? A few entries and one container against many of both, in turn; and against the same container without a
//! baseline.

mod engine;

use super::container::Container;
use super::daemon::Daemon;
use super::pressure::{self, Door, Pressure};
use super::worker::{self, Work};
use super::{Scratch, tiny, tiny_program};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Image that the stand-in engine names for every container.
const IMAGE: &str = "bench:1";
/// For the daemon to hold a thousand containers.
const HOLD_LIMIT: Duration = Duration::from_secs(60);
/// Entries that the measured work itself needs: its own program, the one it starts wherever that lies, its connections.
const NEEDED: usize = 5;

/// How much there is to hold to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    name: &'static str,
    /// Of the baseline; 0: there is none.
    entries: usize,
    containers: usize,
}

const SIZES: [Size; 3] = [
    Size { name: "no baseline, 1 container", entries: 0, containers: 1 },
    Size { name: "5 entries, 1 container", entries: NEEDED, containers: 1 },
    Size { name: "500 entries, 1,000 containers", entries: 500, containers: 1000 },
];

/// One size's numbers.
#[derive(Debug, Default)]
struct Measured {
    exec_ns: Vec<f64>,
    open_ns: Vec<f64>,
    connect_ns: Vec<f64>,
    pressure: Vec<Pressure>,
    daemon_bytes: u64,
    map_bytes: u64,
}

/// Measures and prints a table.
pub fn run(daemon: &Path, scratch: &Scratch, rounds: u32, interrupted: &dyn Fn() -> bool) -> Result<()> {
    let mut all: Vec<Measured> = SIZES.iter().map(|_| Measured::default()).collect();
    for round in 1..=rounds {
        eprintln!("bench: round {round} of {rounds}");
        for (size, measured) in SIZES.iter().zip(&mut all) {
            if interrupted() {
                bail!("interrupted");
            }
            one(daemon, &scratch.0, *size, measured).with_context(|| size.name)?;
        }
    }
    print!("{}", table(&all));
    Ok(())
}

fn one(daemon: &Path, scratch: &Path, size: Size, measured: &mut Measured) -> Result<()> {
    let folder = scratch.join("held");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("empty the daemon's folder")?;
    }
    fs::create_dir_all(folder.join("baselines")).context("make the daemon's folder")?;
    let containers = (0..size.containers).map(|_| Container::make()).collect::<Result<Vec<_>>>()?;
    let ids: Vec<&str> = containers.iter().map(Container::id).collect();
    let socket = folder.join("engine.sock");
    engine::serve(&socket, IMAGE, &ids)?;
    if size.entries > 0 {
        fs::write(folder.join("baselines/bench.toml"), baseline(size.entries, scratch)?)
            .context("write the baseline")?;
    }
    let config = folder.join("config.toml");
    fs::write(&config, settings(&folder, &socket)).context("write the config")?;
    let daemon = Daemon::start(daemon, &config, &folder)?;
    let container = containers.last().context("there is at least one")?;
    if size.entries > 0 {
        await_held(container, scratch)?;
    }
    for (work, ns) in [
        (Work::Exec, &mut measured.exec_ns),
        (Work::Open, &mut measured.open_ns),
        (Work::Connect, &mut measured.connect_ns),
    ] {
        ns.push(worker::measure_inside(work, container, scratch)?);
    }
    measured.pressure.push(pressure::apply(&daemon, container, scratch, Door::Started)?);
    measured.daemon_bytes = measured.daemon_bytes.max(daemon.rss_bytes()?);
    measured.map_bytes = map_bytes(daemon.id())?;
    daemon.stop()?;
    containers.into_iter().try_for_each(Container::remove)
}

/// Until what the baseline does not have is stopped in this container.
fn await_held(container: &Container, scratch: &Path) -> Result<()> {
    let other = scratch.join("other");
    fs::create_dir_all(&other).context("make a folder")?;
    if !tiny_program(&other).exists() {
        tiny::write(&tiny_program(&other))?;
    }
    let deadline = Instant::now() + HOLD_LIMIT;
    while worker::measure_inside(Work::Exec, container, &other).is_ok() {
        if Instant::now() > deadline {
            bail!("the daemon does not hold the container to its baseline");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn settings(folder: &Path, socket: &Path) -> String {
    let folder = folder.display();
    format!(
        "mode = \"monitor\"\n[host]\nwatch = false\n[engine]\ndocker_socket = \"{}\"\n[output]\nformat = \"json\"\n\
         file = \"{folder}/out.jsonl\"\n[baseline]\n\
         folder = \"{folder}/baselines\"\nruntime_exec = \"deny\"\ncanary_s = 0\n",
        socket.display()
    )
}

/// What the work needs, and others up to `entries`: half of them programs, half destinations.
fn baseline(entries: usize, scratch: &Path) -> Result<String> {
    let own = std::env::current_exe().context("find this program")?;
    let (own, tiny) = (own.display(), tiny_program(scratch));
    let mut text = format!("image = \"{IMAGE}\"\nmode = \"protect\"\n");
    let shell = fs::canonicalize(worker::SHELL).with_context(|| format!("find {}", worker::SHELL))?;
    let shell = shell.display();
    let _ = write!(
        text,
        "[[exec]]\nparent = \"(runtime-exec)\"\nexe = \"{shell}\"\ntext = \"argument\"\n\
         [[exec]]\nparent = \"{shell}\"\nexe = \"{own}\"\n"
    );
    for layer in ["image", "volume"] {
        let _ = write!(text, "[[exec]]\nparent = \"{own}\"\nexe = \"{}\"\nlayer = \"{layer}\"\n", tiny.display());
    }
    let _ =
        write!(text, "[[connect]]\nexe = \"{own}\"\nto = \"127.0.0.0/8\"\nport = \"1024-65535\"\nprotocol = \"tcp\"\n");
    for i in 0..entries.saturating_sub(NEEDED) {
        if i % 2 == 0 {
            let _ = write!(text, "[[exec]]\nparent = \"/usr/bin/parent{i}\"\nexe = \"/usr/bin/child{i}\"\n");
        } else {
            let (high, low, port) = (i / 250, i % 250 + 1, 1000 + i);
            let _ = write!(
                text,
                "[[connect]]\nexe = \"/usr/bin/parent{i}\"\nto = \"10.0.{high}.{low}\"\nport = \"{port}\"\nprotocol = \"tcp\"\n"
            );
        }
    }
    Ok(text)
}

/// Memory of the maps that a process holds, as the kernel accounts for it (proc(5), fdinfo).
fn map_bytes(pid: u32) -> Result<u64> {
    let mut by_id = std::collections::BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("list the daemon's descriptors")?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            by_id.insert(id, bytes);
        }
    }
    Ok(by_id.values().sum())
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Of each pass under load something a second.
fn under(one: &Measured, what: fn(&Pressure) -> f64) -> Vec<f64> {
    one.pressure.iter().map(|load| what(load) / load.seconds as f64).collect()
}

fn table(all: &[Measured]) -> String {
    let mut text =
        "| | exec, ns | open, ns | connect, ns | daemon under load, % | events/s | daemon, MiB | its maps, MiB |\n\
         |---|---|---|---|---|---|---|---|\n"
            .to_owned();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (size, one) in SIZES.iter().zip(all) {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} | {:.1} | {:.1} |",
            size.name,
            median(&one.exec_ns),
            median(&one.open_ns),
            median(&one.connect_ns),
            median(&under(one, |load| load.daemon_cpu_s * 100.0)),
            median(&under(one, |load| load.events_received.unwrap_or_default() as f64)),
            mib(one.daemon_bytes),
            mib(one.map_bytes)
        );
    }
    let change = |of: fn(&Measured) -> &Vec<f64>| match all {
        [_, few, many] => (median(of(many)) / median(of(few)) - 1.0) * 100.0,
        _ => f64::NAN,
    };
    let _ = writeln!(
        text,
        "many against few: exec {:+.1} %, open {:+.1} %, connect {:+.1} %",
        change(|one| &one.exec_ns),
        change(|one| &one.open_ns),
        change(|one| &one.connect_ns)
    );
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_baseline_has_as_many_entries_as_asked_for() {
        for size in SIZES.iter().filter(|size| size.entries > 0) {
            let text = baseline(size.entries, Path::new("/x")).unwrap();
            assert_eq!(text.matches("[[").count(), size.entries);
            toml::from_str::<toml::Table>(&text).unwrap();
        }
    }
}
