//! Adding what was seen to entries, and keeping them few: what differs by chance becomes one entry that covers it all.
//! What somebody wrote by hand is never merged away.

use super::entry::{Act, CONTAINERS, Destination, EPHEMERAL, Entry, Layer, Seen, What};
use std::collections::{HashMap, HashSet};

/// Entries of a baseline, at most.
pub const ENTRIES: usize = 500;

/// So many of a kind stay apart; one more, and they become one entry.
const APART: usize = 8;
/// Users of one program start, and ephemeral ports of one destination, that stay apart.
const FEW: usize = 3;

/// Entries that became one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// That one.
    pub into: What,
    /// So many.
    pub from: usize,
}

/// What came of an addition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Entries that are new.
    pub new: Vec<What>,
    /// Entries that became one.
    pub merged: Vec<Merged>,
    /// Acts that found no room.
    pub refused: u64,
}

/// Adds acts to entries. `included` are entries that the file has from elsewhere: what they cover is not added.
pub fn add(entries: &mut Vec<Entry>, included: &[Entry], acts: impl IntoIterator<Item = (Act, Seen)>) -> Added {
    let mut added = Added::default();
    let before: HashSet<What> = entries.iter().map(|entry| entry.what.clone()).collect();
    for (act, seen) in acts {
        if included.iter().any(|entry| entry.what.covers(&act)) {
            continue;
        }
        put(entries, What::of(&act), |what| what.covers(&act), seen);
        // Never many more than there may be: a flood of odd acts must not cost more with each of them.
        if entries.len() > ENTRIES {
            added.merged.extend(narrow(entries));
            added.refused += shed(entries, &before);
        }
    }
    added.merged.extend(narrow(entries));
    added.new = entries.iter().map(|entry| &entry.what).filter(|what| !before.contains(what)).cloned().collect();
    sort(entries);
    added
}

/// Adds the entries of another baseline.
pub fn join(entries: &mut Vec<Entry>, others: &[Entry]) -> Added {
    let mut added = Added::default();
    let before: HashSet<What> = entries.iter().map(|entry| entry.what.clone()).collect();
    for other in others {
        match entries.iter_mut().find(|entry| entry.what == other.what) {
            Some(entry) => match (&mut entry.seen, &other.seen) {
                (Some(seen), Some(more)) => seen.add(more),
                (seen @ None, more) => seen.clone_from(more),
                (Some(_), None) => {}
            },
            None => entries.push(other.clone()),
        }
    }
    added.merged = narrow(entries);
    added.refused = shed(entries, &before);
    added.new = entries.iter().map(|entry| &entry.what).filter(|what| !before.contains(what)).cloned().collect();
    sort(entries);
    added
}

fn put(entries: &mut Vec<Entry>, what: What, covers: impl Fn(&What) -> bool, seen: Seen) {
    match entries.iter_mut().find(|entry| covers(&entry.what)) {
        Some(entry) => match &mut entry.seen {
            Some(known) => known.add(&seen),
            none => *none = Some(seen),
        },
        None => entries.push(Entry { what, seen: Some(seen) }),
    }
}

/// The order of the file: kinds, then what a reader looks for first.
pub fn sort(entries: &mut [Entry]) {
    entries.sort_by_cached_key(|entry| key(&entry.what));
}

/// Place in that order.
pub fn key(what: &What) -> (u8, String) {
    let kind = match what {
        What::Exec { .. } => 0,
        What::Connect { .. } => 1,
        What::Listen { .. } => 2,
        What::File { .. } => 3,
    };
    (kind, what.to_string())
}

/// Takes away what came last until there is room. Returns how many.
fn shed(entries: &mut Vec<Entry>, before: &HashSet<What>) -> u64 {
    let mut shed = 0;
    while entries.len() > ENTRIES {
        let Some(at) = entries.iter().rposition(|entry| !before.contains(&entry.what)) else { break };
        shed += entries.remove(at).seen.map_or(1, |seen| seen.count);
    }
    shed
}

type Coarser = fn(&What) -> Option<What>;

/// From what says least more to what says most more, each with how many stay apart.
const STEPS: &[(Coarser, usize)] = &[
    (any_user, FEW),
    (ephemeral, FEW),
    (|what| network(what, 24, 64), APART),
    (|what| network(what, 16, 48), 4 * APART),
    (|what| sibling(what, 0), APART),
    (|what| sibling(what, 1), APART),
    (|what| sibling(what, 2), APART),
    (|what| below(what), 4 * APART),
];

/// What is done besides when there are too many entries.
const MORE: &[(Coarser, usize)] = &[
    (|what| network(what, 24, 64), 2),
    (|what| sibling(what, 0), 2),
    (|what| sibling(what, 1), 2),
    (|what| below(what), 2),
    (|what| network(what, 16, 48), 2),
];

/// Makes entries fewer where many differ in one place only.
fn narrow(entries: &mut Vec<Entry>) -> Vec<Merged> {
    let mut merged: Vec<Merged> = STEPS.iter().flat_map(|(coarser, apart)| fold(entries, *coarser, *apart)).collect();
    for (coarser, apart) in MORE {
        if entries.len() <= ENTRIES {
            break;
        }
        merged.extend(fold(entries, *coarser, *apart));
    }
    merged
}

fn fold(entries: &mut Vec<Entry>, coarser: Coarser, apart: usize) -> Vec<Merged> {
    let mut groups: HashMap<What, usize> = HashMap::new();
    for wide in entries.iter().filter(|entry| entry.seen.is_some()).filter_map(|entry| coarser(&entry.what)) {
        *groups.entry(wide).or_default() += 1;
    }
    groups.retain(|_, count| *count > apart);
    if groups.is_empty() {
        return Vec::new();
    }
    let mut wide: HashMap<What, Option<Seen>> = HashMap::new();
    entries.retain(|entry| {
        let (Some(seen), Some(what)) = (&entry.seen, coarser(&entry.what)) else { return true };
        if !groups.contains_key(&what) {
            return true;
        }
        match wide.entry(what).or_default() {
            Some(all) => all.add(seen),
            none => *none = Some(seen.clone()),
        }
        false
    });
    for (what, seen) in wide {
        match entries.iter_mut().find(|entry| entry.what == what) {
            Some(entry) => match (&mut entry.seen, seen) {
                (Some(known), Some(seen)) => known.add(&seen),
                (known, seen) => *known = seen,
            },
            None => entries.push(Entry { what, seen }),
        }
    }
    let mut merged: Vec<Merged> = groups.into_iter().map(|(into, from)| Merged { into, from }).collect();
    merged.sort_by_cached_key(|merged| key(&merged.into));
    merged
}

fn any_user(what: &What) -> Option<What> {
    match what {
        What::Exec { parent, exe, layer, form, user: Some(_) } => {
            Some(What::Exec { parent: parent.clone(), exe: exe.clone(), layer: *layer, form: *form, user: None })
        }
        _ => None,
    }
}

fn ephemeral(what: &What) -> Option<What> {
    match what {
        What::Connect { exe, to, port, protocol } if port.first == port.last && EPHEMERAL.covers(port.first) => {
            Some(What::Connect { exe: exe.clone(), to: to.clone(), port: EPHEMERAL, protocol: *protocol })
        }
        _ => None,
    }
}

fn network(what: &What, v4: u8, v6: u8) -> Option<What> {
    let What::Connect { exe, to: Destination::Net(net), port, protocol } = what else { return None };
    let length = if net.addr().is_ipv4() { v4 } else { v6 };
    if net.prefix_len() <= length {
        return None;
    }
    let wide = ipnet::IpNet::new(net.addr(), length).ok()?.trunc();
    Some(What::Connect { exe: exe.clone(), to: Destination::Net(wide), port: *port, protocol: *protocol })
}

fn sibling(what: &What, from_end: usize) -> Option<What> {
    path(what, |pattern| pattern.wider(from_end))
}

fn below(what: &What) -> Option<What> {
    path(what, super::pattern::Pattern::below_folder)
}

/// Only what is not the image's own has paths that are made up.
fn path(what: &What, change: impl Fn(&super::pattern::Pattern) -> Option<super::pattern::Pattern>) -> Option<What> {
    match what {
        What::Exec { parent, exe, layer, form, user } if *layer != Layer::Image => {
            Some(What::Exec { parent: parent.clone(), exe: change(exe)?, layer: *layer, form: *form, user: *user })
        }
        What::File { exe, path, access } => Some(What::File { exe: exe.clone(), path: change(path)?, access: *access }),
        _ => None,
    }
}

const _: () = assert!(APART >= CONTAINERS && FEW >= 1);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::baseline::entry::{Access, Protocol};
    use jiff::Timestamp;

    fn seen(container: &str) -> Seen {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        Seen { count: 1, first: at, last: at, containers: [container.to_owned()].into() }
    }

    fn learn(acts: impl IntoIterator<Item = Act>) -> (Vec<Entry>, Added) {
        let mut entries = Vec::new();
        let added = add(&mut entries, &[], acts.into_iter().map(|act| (act, seen("a"))));
        (entries, added)
    }

    fn connect(ip: &str, port: u16) -> Act {
        let peer = format!("{ip}:{port}").parse().unwrap();
        Act::Connect { exe: "/app".into(), peer, names: Vec::new(), protocol: Protocol(6) }
    }

    fn write(path: &str) -> Act {
        Act::File { exe: "/app".into(), path: path.into(), access: Access::Write }
    }

    fn lines(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|entry| entry.what.to_string()).collect()
    }

    #[test]
    fn random_names_are_one_entry() {
        let (entries, _) = learn((0..1000u32).map(|i| write(&format!("/tmp/tmp.x{:05}Qz", i * 7919))));
        assert_eq!(lines(&entries), ["file     /app writes /tmp/tmp.*"]);
        assert_eq!(entries[0].seen.as_ref().unwrap().count, 1000);
    }

    #[test]
    fn two_replicas_are_counted_and_one_twice_is_one() {
        let mut entries = Vec::new();
        for container in ["a", "b", "a"] {
            add(&mut entries, &[], [(write("/etc/x"), seen(container))]);
        }
        let seen = entries[0].seen.as_ref().unwrap();
        assert_eq!((entries.len(), seen.count, seen.containers.len()), (1, 3, 2));
    }

    #[test]
    fn many_siblings_become_a_pattern_and_few_stay() {
        let (entries, added) =
            learn((0..=APART).map(|i| write(&format!("/srv/site{}/etc/passwd", char::from(b'a' + i as u8)))));
        assert_eq!(lines(&entries), ["file     /app writes /srv/*/etc/passwd"]);
        assert_eq!(added.merged.len(), 1);
        assert_eq!(added.merged[0].from, APART + 1);
        assert_eq!(learn((0..APART).map(|i| write(&format!("/srv/{i}x/a")))).0.len(), APART);
    }

    #[test]
    fn addresses_of_a_network_become_it_and_ports_by_chance_a_range() {
        let (entries, _) = learn((1..=20).map(|i| connect(&format!("10.1.2.{i}"), 443)));
        assert_eq!(lines(&entries), ["connect  /app -> 10.1.2.0/24 port 443/tcp"]);
        let (entries, _) = learn((0..4).map(|i| connect("10.1.2.3", 40_000 + i)));
        assert_eq!(lines(&entries), ["connect  /app -> 10.1.2.3 port 32768-60999/tcp"]);
        assert_eq!(learn([connect("10.1.2.3", 40_000)]).0.len(), 1);
    }

    #[test]
    fn programs_of_the_image_are_never_merged_by_path() {
        let exec = |i: usize| Act::Exec {
            parent: "/bin/sh".into(),
            exe: format!("/usr/bin/tool{i}x"),
            layer: Layer::Image,
            form: None,
            user: 0,
        };
        assert_eq!(learn((0..100).map(exec)).0.len(), 100);
    }

    #[test]
    fn there_are_never_more_than_the_limit_and_what_is_refused_is_counted() {
        let exec = |i: usize| Act::Exec {
            parent: "/bin/sh".into(),
            exe: format!("/usr/bin/tool{i}x"),
            layer: Layer::Image,
            form: None,
            user: 0,
        };
        let (entries, added) = learn((0..ENTRIES + 20).map(exec));
        assert_eq!((entries.len(), added.refused), (ENTRIES, 20));
        let (entries, added) = learn((0..2000).map(|i| connect(&format!("10.{}.{}.9", i / 250, i % 250), 443)));
        assert!(entries.len() <= ENTRIES, "{}", entries.len());
        assert_eq!(added.refused, 0, "they became networks");
    }

    #[test]
    fn what_somebody_wrote_stays_as_it_is() {
        let by_hand = |i: usize| Entry { what: What::of(&write(&format!("/srv/{i}x/a"))), seen: None };
        let mut entries: Vec<Entry> = (0..20).map(by_hand).collect();
        let added = add(&mut entries, &[], [(write("/srv/q/a"), seen("a"))]);
        assert_eq!((entries.len(), added.merged.len()), (21, 0));
    }

    #[test]
    fn the_order_does_not_depend_on_the_way() {
        let acts = [write("/a/b"), connect("10.0.0.1", 1), write("/a/a"), connect("10.0.0.1", 2)];
        let mut other = acts.clone();
        other.reverse();
        assert_eq!(lines(&learn(acts).0), lines(&learn(other).0));
    }

    #[test]
    fn an_included_entry_is_not_added_again() {
        let included = [Entry { what: What::of(&write("/etc/x")), seen: None }];
        let mut entries = Vec::new();
        add(&mut entries, &included, [(write("/etc/x"), seen("a"))]);
        assert!(entries.is_empty());
    }
}
