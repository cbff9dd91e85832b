//! `bulkhead baseline edit`: a copy in the editor, put in place only if it is accepted.

use super::Shelf;
use crate::baseline::Baseline;
use crate::baseline::write::{lock, replace};
use crate::cli::{CliError, CliResult, Exit, print, read};
use crate::config::ConfigError;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Drafts of one baseline that may lie about.
const DRAFTS: u32 = 100;

/// Lets somebody change a baseline's text. What is not accepted changes nothing, and is kept.
pub(super) fn main(shelf: &Shelf, wanted: &str, editor: &str) -> CliResult {
    let name = shelf.find(wanted)?;
    let path = shelf.path(&name);
    let before = read(&path)?;
    let draft = draft(&path, &before)?;
    let kept =
        |why: String| CliError::failure(format!("{why}; nothing is changed, your text is in {}", draft.display()));
    // As other programs do: what the variable says may have arguments.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("editor").arg(&draft).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(kept(format!("`{editor}` ended with {status}"))),
        Err(error) => return Err(kept(format!("`{editor}` cannot be started: {error}"))),
    }
    let after = read(&draft).map_err(|error| kept(error.to_string()))?;
    if after == before {
        let _ = std::fs::remove_file(&draft);
        print(&format!("{name}: not changed\n"))?;
        return Ok(Exit::Ok);
    }
    let _lock = lock(&shelf.folder)?;
    // With the path that it will have: that is what includes are looked up from, and errors name.
    let refused = |error: ConfigError| CliError::new(Exit::Usage, kept(error.to_string()).to_string());
    let baseline = Baseline::parse(&path, &after).map_err(refused)?;
    if read(&path).is_ok_and(|now| now != before) {
        return Err(kept(format!("{name} was changed by somebody else meanwhile")));
    }
    replace(&path, &after)?;
    let _ = std::fs::remove_file(&draft);
    print(&format!("{name}: changed, {} entries, mode {}\n", baseline.all().count(), baseline.stage.name()))?;
    Ok(Exit::Ok)
}

/// The editor that is asked for, as other programs find it.
pub(super) fn editor() -> String {
    let named = ["VISUAL", "EDITOR"].iter().filter_map(|name| std::env::var(name).ok());
    named.into_iter().find(|editor| !editor.trim().is_empty()).unwrap_or_else(|| "vi".to_owned())
}

/// A copy beside the original, under a name that is no baseline's, for nobody else to read.
fn draft(path: &Path, text: &str) -> Result<PathBuf, CliError> {
    let free = |number: u32| {
        let draft = path.with_extension(format!("toml.edit-{number}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        match file {
            // One that was kept, or somebody else's.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
            other => Some((draft, other)),
        }
    };
    let drafts = (1..DRAFTS).find_map(free);
    let (draft, file) =
        drafts.ok_or_else(|| CliError::failure(format!("too many drafts beside {}", path.display())))?;
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| CliError::failure(format!("{}: {error}", draft.display())))?;
    Ok(draft)
}
