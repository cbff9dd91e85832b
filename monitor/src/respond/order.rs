//! Orders on the control socket: which container is meant, and the guard rails. An order is a person's
//! decision and so is taken in mode `monitor` too; what is out of bounds for findings is so for orders.

use super::policy::{Mode, Rules};
use crate::container::Registry;
use crate::container::registry::Container;
use crate::event::HOST;
use crate::response::Deed;
use std::sync::Arc;

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No container, or more than one, is meant.
    #[error("{0}")]
    Unknown(String),
    /// A guard rail or the system.
    #[error("{0}")]
    Refused(String),
}

/// Finds a running container by its name, its id, or the beginning of its id.
///
/// # Errors
/// [`OrderError::Unknown`] if there is none or more than one; [`OrderError::Refused`] for the host.
pub fn find(registry: &Registry, text: &str) -> Result<Arc<Container>, OrderError> {
    if text == "host" {
        return Err(OrderError::Refused(NEVER_THE_HOST.into()));
    }
    let live = registry.live();
    let exact = |container: &&Arc<Container>| container.id == text || container.metadata.name == text;
    if let Some(container) = live.iter().find(exact).filter(|_| !text.is_empty()) {
        return Ok(Arc::clone(container));
    }
    let found: Vec<_> = live.iter().filter(|c| !text.is_empty() && c.id.starts_with(text)).collect();
    match found.as_slice() {
        [one] => Ok(Arc::clone(one)),
        [] => Err(OrderError::Unknown(format!("no running container has the name or id {text:?}"))),
        several => {
            let names: Vec<&str> = several.iter().map(|c| c.id.get(..16).unwrap_or(&c.id)).take(8).collect();
            Err(OrderError::Unknown(format!("{} containers begin with {text:?}: {}", several.len(), names.join(", "))))
        }
    }
}

const NEVER_THE_HOST: &str = "nothing is ever done to the host itself";

/// May this be done to the container? What undoes a response always may.
///
/// # Errors
/// [`OrderError::Refused`] names the guard rail.
pub fn allowed(rules: &Rules, registry: &Registry, container: &Container, deed: Deed) -> Result<(), OrderError> {
    let refused = |why: &str| Err(OrderError::Refused(why.into()));
    if container.key == HOST {
        return refused(NEVER_THE_HOST);
    }
    if container.gone {
        return refused("the container has ended");
    }
    if matches!(deed, Deed::Thaw | Deed::Release) {
        return Ok(());
    }
    if is_own(registry, container) {
        return refused("it is the container that Bulkhead itself runs in");
    }
    if rules.mode(container) == Mode::Off {
        return refused("its mode is off (label bulkhead.mode, or the configuration)");
    }
    match rules.in_scope(container) {
        Some(true) => Ok(()),
        Some(false) => refused("it is out of the scope that [scope] sets"),
        None => refused("it is not known yet whether it is in the scope that [scope] sets: its labels are missing"),
    }
}

/// Is it the container this daemon runs in?
pub fn is_own(registry: &Registry, container: &Container) -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    registry.key_of_process(&own) == Some(container.key)
}
