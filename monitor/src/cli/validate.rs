//! `bulkhead validate`: a configuration file and the lists it names, read and checked, no more.

use super::{CliResult, Exit, ValidateArgs};
use crate::config::Loaded;

pub(super) fn main(args: &ValidateArgs) -> CliResult {
    let loaded = Loaded::load(&args.file)?;
    let lists = &loaded.lists;
    super::print(&format!(
        "{}: ok (mode {}, {} images denied, {} pool domains, {} sensitive paths)\n",
        args.file.display(),
        loaded.config.mode.name(),
        lists.images.image.len() + lists.images.digest.len(),
        lists.pools.domains.len() + lists.pools.mixed_domains.len(),
        lists.sensitive.patterns().count(),
    ))?;
    Ok(Exit::Ok)
}
