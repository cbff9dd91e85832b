//! Baselines that are promoted by themselves, once everything that their containers did for long enough was in them.

use super::{Baselines, Told};
use crate::baseline::entry::Act;
use crate::baseline::file::Stage;
use crate::baseline::store::Profile;
use crate::event::ContainerKey;
use std::collections::HashMap;

/// How far, and after how long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promotion {
    /// The highest mode that is come to without a person; `None`: nothing is promoted.
    pub up_to: Option<Stage>,
    /// Time without news, ns.
    pub quiet_ns: u64,
}

/// What is known of one baseline since this daemon began to watch it, or since the last news.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    since_ns: u64,
    /// Acts that were compared with it and are in it, or that would have been learned.
    acts: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watch(HashMap<String, Quiet>);

impl Watch {
    /// Something was done that the baseline has, or that is on its way into it.
    pub fn act(&mut self, name: &str) {
        if let Some(quiet) = self.0.get_mut(name) {
            quiet.acts += 1;
        }
    }

    /// Something new, something found, or something that was lost: the time begins anew.
    pub fn news(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Which baselines are due, and for which mode; those that are gone are forgotten.
    pub fn due<'a>(
        &mut self,
        promotion: Promotion,
        all: impl Iterator<Item = (&'a str, &'a Profile)>,
        now_ns: u64,
    ) -> Vec<(String, Stage, Stage)> {
        let mut watched = HashMap::new();
        let mut due = Vec::new();
        for (name, profile) in all {
            let (from, to) = match profile.baseline.stage {
                Stage::Learn => (Stage::Learn, Stage::Monitor),
                Stage::Monitor => (Stage::Monitor, Stage::Protect),
                Stage::Protect => continue,
            };
            let has_entries = profile.baseline.all().next().is_some();
            if promotion.up_to.is_none_or(|limit| to > limit) || profile.baseline.frozen || !has_entries {
                continue;
            }
            let quiet = self.0.get(name).copied().unwrap_or(Quiet { since_ns: now_ns, acts: 0 });
            if quiet.acts > 0 && now_ns.saturating_sub(quiet.since_ns) >= promotion.quiet_ns {
                due.push((name.to_owned(), from, to));
            } else {
                watched.insert(name.to_owned(), quiet);
            }
        }
        self.0 = watched;
        due
    }
}

impl Baselines {
    /// It is not known of everything that the container did, or something is wrong with it: no reason to trust more.
    pub fn unsure(&mut self, container: ContainerKey) {
        if let Some(name) = self.bound.get(&container).and_then(|bound| bound.name.as_ref()) {
            self.watch.news(name);
        }
    }

    /// What is to be learned is news, if the baseline does not have it.
    pub(super) fn watch_learned(&mut self, container: ContainerKey, act: &Act) {
        let Some(name) = self.bound.get(&container).and_then(|bound| bound.name.as_ref()) else { return };
        if self.settings.promotion.up_to.is_none() {
            return;
        }
        match self.store.get(name) {
            Some(profile) if profile.expects(act) => self.watch.act(name),
            _ => self.watch.news(name),
        }
    }

    /// Promotes what was quiet long enough.
    pub(super) fn promote(&mut self, now_ns: u64) -> Vec<Told> {
        let all = self.store.all().map(|(name, profile)| (name, profile.as_ref()));
        let due = self.watch.due(self.settings.promotion, all, now_ns);
        let mut told = Vec::new();
        for (name, from, to) in due {
            match self.store.promote(&name, from, to) {
                Ok(true) => told.push(Told::Promoted { name, to }),
                Ok(false) => {}
                Err(error) => told.extend(self.unwritten(error.to_string())),
            }
        }
        if !told.is_empty() {
            self.bind_all();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::baseline::file::Baseline;
    use std::path::Path;

    const HOUR: u64 = 3_600_000_000_000;

    fn profile(mode: &str, more: &str) -> Profile {
        let entry = "[[listen]]\nexe = \"/a\"\nport = \"80\"\n";
        Profile::new(
            Baseline::parse(Path::new("x"), &format!("image = \"a\"\nmode = \"{mode}\"\n{more}{entry}")).unwrap(),
        )
    }

    #[test]
    fn quiet_time_counts_only_with_something_done_and_nothing_new() {
        let promotion = Promotion { up_to: Some(Stage::Protect), quiet_ns: HOUR };
        let mut watch = Watch::default();
        let learns = profile("learn", "");
        let due = |watch: &mut Watch, profile: &Profile, now| watch.due(promotion, [("x", profile)].into_iter(), now);
        assert!(due(&mut watch, &learns, 0).is_empty());
        assert!(due(&mut watch, &learns, 2 * HOUR).is_empty(), "nothing was done");
        watch.act("x");
        assert_eq!(due(&mut watch, &learns, 2 * HOUR), [("x".to_owned(), Stage::Learn, Stage::Monitor)]);
        let monitors = profile("monitor", "");
        assert!(due(&mut watch, &monitors, 2 * HOUR).is_empty(), "the time begins anew");
        watch.act("x");
        watch.news("x");
        assert!(due(&mut watch, &monitors, 4 * HOUR).is_empty(), "there was news");
        watch.act("x");
        assert!(due(&mut watch, &monitors, 5 * HOUR - 1).is_empty());
        assert_eq!(due(&mut watch, &monitors, 5 * HOUR), [("x".to_owned(), Stage::Monitor, Stage::Protect)]);
    }

    #[test]
    fn limits_and_frozen_ones_are_heeded() {
        let mut watch = Watch::default();
        let due = |watch: &mut Watch, up_to, profile: &Profile| {
            watch.due(Promotion { up_to, quiet_ns: 0 }, [("x", profile)].into_iter(), 1);
            watch.act("x");
            watch.due(Promotion { up_to, quiet_ns: 0 }, [("x", profile)].into_iter(), 2).len()
        };
        assert_eq!(due(&mut watch, Some(Stage::Monitor), &profile("learn", "")), 1);
        assert_eq!(due(&mut watch, Some(Stage::Monitor), &profile("monitor", "")), 0);
        assert_eq!(due(&mut watch, None, &profile("learn", "")), 0);
        assert_eq!(due(&mut watch, Some(Stage::Protect), &profile("monitor", "frozen = true\n")), 0);
        assert_eq!(due(&mut watch, Some(Stage::Protect), &profile("protect", "")), 0);
    }
}
