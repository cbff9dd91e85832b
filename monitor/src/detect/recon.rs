//! Looking around: one asker puts many different questions about the machine within seconds, or looks for
//! other people's miners by name. Set-up scripts and monitoring agents ask as much, so the asker counts: a
//! program text on a command line or a standard input, no script of a file, nobody at a terminal.

use super::Detector;
use super::bounded::Bounded;
use super::context::Context;
use crate::event::{Body, Event, Exec, Form, HOST, Kind, ProcessKey, Stdio, last_component, state};
use crate::finding::{Detection, FindingKind};
use crate::provenance::Process;
use smol_str::SmolStr;

/// Askers remembered.
const ASKERS: usize = 512;
/// Questions further apart are not one burst, ns.
const BURST_NS: u64 = 10_000_000_000;
/// Subjects asked about that make a burst.
const SUBJECTS: u32 = 4;
/// Rivals looked for that make a hunt.
const RIVALS: usize = 3;
/// Words for rivals that are no program's name.
const MINING_WORDS: &[&str] = &["stratum", "cryptonight", "randomx", "monero", "xmr"];
/// Tools that find or kill processes by name.
const HUNTERS: &[&str] = &["grep", "egrep", "fgrep", "pgrep", "pkill", "killall", "pidof", "awk", "gawk", "mawk"];

#[derive(Debug, Default)]
struct Burst {
    since_ns: u64,
    subjects: u32,
    asked: Vec<String>,
    rivals: Vec<String>,
}

/// See the module.
pub struct Recon {
    askers: Bounded<ProcessKey, Burst>,
}

impl Default for Recon {
    fn default() -> Self {
        Self { askers: Bounded::new(ASKERS) }
    }
}

impl Detector for Recon {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Exec]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let Body::Exec(exec) = &event.body else {
            return None;
        };
        if event.container == HOST {
            return None;
        }
        let (subject, rival) = (subject(exec), rival(exec, cx));
        if subject.is_none() && rival.is_none() {
            return None;
        }
        let asker = asker(event, exec, cx)?;
        let burst = self.askers.entry(asker, Burst::default)?;
        if event.time_ns.saturating_sub(burst.since_ns) > BURST_NS {
            *burst = Burst { since_ns: event.time_ns, ..Burst::default() };
        }
        if let Some(bit) = subject {
            burst.subjects |= bit;
            burst.asked.push(exec.args.join(" "));
        }
        if let Some(name) = rival.filter(|name| !burst.rivals.contains(name)) {
            burst.rivals.push(name);
        }
        let who = cx.describe(asker);
        let (what, message, detail) = if burst.rivals.len() >= RIVALS {
            ("rivals", format!("{who} looks for other miners"), burst.rivals.join(", "))
        } else if burst.subjects.count_ones() >= SUBJECTS {
            ("questions", format!("{who} looks around: who, where, with whom"), burst.asked.join("; "))
        } else {
            return None;
        };
        self.askers.remove(&asker);
        let mut detection = Detection::new(FindingKind::Recon, asker, message).with(event.id, what, 0, detail);
        detection.alert_only = true;
        Some(detection)
    }
}

/// Who asks: the nearest program above that runs a text. `None` for who asks honestly.
fn asker(event: &Event, exec: &Exec, cx: &Context<'_>) -> Option<ProcessKey> {
    let runs_text = |p: &&Process| p.has(state::TASK_SHELL | state::TASK_INTERPRETER);
    let parent = cx.processes.get(exec.parent).filter(|p| p.container == event.container);
    let near = parent.into_iter().chain(cx.processes.ancestors(exec.parent).take(3));
    let asker = near.take_while(|p| p.container == event.container).find(runs_text)?;
    // A fork of it (a subshell, a pipeline) asks for it.
    let asker = cx.processes.same_program(asker.key).last()?;
    let script = asker.program.form == Form::Script && !asker.has(state::TASK_TAINTED);
    let person = asker.program.stdio[0] == Stdio::Tty;
    let above = || cx.processes.ancestors(asker.key).take_while(|p| p.container == event.container);
    let by_script =
        above().any(|p| p.program.form == Form::Script && p.has(state::TASK_SHELL) && !p.has(state::TASK_TAINTED));
    let served = above().any(|p| p.has(state::TASK_SESSION_SERVER | state::TASK_PACKAGE_MANAGER));
    (!script && !person && !by_script && !served && !cx.is_starting_up(event)).then_some(asker.key)
}

/// What a program asks about, as a bit.
fn subject(exec: &Exec) -> Option<u32> {
    let name = exec.args.first().map_or(exec.comm.as_str(), |first| last_component(first));
    // busybox ps
    let name = if matches!(name, "busybox" | "toybox") { exec.args.get(1)?.as_str() } else { name };
    let names = |path: &str| exec.args.iter().skip(1).any(|arg| arg == path);
    Some(match name {
        "id" | "whoami" | "groups" | "who" | "w" | "last" | "logname" => 1,
        "uname" | "hostname" | "hostnamectl" | "arch" | "lsb_release" | "lscpu" | "dmidecode" => 2,
        "ip" | "ifconfig" | "netstat" | "ss" | "route" | "arp" => 4,
        "ps" | "top" | "pstree" => 8,
        "getent" => 16,
        "cat" | "head" | "grep" | "awk" | "cut" if names("/etc/passwd") || names("/etc/group") => 16,
        "cat" | "head" | "grep" if names("/etc/os-release") || names("/etc/issue") || names("/proc/version") => 2,
        "df" | "mount" | "lsblk" | "fdisk" | "findmnt" => 32,
        "env" | "printenv" if exec.args.len() == 1 => 64,
        "capsh" | "getcap" | "lsmod" | "sudo" if names("-l") || names("--print") || name == "lsmod" => 128,
        _ => return None,
    })
}

/// The rival that a program looks for.
fn rival(exec: &Exec, cx: &Context<'_>) -> Option<String> {
    let name = last_component(exec.args.first()?);
    if !HUNTERS.contains(&name) {
        return None;
    }
    let word = |arg: &&SmolStr| MINING_WORDS.contains(&arg.as_str()) || cx.settings.is_miner_name(arg);
    exec.args.iter().skip(1).find(word).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::Lab;
    use crate::event::Stdio;
    use crate::finding::FindingKind::{self, Recon};

    const QUESTIONS: &[&[&str]] =
        &[&["id"], &["whoami"], &["uname", "-a"], &["ip", "a"], &["ps", "aux"], &["cat", "/etc/passwd"]];

    fn ask(lab: &mut Lab, by: u32, questions: &[&[&str]]) -> Vec<FindingKind> {
        let mut found = Vec::new();
        for (pid, question) in (100..).zip(questions) {
            found.extend(lab.exec(pid, by, question).iter().map(|d| d.kind));
        }
        found
    }

    #[test]
    fn a_burst_from_a_command_line() {
        assert_eq!(ask(&mut Lab::new(), 9, QUESTIONS), [Recon]);
        assert!(ask(&mut Lab::new(), 9, &QUESTIONS[..3]).is_empty());
        let mut lab = Lab::new();
        assert!(ask(&mut lab, 9, &QUESTIONS[..3]).is_empty());
        lab.advance(20_000);
        assert!(ask(&mut lab, 9, &QUESTIONS[3..]).is_empty(), "not one burst");
    }

    #[test]
    fn scripts_people_and_services_ask_honestly() {
        let mut lab = Lab::new();
        lab.exec(20, 9, &["sh", "/usr/bin/agent.sh"]);
        assert!(ask(&mut lab, 20, QUESTIONS).is_empty());
        let mut lab = Lab::new();
        lab.exec_with(20, 9, &["bash", "-i"], |exec| exec.stdio[0] = Stdio::Tty);
        assert!(ask(&mut lab, 20, QUESTIONS).is_empty());
    }

    #[test]
    fn rivals() {
        let hunt: &[&[&str]] = &[&["grep", "xmrig"], &["pkill", "-9", "minerd"], &["grep", "stratum"]];
        assert_eq!(ask(&mut Lab::new(), 9, hunt), [Recon]);
        assert!(
            ask(&mut Lab::new(), 9, &[&["grep", "xmrig", "a"], &["grep", "xmrig", "b"], &["echo", "minerd"]])
                .is_empty()
        );
    }
}
