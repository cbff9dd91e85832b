//! Conversations, probes and checks.

use crate::detect::testing::{A, Lab, kinds, out};
use crate::finding::FindingKind::ShellConnect;

/// Plays segments (`<` in, `>` out) on a connection of bash; returns how many findings.
fn talk(to: &str, segments: &[(char, &str)]) -> usize {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["bash", "-c", "…"]);
    let mut found = lab.connect(20, to, 1);
    for (way, text) in segments {
        found.extend(lab.payload(20, to, 1, *way == '<', text.as_bytes()));
    }
    assert!(found.iter().all(|d| d.kind == ShellConnect && d.alert_only));
    found.len()
}

#[test]
fn orders_and_conversations() {
    assert_eq!(talk(A, &[('<', "echo LAB_OK\n"), ('>', "LAB_OK\n")]), 1);
    let chat: Vec<(char, &str)> = [('>', "hello\n"), ('<', "x\n")].into_iter().cycle().take(12).collect();
    assert_eq!(talk(A, &chat), 1);
}

#[test]
fn probes_and_checks() {
    assert_eq!(talk("10.0.0.1:5432", &[('>', "\n")]), 0, "wait-for-it");
    assert_eq!(talk("10.0.0.1:3306", &[('<', "J\0\0\0\n8.0.36"), ('>', "\n")]), 0, "a probe of MySQL");
    assert_eq!(talk("10.0.0.1:6379", &[('>', "PING\r\n"), ('<', "+PONG\r\n")]), 0);
    assert_eq!(talk("10.0.0.1:2181", &[('>', "ruok"), ('<', "imok")]), 0);
    let smtp = [('<', "220 mx ESMTP\r\n"), ('>', "HELO x\r\n"), ('<', "250 mx\r\n"), ('>', "QUIT\r\n")];
    assert_eq!(talk("10.0.0.1:25", &smtp), 0);
    let web: Vec<(char, &str)> =
        [('>', "GET / HTTP/1.1\r\n\r\n"), ('<', "HTTP/1.1 200 OK\r\n\r\n")].into_iter().cycle().take(20).collect();
    assert_eq!(talk("10.0.0.1:8080", &web), 0);
    assert_eq!(talk("10.0.0.1:514", &[('>', "<13>lab\n"), ('>', "<13>x\n")]), 0);
}

#[test]
fn programs_that_write_to_it() {
    let mut lab = Lab::new();
    lab.exec(20, 9, &["bash", "-c", "exec 3<>/dev/tcp/…; id >&3; uname -a >&3"]);
    lab.connect(20, A, 1);
    assert!(lab.exec_with(21, 20, &["id"], |e| e.stdio[1] = out(A)).is_empty());
    assert_eq!(kinds(&lab.exec_with(22, 20, &["uname", "-a"], |e| e.stdio[1] = out(A))), [ShellConnect]);
    assert!(lab.exec_with(23, 20, &["ps"], |e| e.stdio[1] = out(A)).is_empty(), "told once");
}
