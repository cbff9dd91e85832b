//! `bulkhead docs`: files that say what the sources say. A test fails when one is stale.

use super::{CliError, CliResult, DocsArgs, Exit};
use crate::finding::{FindingKind, Severity};
use crate::output::category;
use crate::{config, output, privileges};
use std::fmt::Write as _;
use std::path::Path;

pub(super) fn main(args: &DocsArgs) -> CliResult {
    let files = files()?;
    if let Some(folder) = &args.write {
        for (name, text) in &files {
            write(&folder.join(name), text)?;
        }
        return Ok(Exit::Ok);
    }
    let folder = args.check.as_deref().unwrap_or(Path::new("."));
    let stale: Vec<&str> = stale(folder, &files);
    if stale.is_empty() {
        return Ok(Exit::Ok);
    }
    Err(CliError::failure(format!("stale: {}; run `bulkhead docs --write {}`", stale.join(", "), folder.display())))
}

/// Every generated file: path in the repository, contents.
pub(super) fn files() -> Result<Vec<(&'static str, String)>, CliError> {
    let schema = output::schema::json().map_err(|e| CliError::failure(format!("schema: {e}")))?;
    Ok(vec![
        ("config/bulkhead.toml", config::sample::toml()),
        ("docs/configuration.md", config::sample::markdown()),
        ("docs/findings.md", findings()),
        ("docs/alert.schema.json", schema),
        ("docs/capabilities.md", privileges::markdown()),
    ])
}

pub(super) fn stale<'a>(folder: &Path, files: &[(&'a str, String)]) -> Vec<&'a str> {
    let fresh = |name: &str, text: &str| super::read(&folder.join(name)).is_ok_and(|t| t == text);
    files.iter().filter(|(name, text)| !fresh(name, text)).map(|(name, _)| *name).collect()
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    let make = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, text)
    };
    make().map_err(|e| CliError::failure(format!("{}: {e}", path.display())))
}

const FINDINGS: &str = "\
# Findings

What Bulkhead finds, under which name it appears (`event.action`, `rule.name`, `[actions]`), the ATT&CK
technique and severity it is reported with when the case at hand does not call for another, and what is done
about it by default in `protect`. In `monitor` everything is an alert, and on the host nothing else is done.

Generated from `monitor/src/finding.rs` and `monitor/src/config/actions.rs` by `bulkhead docs --write`.

| kind | meaning | technique | severity | in `protect` |
| --- | --- | --- | --- | --- |
";

const SEVERITIES: &str = "
## Severity

`event.severity` is a number, `bulkhead.finding.severity` the word:

| word | number |
| --- | --- |
";

fn findings() -> String {
    let actions = config::Actions::default();
    let mut out = FINDINGS.to_owned();
    for kind in FindingKind::ALL {
        let doc: Vec<&str> = kind.doc().lines().map(str::trim).collect();
        let technique = kind.technique();
        let _ = writeln!(
            out,
            "| `{}` | {} | [{technique}](https://attack.mitre.org/techniques/{}/) | {} | {:?} |",
            kind.name(),
            doc.join(" ").trim(),
            technique.replace('.', "/"),
            category::severity_name(kind.severity()),
            actions.of(*kind),
        );
    }
    out = out.replace(" Alert |\n", " alert |\n").replace(" Kill |\n", " kill |\n");
    out = out.replace(" Deny |\n", " deny |\n");
    out.push_str(SEVERITIES);
    use Severity as S;
    for severity in [S::Info, S::Low, S::Medium, S::High, S::Critical] {
        let (word, number) = (category::severity_name(severity), category::severity(severity));
        let _ = writeln!(out, "| {word} | {number} |");
    }
    out
}
