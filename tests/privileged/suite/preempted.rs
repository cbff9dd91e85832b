//! Programs that are preempted: newer kernels preempt them at tracepoints, and leave them out for other tasks of
//! that CPU meanwhile.

use crate::attacks::stage;
use crate::lab::Peer;
use crate::pace;
use anyhow::{Result, ensure};
use std::fs;

/// Shells that each worker starts on a host.
const STARTS: usize = 400;

/// A downloaded script on standard input is a matter of the exec alone. Some workers start shells without a pause and
/// get in each other's way; others are woken by a timer, by a class of the scheduler that does not wait its turn:
/// they come in between wherever the first are.
pub fn no_exec_goes_unjudged() -> Result<()> {
    let stage = stage("protect")?;
    let peer = Peer::web(stage.container.listen()?, "echo ran >> /tmp/ran\n")?;
    stage.container.run(&format!("curl -s -o /tmp/x http://127.0.0.1:{}/x", peer.port))?;
    ensure!(stage.holds("/tmp/x", "ran"), "the download itself did not work");
    let starts = pace::times(STARTS);
    let worker = |before: &str, pause: &str| {
        format!("{before} sh -c 'i=0; while [ $i -lt {starts} ]; do i=$((i+1)); {pause} sh < /tmp/x; done' & ")
    };
    let eager = worker("", "").repeat(3);
    let woken = worker("chrt -f 5", "sleep 0.003;").repeat(2);
    stage.container.run(&format!("{eager}{woken} wait"))?;
    let ran = fs::read_to_string(stage.container.path("/tmp/ran")).unwrap_or_default().lines().count();
    let missed = stage.watch.daemon.missed_runs();
    eprintln!("{ran} of {} ran; runs of programs missed: {missed}", 5 * starts);
    ensure!(ran == 0, "{ran} of {} shells ran what was downloaded; runs of programs missed: {missed}", 5 * starts);
    stage.watch.daemon.await_alert("download_exec", stage.container.id())?;
    Ok(())
}
