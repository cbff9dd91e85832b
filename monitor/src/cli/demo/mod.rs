//! `bulkhead demo`: a throw-away container, three harmless attacks in it, and what Bulkhead makes of them.
//! Needs no engine: the container is made here, of namespaces, an overlay over the host's root and a cgroup
//! named as a runtime would name it. Every part removes itself when dropped, in `show` from the last to the first.

mod attack;
mod cgroup;
mod container;
mod error;
mod folder;
mod init;
mod interrupt;
mod loopback;
mod monitor;
mod report;
mod rootfs;
mod stand_in;

use super::{CliError, CliResult, DemoArgs, Exit, require_root};
use crate::container::hierarchy;
use crate::output::Alert;
use crate::output::human::Human;
use attack::Attack;
use cgroup::Cgroup;
use container::Container;
use error::DemoError;
use folder::Folder;
use init::{Answer, Order};
use interrupt::Interrupt;
use monitor::Monitor;
use report::Played;
use stand_in::StandIn;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an attack may take. Where it is not stopped it ends by itself within a second.
const ATTACK: Duration = Duration::from_secs(8);
/// How long an alert may take to come out after its attack has ended; the usual time is a few milliseconds.
const ALERT: Duration = Duration::from_secs(3);
/// How long is waited before an effect counts as absent: a payload that was not stopped needs a moment.
const SETTLE: Duration = Duration::from_millis(300);

/// Runs the demo: exit status 0 if every attack was found and, unless only watching was asked for, prevented.
pub(super) fn main(args: &DemoArgs) -> CliResult {
    require_root("demo")?;
    let interrupt = Interrupt::install()?;
    // Everything that was made is gone when this returns.
    let played = show(args, &interrupt)?;
    super::print(&report::table(&played, args.monitor))?;
    let clean = folder::is_clean();
    if clean {
        super::print("Container, monitor and files of the demo are removed.\n")?;
    }
    let good = clean && played.iter().all(|one| one.is_good(args.monitor));
    Ok(if good { Exit::Ok } else { Exit::Failure })
}

fn show(args: &DemoArgs, interrupt: &Interrupt) -> Result<Vec<Played>, CliError> {
    let toolbox = attack::Toolbox::find().ok_or(DemoError::NoBash)?;
    let watched = hierarchy::detect().map_err(DemoError::Hierarchy)?;
    let id = folder::random_hex(32)?;
    let path = format!("/docker/{id}");
    super::print(&report::opening(args.monitor, &id, Path::new(&path)))?;

    Folder::sweep();
    let folder = Folder::make()?;
    let mut monitor = Monitor::start(folder.path(), &path, args.monitor, interrupt)?;
    let cgroup = Cgroup::make(&watched, &path, folder.path())?;
    let mut container = Container::start(folder.path(), &cgroup, interrupt)?;
    let stand_in = StandIn::start(container.pid())?;
    super::print(&report::ready(container.root()))?;

    let human = Human::for_stdout();
    let attacks = attack::all(&toolbox);
    let mut played = Vec::new();
    for (number, attack) in attacks.iter().enumerate() {
        super::print(&report::announce(number + 1, attacks.len(), attack))?;
        let one = play(attack, &id, &mut container, &mut monitor, &stand_in, interrupt)?;
        super::print(&report::outcome(&one, &human))?;
        played.push(one);
    }
    Ok(played)
}

fn play(
    attack: &Attack,
    id: &str,
    container: &mut Container,
    monitor: &mut Monitor,
    stand_in: &StandIn,
    interrupt: &Interrupt,
) -> Result<Played, DemoError> {
    let before = stand_in.count(attack.service);
    let ended = container.ask(&Order::run(&attack.script, ATTACK), ATTACK + ALERT, interrupt)?;
    let alerts = alerts_of(attack, id, monitor, interrupt)?;
    interrupt.sleep(SETTLE)?;
    let happened = container.ask(&attack.effect.order(), ALERT, interrupt)? == Answer::Yes;
    let after = stand_in.count(attack.service);
    Ok(Played {
        title: attack.title,
        effect: attack.effect.clone(),
        kinds: attack.kinds,
        service: attack.service,
        received: after.received - before.received,
        sent: after.sent - before.sent,
        connections: after.connections - before.connections,
        ended,
        alerts,
        happened,
    })
}

/// The alerts of this container: until one of the expected kind is there, and those just behind it.
fn alerts_of(attack: &Attack, id: &str, monitor: &mut Monitor, interrupt: &Interrupt) -> Result<Vec<Alert>, DemoError> {
    let deadline = Instant::now() + ALERT;
    let mut alerts: Vec<Alert> = Vec::new();
    loop {
        alerts.extend(monitor.alerts()?.into_iter().filter(|alert| alert.container.id == id));
        let found = alerts.iter().any(|alert| attack.kinds.contains(&alert.event.action.0));
        if found || Instant::now() >= deadline {
            interrupt.sleep(SETTLE)?;
            alerts.extend(monitor.alerts()?.into_iter().filter(|alert| alert.container.id == id));
            return Ok(alerts);
        }
        monitor.still_runs()?;
        interrupt.sleep(Duration::from_millis(10))?;
    }
}

#[cfg(test)]
mod tests;
