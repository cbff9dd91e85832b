//! A program that is not part of the image runs. A build runs what it built, so this is only told
//! where the configuration, a label or a baseline asks; elsewhere it is evidence for others.

use super::Detector;
use super::context::{Context, describe};
use crate::event::{Body, Event, File, HOST, Kind, file, state};
use crate::finding::{Detection, FindingKind};

/// See the module.
pub struct Drift;

impl Detector for Drift {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Exec]
    }

    fn on_event(&mut self, event: &Event, cx: &Context<'_>) -> Option<Detection> {
        let Body::Exec(exec) = &event.body else {
            return None;
        };
        if event.container == HOST || exec.task_flags & state::TASK_DRIFT == 0 {
            return None;
        }
        if !cx.settings.drift_alert && !cx.containers.drift_alerts(event.container) {
            return None;
        }
        if exec.task_flags & state::TASK_PACKAGE_MANAGER != 0
            || exec.exe.has(file::FILE_MEMFD) && cx.is_the_runtimes(event, exec)
        {
            return None;
        }
        let place = layer(&exec.exe);
        let who = describe(&exec.comm, &exec.args, event.process.tgid);
        let message = format!("{who} is not part of the image: {} lies in {place}", exec.exe.path);
        let mut detection = Detection::new(FindingKind::Drift, event.process, message).with(
            event.id,
            "drift",
            0,
            format!("{} lies in {place}", exec.exe.path),
        );
        detection.file = Some(exec.exe.path.to_string());
        Some(detection)
    }
}

/// Where a file lives, in words.
pub(super) fn layer(file: &File) -> &'static str {
    if file.has(file::FILE_MEMFD) {
        "memory"
    } else if file.has(file::FILE_UNLINKED) {
        "a deleted file"
    } else if file.has(file::FILE_TMPFS) {
        "a tmpfs"
    } else if file.has(file::FILE_UPPER) {
        "the container's writable layer"
    } else if file.has(file::FILE_FOREIGN_SB) {
        "a volume"
    } else {
        "the image"
    }
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::{Lab, kinds};
    use crate::event::state;
    use crate::finding::FindingKind;

    #[test]
    fn only_where_it_was_asked_for() {
        let mut lab = Lab::new();
        let run =
            |lab: &mut Lab, pid| kinds(&lab.exec_with(pid, 9, &["/tmp/a.out"], |e| e.task_flags |= state::TASK_DRIFT));
        assert!(run(&mut lab, 20).is_empty());
        lab.settings.drift_alert = true;
        assert_eq!(run(&mut lab, 21), [FindingKind::Drift]);
    }
}
