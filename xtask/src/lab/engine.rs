//! The running lab: its house, and what makes its containers. Everything but the cache goes when it is
//! dropped.

use super::bare::Bare;
use super::docker::Docker;
use super::house::{House, Terms};
use super::process::Interrupt;
use super::runtime::{Kind, Runtime};
use anyhow::Result;
use std::ops::Deref;
use std::sync::Arc;

/// The running lab.
pub struct Engine {
    // Dropped in this order: containers end before the house is cleared.
    runtime: Box<dyn Runtime>,
    house: Arc<House>,
}

impl Engine {
    /// Starts it; ends with an error, and nothing left behind, when it cannot.
    pub fn start(kind: Kind, terms: Terms, interrupt: &Interrupt) -> Result<Self> {
        let house = Arc::new(House::open(interrupt, terms)?);
        let runtime: Box<dyn Runtime> = match kind {
            Kind::Docker => Box::new(Docker::start(Arc::clone(&house))?),
            Kind::Bare => Box::new(Bare::start(Arc::clone(&house))?),
        };
        Ok(Self { runtime, house })
    }

    /// What makes the containers.
    pub fn runtime(&self) -> &dyn Runtime {
        self.runtime.as_ref()
    }
}

impl Deref for Engine {
    type Target = House;

    fn deref(&self) -> &House {
        &self.house
    }
}
