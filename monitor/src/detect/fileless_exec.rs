//! A program without a file behind it is started: memfd, O_TMPFILE, or deleted.

use super::Detector;
use super::context::{Context, describe};
use crate::event::{Body, Event, Exec, HOST, Kind, Open, Reason, file};
use crate::finding::{Detection, FindingKind};

/// See the module.
pub struct FilelessExec;

impl Detector for FilelessExec {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Exec, Kind::Open]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let exec = match &event.body {
            Body::Exec(exec) => exec,
            Body::Open(open) if event.prevented() && event.reason == Reason::FilelessExec => {
                return Some(refused(event, open, cx));
            }
            _ => return None,
        };
        let fileless = exec.exe.has(file::FILE_MEMFD) || exec.exe.has(file::FILE_UNLINKED);
        if event.container == HOST || !fileless && event.reason != Reason::FilelessExec {
            return None;
        }
        if !event.prevented() && is_honest(event, exec, cx) {
            return None;
        }
        let memfd = exec.exe.has(file::FILE_MEMFD);
        let (what, kind) = if memfd { ("memfd", "memory") } else { ("deleted_file", "a deleted file") };
        let who = describe(&exec.comm, &exec.args, event.process.tgid);
        let mut detection = Detection::new(
            FindingKind::FilelessExec,
            event.process,
            format!("{who} was started from {kind}"),
        )
        .with(event.id, what, 0, format!("executable {} (inode {})", exec.exe.path, exec.exe.inode.ino));
        detection.file = Some(exec.exe.path.to_string());
        Some(detection)
    }
}

/// Refused before it became a program.
fn refused(event: &Event, open: &Open, cx: &Context<'_>) -> Detection {
    let message = format!("{} tried to start a program from memory", cx.describe(event.process));
    let detail = format!("executable {} (inode {})", open.file.path, open.file.inode.ino);
    let mut detection =
        Detection::new(FindingKind::FilelessExec, event.process, message).with(event.id, "memfd", 0, detail);
    detection.file = Some(open.file.path.to_string());
    detection
}

fn is_honest(event: &Event, exec: &Exec, cx: &Context<'_>) -> bool {
    // `runc init` runs from a sealed memfd copy of runc, started by runc outside the container. A
    // name (`runc_cloned:…`) proves nothing; that it came from outside and has run nothing inside yet does.
    if cx.is_the_runtimes(event, exec) {
        return true;
    }
    // A service that re-executes itself (`/proc/self/exe`) after its file was replaced, and a helper
    // it starts the same way: it runs what it ran.
    let same = |inode| inode == exec.exe.inode && !exec.exe.has(file::FILE_MEMFD);
    cx.process(event).and_then(|p| p.replaced).is_some_and(same)
        || cx.processes.get(exec.parent).is_some_and(|p| same(p.program.inode))
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds, open};
    use crate::event::{Body, Reason, Verdict, file, state};
    use crate::finding::FindingKind::FilelessExec;

    #[test]
    fn memory_and_deleted_files() {
        for flag in [file::FILE_MEMFD | file::FILE_UNLINKED, file::FILE_UNLINKED] {
            let mut lab = Lab::new();
            let found = lab.exec_with(20, 9, &["/memfd:x"], |e| e.exe.flags |= flag);
            assert_eq!(kinds(&found), [FilelessExec]);
        }
    }

    #[test]
    fn refused_before_it_starts() {
        let mut lab = Lab::new();
        let body = Body::Open(Box::new(open("/memfd:x", file::FILE_EXEC, 0)));
        let mut event = lab.event(20, body);
        (event.reason, event.verdict) = (Reason::FilelessExec, Verdict::Denied);
        assert_eq!(kinds(&lab.send(event)), [FilelessExec]);
    }

    #[test]
    fn runc_and_services_that_restart_themselves() {
        let mut lab = Lab::new();
        let runc = lab.exec_with(20, 3, &["/memfd:runc_cloned", "init"], |e| e.exe.flags |= file::FILE_MEMFD);
        assert!(runc.is_empty());
        lab.exec(21, 5, &["/usr/bin/app"]);
        let again = lab.exec_with(21, 5, &["/usr/bin/app"], |e| e.exe.flags |= file::FILE_UNLINKED);
        assert!(again.is_empty());
        // Started from outside, by itself as well, and yet no runtime: its program runs already.
        lab.exec(23, 3, &["python3", "-c", "x"]);
        let found = lab.exec_with(23, 3, &["[kworker/0:1]"], |e| e.exe.flags |= file::FILE_MEMFD);
        assert_eq!(kinds(&found), [FilelessExec]);
        // A runtime that starts itself again inside.
        lab.exec(24, 3, &["runc", "init"]);
        let again = lab.exec_with(24, 3, &["/memfd:runc_cloned", "init"], |e| {
            e.exe.flags |= file::FILE_MEMFD;
            e.task_flags |= state::TASK_ENTERED | state::TASK_ENTERING;
        });
        assert!(again.is_empty());
        // Only the name says runc.
        let found = lab.exec_with(22, 9, &["/memfd:runc_cloned", "init"], |e| e.exe.flags |= file::FILE_MEMFD);
        assert_eq!(kinds(&found), [FilelessExec]);
    }
}
