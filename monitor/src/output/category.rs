//! ECS categories and types of the finding kinds, and the numeric severity.

use crate::finding::{FindingKind, Outcome, Severity};

/// `event.category`: allowed values of ECS 8, the broadest first.
pub fn categories(kind: FindingKind) -> &'static [&'static str] {
    use FindingKind as K;
    match kind {
        K::Miner => &["intrusion_detection", "malware", "process"],
        K::ReverseShell | K::ShellConnect => &["intrusion_detection", "process", "network"],
        K::DownloadExec => &["intrusion_detection", "malware", "process"],
        K::Drift | K::FilelessExec | K::BaselineExec | K::Recon => &["intrusion_detection", "process"],
        K::PersistenceSshKey | K::PersistenceCron | K::PersistenceOther => {
            &["intrusion_detection", "file", "configuration"]
        }
        K::ImageDenylist => &["intrusion_detection", "malware", "host"],
        K::Ioc => &["intrusion_detection", "threat"],
        K::KubeletAccess | K::DockerSocket | K::MetadataAccess | K::BaselineConnect => {
            &["intrusion_detection", "network"]
        }
        K::Escape => &["intrusion_detection", "host"],
        K::CredentialAccess | K::BaselineFile => &["intrusion_detection", "file"],
        K::Tamper | K::EventLoss => &["intrusion_detection", "host"],
    }
}

/// `event.type`: `info`, and `denied` if the act was stopped.
pub fn types(outcome: &Outcome) -> &'static [&'static str] {
    match outcome {
        Outcome::Denied { .. } | Outcome::Killed { .. } => &["info", "denied"],
        Outcome::Observed | Outcome::Frozen | Outcome::Quarantined | Outcome::Stopping | Outcome::Refused { .. } => {
            &["info"]
        }
    }
}

/// `event.severity`: the numbers Elastic's own rules use for the same words.
pub const fn severity(severity: Severity) -> u32 {
    match severity {
        Severity::Info => 1,
        Severity::Low => 21,
        Severity::Medium => 47,
        Severity::High => 73,
        Severity::Critical => 99,
    }
}

/// The word.
pub const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}
