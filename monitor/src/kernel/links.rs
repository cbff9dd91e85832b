//! Links and maps on their way to the pins and back: what holds programs attached, what of an earlier
//! version's maps can be used again.

use super::hooks::{HOOKS, Hook};
use super::ladder::{State, Step};
use super::ledger::Handover;
use aya::Ebpf;
use aya::maps::{MapError, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramError, ProgramFd, ProgramInfo, loaded_programs};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What holds the programs attached.
pub struct Programs {
    /// Kept open, so that a pin that somebody removes takes nothing away while the daemon runs.
    _links: Vec<FdLink>,
    /// Those that the kernel may leave out.
    guarded: Vec<(String, ProgramFd)>,
    /// Programs with links that are not pinned.
    _ebpf: Option<Ebpf>,
}

impl Programs {
    /// Programs that the kernel may leave out; see [`super::missed`].
    pub fn take_guarded(&mut self) -> Vec<(String, ProgramFd)> {
        std::mem::take(&mut self.guarded)
    }
}

/// Collects the links of programs as they are attached.
pub struct Keeper {
    folder: Option<PathBuf>,
    links: Vec<FdLink>,
    indices: Vec<usize>,
    /// Some link could not be pinned.
    partial: bool,
}

impl Keeper {
    /// Pins links in `folder`, or leaves them to their programs.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, links: Vec::new(), indices: Vec::new(), partial: false }
    }

    /// Pins the link that `take` gives, the `target`-th of this hook.
    ///
    /// # Errors
    /// It cannot be taken or pinned, and is detached.
    pub fn keep<L>(
        &mut self,
        hook: &Hook,
        target: usize,
        take: impl FnOnce() -> Result<L, ProgramError>,
    ) -> Result<(), String>
    where
        FdLink: TryFrom<L>,
    {
        let Some(folder) = &self.folder else { return Ok(()) };
        let link = take().map_err(|error| error.to_string())?;
        let link = FdLink::try_from(link).map_err(|_| "the link is not of a kind that can be pinned".to_owned())?;
        let pinned = link.pin(folder.join(name(hook, target))).map_err(|error| format!("pin: {error}"))?;
        self.links.push(pinned.into());
        self.indices.extend(index(hook, target));
        Ok(())
    }

    /// A link of this hook stays with its program, and ends with the process.
    pub fn stays(&mut self, hook: &Hook) {
        tracing::warn!(
            program = hook.program,
            "this kernel cannot pin its link (before 5.15): it ends with the daemon"
        );
        self.partial = true;
    }

    /// Notes the links that belong to the set. A set with links that are not pinned is never taken
    /// over as it is: it is noted as one that lacks a link.
    pub fn finish(self, ebpf: Ebpf, handover: &mut Handover) -> Programs {
        for index in self.indices {
            handover.add_link(index);
        }
        if self.partial {
            handover.links = [0; 4];
        }
        let whole = self.folder.is_some() && !self.partial;
        let guarded = HOOKS.iter().filter(|hook| hook.door.is_guarded()).filter_map(|hook| {
            let loaded = ebpf.program(hook.program)?.info().ok()?;
            Some((hook.program.to_owned(), loaded.fd().ok()?))
        });
        let guarded = guarded.collect();
        // Pinned links hold their programs: the object's own descriptors and its copy of the code can go.
        Programs { _links: self.links, guarded, _ebpf: (!whole).then_some(ebpf) }
    }
}

/// Opens the links that belong to the set; `preempts` as in [`super::hooks::Door::suits`]. The error says which is missing.
pub fn adopt(folder: &Path, handover: &Handover, preempts: bool) -> Result<(Programs, Vec<Step>), String> {
    if handover.links == [0; 4] {
        return Err("not all of its links could be pinned".into());
    }
    let known: HashMap<u32, ProgramInfo> = loaded_programs().flatten().map(|info| (info.id(), info)).collect();
    let (mut links, mut guarded) = (Vec::new(), Vec::new());
    let mut steps: Vec<Step> = Vec::with_capacity(HOOKS.len());
    for hook in HOOKS {
        let mut verified = None;
        for target in 0..targets(hook) {
            if index(hook, target).is_some_and(|index| handover.has_link(index)) {
                let name = name(hook, target);
                let link = PinnedLink::from_pin(folder.join(&name)).map_err(|error| format!("link {name}: {error}"))?;
                let link = FdLink::from(link);
                let id = link.info().map_err(|error| format!("link {name}: {error}"))?.program_id();
                if verified.is_none()
                    && hook.door.is_guarded()
                    && let Some(fd) = known.get(&id).and_then(|info| info.fd().ok())
                {
                    guarded.push((hook.program.to_owned(), fd));
                }
                verified = Some(known.get(&id).and_then(ProgramInfo::verified_instruction_count).unwrap_or(0));
                links.push(link);
            }
        }
        let better = HOOKS
            .iter()
            .zip(&steps)
            .any(|(other, step)| other.fact == hook.fact && other.rank < hook.rank && step.state == State::Active);
        let (state, why) = match verified {
            Some(_) => (State::Active, String::new()),
            None if better || !hook.door.suits(preempts) => (State::NotNeeded, String::new()),
            None => (State::Refused, "refused when the programs were loaded (see `bulkhead check`)".into()),
        };
        steps.push(Step::new(hook, state, why, verified.unwrap_or(0)));
    }
    Ok((Programs { _links: links, guarded, _ebpf: None }, steps))
}

/// Links a hook can have.
fn targets(hook: &Hook) -> usize {
    hook.door.tracepoints().len().max(1)
}

/// Position of a link among those of all hooks.
fn index(hook: &Hook, target: usize) -> Option<usize> {
    let place = HOOKS.iter().position(|other| other.program == hook.program)?;
    Some(HOOKS.iter().take(place).map(targets).sum::<usize>() + target)
}

/// File name of a link.
fn name(hook: &Hook, target: usize) -> String {
    match hook.door.tracepoints().get(target) {
        Some(tracepoint) => format!("{}-{tracepoint}", hook.program),
        None => hook.program.to_owned(),
    }
}

/// Pins the maps of a loaded object. Sections of constants are maps too, and belong to one load.
///
/// # Errors
/// The kernel refuses a pin.
pub fn pin_maps(ebpf: &Ebpf, folder: &Path) -> Result<(), MapError> {
    for (name, map) in ebpf.maps().filter(|(name, _)| !name.starts_with('.')) {
        map.pin(folder.join(name)).map_err(|error| MapError::PinError { name: Some(name.into()), error })?;
    }
    Ok(())
}

/// Maps of the object that are pinned in `folder` with the same definition. What their bytes mean is
/// guarded by the ABI version, which is part of the folder's name.
pub fn reusable(object: &[u8], folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(object) = aya_obj::Object::parse(object) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = object
        .maps
        .iter()
        .filter(|(name, _)| !name.starts_with('.'))
        .filter_map(|(name, wanted)| {
            let path = folder.join(name);
            let there = MapInfo::from_pin(&path).ok()?;
            let same = there.map_type().ok()? as u32 == wanted.map_type()
                && there.key_size() == wanted.key_size()
                && there.value_size() == wanted.value_size()
                && there.max_entries() == wanted.max_entries()
                && there.map_flags() == wanted.map_flags();
            same.then(|| (name.clone(), path))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_link_has_a_place_and_a_name_of_its_own() {
        let all: Vec<(usize, String)> = HOOKS
            .iter()
            .flat_map(|hook| (0..targets(hook)).map(move |target| (index(hook, target), name(hook, target))))
            .filter_map(|(index, name)| Some((index?, name)))
            .collect();
        assert!(all.iter().map(|(index, _)| *index).eq(0..all.len()));
        assert!(all.len() <= 4 * 64, "more links than Handover::links has bits");
        assert_eq!(all.iter().map(|(_, name)| name).collect::<HashSet<_>>().len(), all.len());
        // bpf_lookup (kernel/bpf/inode.c) refuses names with dots.
        assert!(all.iter().all(|(_, name)| !name.contains('.')));
    }
}
