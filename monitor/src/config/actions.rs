//! `[actions]`: what is done about each kind of finding in `protect`.

use super::doc::section;
use crate::finding::{Action, FindingKind};

section! {
    /// What is done about each kind of finding in a container whose mode is `protect`: `alert`, `deny`
    /// (refuse the act with EPERM where this kernel offers such a door, else kill), `kill` (the culprit and
    /// its descendants), `freeze` (every process of the container stops where it is), `quarantine` (no
    /// packet and no connection of the container passes, established ones included) or `stop` (the engine
    /// stops the container). The last three let the act itself happen and contain its consequences;
    /// docs/responses.md tells what each can do. In `monitor` everything is an alert. Acted on by default is
    /// only what has no honest look-alike and cannot wait for a person.
    Actions {
        /// Kill: a mining program has no state to lose. Holds for evidence of at least `miner.kill_score`;
        /// below that it stays an alert.
        miner: Action = Action::Kill;
        /// Kill: whoever types at the other end must not get a second command in.
        reverse_shell: Action = Action::Kill;
        /// Alert: a shell that holds a connection may be a health check.
        shell_connect: Action = Action::Alert;
        /// Kill: the interpreter or the downloaded program dies before its first instruction.
        download_exec: Action = Action::Kill;
        /// Alert: a container that builds software runs what it built.
        drift: Action = Action::Alert;
        /// Alert: some runtimes start themselves from memory.
        fileless_exec: Action = Action::Alert;
        /// Deny: the key must not get into the file; the program may live on.
        persistence_ssh_key: Action = Action::Deny;
        /// Deny: a cron line outlives the container when the folder belongs to the host.
        persistence_cron: Action = Action::Deny;
        /// Deny: the same, for ld.so.preload, units and shell start-up files.
        persistence_other: Action = Action::Deny;
        /// Alert: to kill for it would be to kill the whole container, which is a person's decision.
        image_denylist: Action = Action::Alert;
        /// Alert: indicators age, and are shared with honest services.
        ioc: Action = Action::Alert;
        /// Deny: a container with business at the kubelet is rare and known by name; give it
        /// `bulkhead.mode=monitor`.
        kubelet_access: Action = Action::Deny;
        /// Deny: the runtime's socket is root on the host.
        docker_socket: Action = Action::Deny;
        /// Deny: the metadata service hands out the node's own credentials.
        metadata_access: Action = Action::Deny;
        /// Kill: whoever stands in the host's namespaces or files is out of reach of everything else here. A node agent
        /// that does so by design is known by name; give it `bulkhead.mode=monitor`.
        escape: Action = Action::Kill;
        /// Alert: backups and agents read the same files.
        credential_access: Action = Action::Alert;
        /// Deny, where the baseline's own mode is `protect`; else it is only told. The program is killed before its
        /// first instruction, or by the daemon (docs/baselines.md).
        baseline_exec: Action = Action::Deny;
        /// Deny, as `baseline_exec`: a connection is refused by the kernel half, or told only (docs/baselines.md).
        baseline_connect: Action = Action::Deny;
        /// Deny, as `baseline_exec`: the daemon kills who opened it.
        baseline_file: Action = Action::Deny;
        /// Alert: looking around is not yet an attack.
        recon: Action = Action::Alert;
        /// Deny: whoever can end the monitor can do the rest unseen (docs/self-protection.md).
        tamper: Action = Action::Deny;
        /// Alert: there is nobody to act against.
        event_loss: Action = Action::Alert;
    }
}

impl Actions {
    /// The action for a kind.
    pub fn of(&self, kind: FindingKind) -> Action {
        match kind {
            FindingKind::Miner => self.miner,
            FindingKind::ReverseShell => self.reverse_shell,
            FindingKind::ShellConnect => self.shell_connect,
            FindingKind::DownloadExec => self.download_exec,
            FindingKind::Drift => self.drift,
            FindingKind::FilelessExec => self.fileless_exec,
            FindingKind::PersistenceSshKey => self.persistence_ssh_key,
            FindingKind::PersistenceCron => self.persistence_cron,
            FindingKind::PersistenceOther => self.persistence_other,
            FindingKind::ImageDenylist => self.image_denylist,
            FindingKind::Ioc => self.ioc,
            FindingKind::KubeletAccess => self.kubelet_access,
            FindingKind::DockerSocket => self.docker_socket,
            FindingKind::MetadataAccess => self.metadata_access,
            FindingKind::Escape => self.escape,
            FindingKind::CredentialAccess => self.credential_access,
            FindingKind::BaselineExec => self.baseline_exec,
            FindingKind::BaselineConnect => self.baseline_connect,
            FindingKind::BaselineFile => self.baseline_file,
            FindingKind::Recon => self.recon,
            FindingKind::Tamper => self.tamper,
            FindingKind::EventLoss => self.event_loss,
        }
    }
}
