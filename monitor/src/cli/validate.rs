//! `bulkhead validate`: a configuration file and the lists it names, read and checked, no more.

use super::{CliResult, Exit, ValidateArgs};
use crate::baseline::Baseline;
use crate::baseline::store::names;
use crate::config::Loaded;
use crate::output::escape::shown;
use crate::respond::exceptions::today;

pub(super) fn main(args: &ValidateArgs) -> CliResult {
    let loaded = Loaded::load(&args.file)?;
    let lists = &loaded.lists;
    let folder = &loaded.config.baseline.folder;
    let baselines = names(folder);
    for name in &baselines {
        Baseline::load(&folder.join(format!("{name}.toml")))?;
    }
    super::print(&format!(
        "{}: ok (mode {}, {} images denied, {} pool domains, {} sensitive paths, {} exceptions, {} baselines)\n",
        args.file.display(),
        loaded.config.mode.name(),
        lists.images.image.len() + lists.images.digest.len(),
        lists.pools.domains.len() + lists.pools.mixed_domains.len(),
        lists.sensitive.patterns().count(),
        loaded.config.exception.len(),
        baselines.len(),
    ))?;
    let today = today();
    for rule in loaded.config.exception.iter().filter(|rule| rule.is_over(today)) {
        let day = rule.expires.map(|day| day.to_string()).unwrap_or_default();
        super::print(&format!("the exception \"{}\" was over with {day} and does not hold\n", shown(&rule.reason)))?;
    }
    Ok(Exit::Ok)
}
