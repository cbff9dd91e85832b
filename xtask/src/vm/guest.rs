//! One guest from power-on to power-off: QEMU with software emulation, two serial ports, a time limit,
//! and an eye on what a dying kernel prints.

use super::kernel::Kernel;
use super::matrix::Boot;
use super::qemu::Qemu;
use crate::lab::process::{self, Interrupt};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// All that can be emulated, but: `rep movsb` goes byte by byte here, and a kernel that is told it were fast copies and
/// clears memory with it (a third of a load of the programs on 5.10); page tables of five levels and SMAP cost at each
/// look-up and at each copy from user space.
const CPU: &str = "max,-erms,-fsrm,-la57,-smap";
/// Memory of a guest.
const MEMORY: &str = "1024M";
/// A guest is ended when it has used no processor time for so long.
const IDLE: Duration = Duration::from_secs(300);
/// How often the console is looked at.
const GLANCE: Duration = Duration::from_millis(250);

/// Security modules of a guest; the last is what the kernel-side refusals hang on.
const MODULES: &str = "landlock,lockdown,yama,apparmor";

/// What a kernel prints when the rest cannot be trusted any more.
const DEADLY: [&str; 8] = [
    "Kernel panic",
    "BUG:",
    "Oops:",
    "rcu_sched detected stalls",
    "rcu_preempt detected stalls",
    "rcu_sched self-detected stall",
    "soft lockup",
    "blocked for more than",
];

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It finished its job and powered off.
    Finished,
    /// It did not; this is why.
    Died(String),
}

/// What a guest left.
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// All that came through the results port.
    pub results: String,
    /// From power-on to power-off.
    pub took: Duration,
    /// Processor time of the host that it cost.
    pub cost: Duration,
    /// The console's log, kept for reading.
    pub console: PathBuf,
}

/// Boots with `disks`, the first of which is the root's, and waits for the end.
#[expect(clippy::too_many_arguments, reason = "all that makes a guest")]
pub fn boot(
    qemu: &Qemu,
    boot: &Boot,
    kernel: &Kernel,
    disks: &[PathBuf],
    initramfs: &Path,
    folder: &Path,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let (console, results) = (folder.join("console"), folder.join("results"));
    for file in [&console, &results] {
        fs::write(file, "").with_context(|| format!("create {}", file.display()))?;
    }
    let started = Instant::now();
    let mut child = command(qemu, boot, kernel, disks, initramfs, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("qemu"))?)
        .spawn()
        .context("start QEMU")?;
    let mut cost = Duration::ZERO;
    let died = watch(&mut child, &console, limit, &mut cost, interrupt);
    process::terminate(&mut child, Duration::from_secs(2));
    let said = fs::read(&results).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let end = match died? {
        Some(why) => End::Died(why),
        None if said.lines().any(|line| line.trim() == "@finished") => End::Finished,
        None => End::Died(last_words(&console, folder)),
    };
    Ok(Outcome { end, results: said, took: started.elapsed(), cost, console })
}

fn command(qemu: &Qemu, boot: &Boot, kernel: &Kernel, disks: &[PathBuf], initramfs: &Path, folder: &Path) -> Command {
    let modules = if boot.lsm { format!("{MODULES},bpf") } else { MODULES.to_owned() };
    // What costs an emulated processor most and what nothing here depends on: what the kernel does against a leaky
    // processor, and clearing all memory that it hands out.
    let append = format!("console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off init_on_alloc=0 lsm={modules}");
    let port = |name: &str| format!("file:{}", folder.join(name).display());
    let mut command = qemu.command();
    // Never KVM: in a machine that is itself virtual guests hang or die under it.
    command.args(["-accel", "tcg,thread=single", "-cpu", CPU, "-m", MEMORY, "-no-reboot", "-nodefaults"]);
    // The guest's clock counts its instructions (2 ns each) and jumps where it would idle: what a guest sees of time
    // does not depend on how busy the host is, and sleeping costs nothing. Kernels up to 6.1 do not get past the start
    // of a second processor with such a clock.
    command.args(["-icount", "shift=1,sleep=off", "-smp", "1"]);
    command.args(["-display", "none", "-monitor", "none", "-serial", &port("console"), "-serial", &port("results")]);
    for disk in disks {
        command.arg("-drive").arg(format!("file={},format=raw,if=virtio,snapshot=on", disk.display()));
    }
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs).args(["-append", &append]);
    command
}

/// Waits for the machine's end; why it has to be ended, if it has. The limit is one of processor time, as a
/// guest on a busy host may be slow without being stuck; one that does nothing is ended, too.
fn watch(
    child: &mut Child,
    console: &Path,
    limit: Duration,
    cost: &mut Duration,
    interrupt: &Interrupt,
) -> Result<Option<String>> {
    let (mut used, mut busy) = (*cost, Instant::now());
    loop {
        *cost = processor_time(child.id()).unwrap_or(*cost);
        let ended = child.try_wait().context("wait for QEMU")?.is_some();
        if let Some(line) = deadly_line(console) {
            return Ok(Some(line));
        }
        if ended {
            return Ok(None);
        }
        if interrupt.is_set() {
            return Ok(Some("interrupted".to_owned()));
        }
        if *cost > used {
            (used, busy) = (*cost, Instant::now());
        }
        if *cost > limit || busy.elapsed() > IDLE {
            return Ok(Some("not finished in time".to_owned()));
        }
        std::thread::sleep(GLANCE);
    }
}

/// What a process has used so far: fields 14 and 15 of /proc/PID/stat, after the name in parentheses.
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

fn deadly_line(console: &Path) -> Option<String> {
    let text = fs::read(console).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| DEADLY.iter().any(|word| line.contains(word))).map(|line| line.trim().to_owned())
}

fn last_words(console: &Path, folder: &Path) -> String {
    let read = |path: &Path| fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let text = [read(&folder.join("qemu")), read(console)].concat();
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned();
    format!("powered off before its job was done: {last}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_dying_kernel_is_noticed() {
        let file = std::env::temp_dir().join(format!("console-{}", std::process::id()));
        fs::write(&file, "booting\n").unwrap();
        assert_eq!(deadly_line(&file), None);
        fs::write(&file, "x\n[ 9.1] rcu: INFO: rcu_sched self-detected stall on CPU\n").unwrap();
        assert!(deadly_line(&file).unwrap().contains("self-detected stall"));
        fs::remove_file(&file).unwrap();
    }
}
