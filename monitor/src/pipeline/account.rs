//! Bookkeeping of records from ring to row, so that none goes missing uncounted when a daemon ends at
//! any moment. The kernel half numbers records; this counts those that are dealt with, in a map that
//! outlives the daemon. What lies between is in the rings, or was lost with a daemon.

use crate::kernel::ledger::Handover;
use crate::kernel::ring::{Backlog, Counts as DrainCounts};
use crate::output::{Events, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How often the rings must have been empty until no record of before can be in them any more: the
/// second time, also one that was being written at the first is out.
const EMPTIED: u64 = 2;

/// State of the outputs at some event.
#[derive(Clone, Copy, Debug)]
struct Mark {
    judged: u64,
    rows: u64,
    events: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Account {
    base: Handover,
    /// Records that found their ring full, up to when this daemon took over.
    full_before: u64,
    backlog: Option<Arc<Backlog>>,
    drain: Arc<DrainCounts>,
    judged: u64,
    /// Of these, how many have everything written that came of them.
    written: u64,
    mark: Option<Mark>,
    /// Lost with the former daemon.
    in_flight: u64,
    rows_lost: u64,
}

impl Account {
    /// Goes on from where the former daemon left the counts.
    pub fn new(base: Handover, full_before: u64, backlog: Arc<Backlog>, drain: Arc<DrainCounts>) -> Self {
        // The first daemon has nobody to take over from.
        let backlog = (base.lives > 1).then_some(backlog);
        let (judged, written, mark, in_flight, rows_lost) = (0, 0, None, 0, 0);
        Self { base, full_before, backlog, drain, judged, written, mark, in_flight, rows_lost }
    }

    /// A record was judged.
    pub fn judged(&mut self) {
        self.judged += 1;
        self.drain.taken.fetch_add(1, Relaxed);
    }

    /// Is something judged of which it is not known yet whether it is written?
    pub fn is_pending(&self) -> bool {
        self.written < self.judged
    }

    /// Looks at the outputs. The counts, if they have changed.
    pub fn settle(&mut self, output: &Output, events: Option<&Events>) -> Option<Handover> {
        let rows = output.counters().settled.load(Relaxed);
        let counters = events.map(Events::counters);
        let settled = counters.as_ref().map_or(0, |counters| counters.settled.load(Relaxed));
        self.rows_lost = counters.map_or(0, |counters| counters.lost.load(Relaxed));
        let before = self.written;
        if let Some(mark) = self.mark.filter(|mark| mark.rows <= rows && mark.events <= settled) {
            self.written = mark.judged;
            self.mark = None;
        }
        if self.mark.is_none() && self.is_pending() {
            let events = events.map_or(0, Events::submitted);
            self.mark = Some(Mark { judged: self.judged, rows: output.submitted(), events });
            if self.mark.is_some_and(|mark| mark.rows <= rows && mark.events <= settled) {
                self.written = self.judged;
                self.mark = None;
            }
        }
        (self.written != before).then(|| self.handover())
    }

    /// Everything was written.
    pub fn all_written(&mut self) -> Handover {
        self.written = self.judged;
        self.handover()
    }

    /// The counts as they are to be left to the next daemon.
    pub fn handover(&self) -> Handover {
        let gone = self.in_flight + self.drain.malformed.load(Relaxed);
        Handover {
            handled: self.base.handled + self.written + gone,
            lost: self.base.lost + gone + self.rows_lost,
            ..self.base
        }
    }

    /// The rules that the policies in force were made from.
    pub fn set_rules(&mut self, rules: u64) {
        self.base.rules = rules;
    }

    /// Once all that was in the rings at the start has been read: how many records the former daemon
    /// took off the rings and did not get to. Told once, if there are any.
    pub fn lost_with_former(&mut self) -> Option<u64> {
        let backlog = self.backlog.take_if(|backlog| backlog.emptied.load(Relaxed) >= EMPTIED)?;
        let accounted = self.base.handled + self.full_before + backlog.read.load(Relaxed);
        self.in_flight = backlog.total().saturating_sub(accounted);
        (self.in_flight > 0).then_some(self.in_flight)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::output::Notice;
    use crate::output::notice::NoticeKind;
    use crate::output::sink::Sink;
    use std::sync::mpsc::{Receiver, channel};

    /// A sink that writes a row for each word it is sent.
    struct Slow(Receiver<()>);

    impl Sink for Slow {
        fn write(&mut self, _row: &str) -> std::io::Result<()> {
            self.0.recv().map_err(std::io::Error::other)
        }
    }

    fn account(base: Handover, full: u64, begun: Vec<u64>) -> (Account, Arc<Backlog>) {
        let backlog = Arc::new(Backlog::new(begun));
        (Account::new(base, full, backlog.clone(), Arc::default()), backlog)
    }

    #[test]
    fn a_record_counts_once_its_alert_is_written() {
        let (go, words) = channel();
        let output = Output::start(Box::new(Slow(words)), None, None).unwrap();
        let (mut account, _) = account(Handover { handled: 100, lives: 1, ..Handover::default() }, 0, vec![]);
        account.judged();
        assert_eq!(account.settle(&output, None).unwrap().handled, 101, "nothing to be written");
        output.notice(Notice::new(NoticeKind::State, "x", "x"));
        account.judged();
        assert_eq!(account.settle(&output, None), None);
        account.judged();
        assert_eq!(account.settle(&output, None), None);
        assert!(account.is_pending());
        go.send(()).unwrap();
        while output.counters().settled.load(Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(account.settle(&output, None).unwrap().handled, 103);
        assert!(!account.is_pending());
    }

    #[test]
    fn what_a_former_daemon_took_along_is_lost() {
        let base = Handover { handled: 70, lost: 1, lives: 2, ..Handover::default() };
        // 100 begun: 70 handled, 12 found the ring full, 15 are still there: 3 are gone.
        let (mut account, backlog) = account(base, 12, vec![60, 40]);
        backlog.read.store(15, Relaxed);
        backlog.emptied.store(1, Relaxed);
        assert_eq!(account.lost_with_former(), None, "too early to tell");
        backlog.emptied.store(2, Relaxed);
        assert_eq!(account.lost_with_former(), Some(3));
        assert_eq!(account.lost_with_former(), None, "told once");
        let left = account.handover();
        assert_eq!((left.handled, left.lost), (73, 4));
    }

    #[test]
    fn the_first_daemon_takes_over_from_nobody() {
        let (mut account, backlog) = account(Handover { lives: 1, ..Handover::default() }, 0, vec![5]);
        backlog.emptied.store(9, Relaxed);
        assert_eq!(account.lost_with_former(), None);
    }
}
