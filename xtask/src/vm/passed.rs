//! Guests that have passed: `--resume` does not boot them again while nothing they are made from has changed. A run of
//! the whole matrix takes long; one guest that failed, or a run that was interrupted, does not cost the others.

use super::guest::{End, Outcome};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of what is kept of a guest: what its initramfs holds (modules, programs, tests, job) and what goes with it.
pub fn key(initramfs: &[u8], others: &str) -> String {
    let hash = Sha256::new().chain_update(others).chain_update([0]).chain_update(initramfs).finalize();
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn file(cache: &Path, key: &str) -> PathBuf {
    cache.join("passed").join(key)
}

/// What the guest left when it passed.
pub fn find(cache: &Path, key: &str) -> Option<Outcome> {
    let console = file(cache, key);
    let text = fs::read_to_string(&console).ok()?;
    let (times, results) = text.split_once('\n')?;
    let (took, cost) = times.split_once(' ')?;
    let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
    Some(Outcome { end: End::Finished, results: results.to_owned(), took: millis(took)?, cost: millis(cost)?, console })
}

/// Keeps what a guest that passed has left.
///
/// # Errors
/// The file cannot be written.
pub fn keep(cache: &Path, key: &str, outcome: &Outcome) -> Result<()> {
    let file = file(cache, key);
    let text = format!("{} {}\n{}", outcome.took.as_millis(), outcome.cost.as_millis(), outcome.results);
    fs::create_dir_all(cache.join("passed"))
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_kept_is_found_under_the_same_key_only() {
        let cache = std::env::temp_dir().join(format!("passed-{}", std::process::id()));
        let outcome = Outcome {
            end: End::Finished,
            results: "@section x\ny\n".to_owned(),
            took: Duration::from_secs(9),
            cost: Duration::from_millis(8500),
            console: PathBuf::new(),
        };
        let here = key(b"programs", "6.1 lsm v2");
        keep(&cache, &here, &outcome).unwrap();
        let found = find(&cache, &here).unwrap();
        assert_eq!((found.results, found.took, found.cost), (outcome.results, outcome.took, outcome.cost));
        assert!(find(&cache, &key(b"programs", "6.1 no-lsm v2")).is_none());
        assert!(find(&cache, &key(b"other programs", "6.1 lsm v2")).is_none());
        fs::remove_dir_all(cache).unwrap();
    }
}
