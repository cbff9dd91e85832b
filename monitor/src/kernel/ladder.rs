//! The ladder as it stands on this host: what became of each hook of the table.

use super::hooks::{Fact, Hook, Power};
use serde::Serialize;

/// What became of one hook.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Program name.
    pub program: &'static str,
    /// What it tells.
    pub fact: Fact,
    /// Kind of door.
    pub door: &'static str,
    /// What it hangs on.
    pub target: String,
    /// How far it can act.
    pub power: Power,
    /// `active`, `not_needed` (a better door is open) or `refused`.
    pub state: State,
    /// For `refused`: the kernel's answer; for `not_needed`: what the kernel lacks for it, if that is known; else empty.
    pub why: String,
    /// What is lost if nothing else tells of it.
    pub without: &'static str,
    /// Instructions the verifier walked; 0 if the program is not loaded or the kernel (before
    /// 5.16) does not tell.
    pub verified: u32,
}

impl Step {
    /// The line of a hook.
    pub fn new(hook: &Hook, state: State, why: String, verified: u32) -> Self {
        Self {
            program: hook.program,
            fact: hook.fact,
            door: hook.door.name(),
            target: hook.door.target(),
            power: hook.power,
            state,
            why,
            without: hook.without,
            verified,
        }
    }
}

/// State of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attached.
    Active,
    /// A better door of the same fact is open.
    NotNeeded,
    /// The kernel said no.
    Refused,
}

/// The ladder as it stands on this host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ladder {
    /// Every hook of the table, in its order.
    pub steps: Vec<Step>,
    /// Kernel fields this kernel lacks, with what reads them empty.
    pub missing_fields: Vec<String>,
}

impl Ladder {
    /// In a sentence: by which door each fact comes in and how far it can act there, and what was
    /// refused.
    pub fn summary(&self) -> String {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let mut doors: Vec<String> = Vec::new();
        let mut refused: Vec<&str> = Vec::new();
        for step in &self.steps {
            let fact = word(serde_json::to_value(step.fact).unwrap_or_default());
            let power = word(serde_json::to_value(step.power).unwrap_or_default());
            let line = format!("{fact} by {} ({power})", step.door);
            match step.state {
                State::Active if !doors.contains(&line) => doors.push(line),
                State::Refused => refused.push(step.program),
                State::Active | State::NotNeeded => {}
            }
        }
        let mut text = doors.join(", ");
        if !refused.is_empty() {
            text = format!("{text}; refused by this kernel: {}", refused.join(", "));
        }
        text
    }

    /// Is this program attached?
    pub fn is_active(&self, program: &str) -> bool {
        self.steps.iter().any(|step| step.program == program && step.state == State::Active)
    }

    /// Facts nothing tells of. (What cannot be refused is told of by others.)
    pub fn blind(&self) -> Vec<Fact> {
        let mut blind: Vec<Fact> = self
            .steps
            .iter()
            .map(|step| step.fact)
            .filter(|fact| *fact != Fact::Refusal)
            .filter(|fact| !self.steps.iter().any(|step| step.fact == *fact && step.state == State::Active))
            .collect();
        blind.dedup();
        blind
    }
}
