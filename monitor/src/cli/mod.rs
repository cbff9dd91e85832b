//! The command line: definitions of all subcommands, and what they share. One file a subcommand.

pub mod audit;
mod baseline;
mod check;
mod demo;
mod docs;
mod events;
mod exit;
mod explain;
mod handover;
mod incidents;
mod log;
mod order;
mod record;
mod replay;
mod run;
mod status;
mod trim;
mod unload;
mod validate;

pub use baseline::{BaselineArgs, BaselineCommand};
pub use exit::{CliError, CliResult, Exit};
pub use explain::ExplainArgs;
pub use incidents::{IncidentsArgs, LogArgs, ReportArgs, ReportFormat};

use crate::config::{Config, Loaded};
use crate::control::DEFAULT_SOCKET;
use crate::response::Deed;
use clap::{Args, Parser, Subcommand};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Configuration file that is read if it exists and none is named.
pub const DEFAULT_CONFIG: &str = "/etc/bulkhead/bulkhead.toml";

/// Watches what containers do, and stops what does not belong there.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, propagate_version = true, after_help = EXIT_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_HELP: &str = "Exit status: 0 fine, 1 failure (audit: something was found), 64 bad usage or \
configuration, 69 this kernel lacks something, 77 missing privilege.";

/// A subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the monitor in the foreground (as root)
    Run(RunArgs),
    /// Tell what this kernel offers, what is missing and what to do about it; attaches the programs for a moment
    /// (as root), enforces nothing and leaves nothing behind
    Check(CheckArgs),
    /// Check a configuration file and the lists it names; changes nothing
    Validate(ValidateArgs),
    /// Show the alerts of the running monitor
    Events(EventsArgs),
    /// List incidents: findings of one attack, by lineage and provenance
    Incidents(IncidentsArgs),
    /// Tell one incident as a story: where it came from, what it became, what it did, what was stopped
    Report(ReportArgs),
    /// Say why a finding was made, which exception would silence it, and what else that would hide
    Explain(ExplainArgs),
    /// Look at, change, promote and compare baselines: what the containers of an image are expected to do
    Baseline(BaselineArgs),
    /// Show the state of the running monitor
    Status(StatusArgs),
    /// Cut a container off from all networks: established connections too, inbound and outbound
    Quarantine(OrderArgs),
    /// Give a quarantined container its network back
    Release(OrderArgs),
    /// Stop every process of a container where it is
    Freeze(OrderArgs),
    /// Let a frozen container go on
    Thaw(OrderArgs),
    /// Detach and remove what a daemon that has ended left in the kernel
    Unload(UnloadArgs),
    /// Keep what the running monitor judges in a file, until interrupted
    Record(RecordArgs),
    /// Judge recordings again, with a configuration of your choice; needs neither root nor a kernel half
    Replay(ReplayArgs),
    /// Look for containers made from a bad image or already under attack; exits 1 if there are any
    Audit(AuditArgs),
    /// See it work: three harmless attacks in a throw-away container, caught and stopped
    Demo(DemoArgs),
    /// Write the files that are generated from the sources, or check that they are fresh
    #[command(hide = true)]
    Docs(DocsArgs),
    /// What the running monitor does in a cgroup of its own to see it stopped: run, or connect
    #[command(hide = true)]
    Canary {
        /// Where to connect to
        #[arg(value_name = "ADDRESS")]
        to: Option<std::net::SocketAddr>,
    },
}

/// Where the configuration is.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArg {
    /// Configuration file [default: /etc/bulkhead/bulkhead.toml if it exists, else built-in defaults]
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `bulkhead run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Pin nothing, whatever the configuration says: everything ends with this process
    #[arg(long)]
    pub no_pins: bool,
}

/// `bulkhead unload`.
#[derive(Clone, Debug, Args)]
pub struct UnloadArgs {
    /// Configuration that names the folder of the pins.
    #[command(flatten)]
    pub config: ConfigArg,
}

/// `bulkhead check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `bulkhead validate`.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Which daemon to ask.
#[derive(Clone, Debug, Args)]
pub struct SocketArg {
    /// Control socket [default: as in the configuration]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Configuration that names the socket.
    #[command(flatten)]
    pub config: ConfigArg,
}

/// `bulkhead events`.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now, instead of ending after the alerts of the past
    #[arg(long, short)]
    pub follow: bool,
    /// JSON rows instead of text for people
    #[arg(long)]
    pub json: bool,
    /// Alerts of the past, at most [default: all that are remembered; with --follow none]
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub last: Option<usize>,
    /// Which daemon.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `bulkhead status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// One JSON object instead of lines
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `bulkhead quarantine`, `release`, `freeze`, `thaw`.
#[derive(Clone, Debug, Args)]
pub struct OrderArgs {
    /// Name of a running container, its id, or the beginning of its id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Which daemon.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `bulkhead record`.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// The file to make; one that exists is not touched
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// End after so many seconds [default: when interrupted]
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// Keep only what this container does: its name, its id, or the beginning of its id
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Leave out what the host does
    #[arg(long)]
    pub no_host: bool,
    /// Which daemon.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// `bulkhead replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Recordings, each judged by itself
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// JSON rows instead of text for people
    #[arg(long)]
    pub json: bool,
    /// Lay the recordings beside each other, judge them N times as one long one, twice, and tell how fast that was and
    /// whether both said the same, instead of the alerts
    #[arg(long, value_name = "N", conflicts_with = "json", value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: Option<u64>,
}

/// `bulkhead audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `bulkhead demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Only watch the attacks (mode `monitor`) instead of stopping them
    #[arg(long)]
    pub monitor: bool,
}

/// `bulkhead docs`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DocsArgs {
    /// Write the files below this folder (the repository)
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// Compare with the files below this folder; exits 1 if one is stale
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    pub check: Option<PathBuf>,
}

impl ConfigArg {
    /// The file that is to be read, if any.
    pub fn path(&self) -> Option<PathBuf> {
        let default = || Some(PathBuf::from(DEFAULT_CONFIG)).filter(|p| p.exists());
        self.config.clone().or_else(default)
    }

    /// Reads the configuration and its lists.
    ///
    /// # Errors
    /// It is not accepted: exit status 64.
    pub fn load(&self) -> Result<Loaded, CliError> {
        let loaded = self.path().map_or_else(Loaded::builtin, |path| Loaded::load(&path));
        Ok(loaded?)
    }
}

impl SocketArg {
    /// The socket to talk to.
    ///
    /// # Errors
    /// The configuration that would name it is not accepted, or says that there is none.
    pub fn path(&self) -> Result<PathBuf, CliError> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        let Some(file) = self.config.path() else {
            return Ok(DEFAULT_SOCKET.into());
        };
        let socket = Config::load(&file)?.control.socket;
        if socket.as_os_str().is_empty() {
            let why = format!("{} turns the control socket off", file.display());
            return Err(CliError::failure(why));
        }
        Ok(socket)
    }
}

/// Parses the arguments of this process and does what they say.
pub fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come this way too.
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            let _ = error.print();
            return code.into();
        }
    };
    match dispatch(&cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "bulkhead: {error}");
            error.exit().into()
        }
    }
}

fn dispatch(command: &Command) -> CliResult {
    match command {
        Command::Validate(args) => validate::main(args),
        Command::Events(args) => events::main(args),
        Command::Incidents(args) => incidents::list(args),
        Command::Report(args) => incidents::report(args),
        Command::Explain(args) => explain::main(args),
        Command::Baseline(args) => baseline::main(args),
        Command::Status(args) => status::main(args),
        Command::Quarantine(args) => order::main(Deed::Quarantine, args),
        Command::Release(args) => order::main(Deed::Release, args),
        Command::Freeze(args) => order::main(Deed::Freeze, args),
        Command::Thaw(args) => order::main(Deed::Thaw, args),
        Command::Record(args) => record::main(args),
        Command::Replay(args) => replay::main(args),
        Command::Docs(args) => docs::main(args),
        Command::Canary { to } => Ok(match crate::canary::sing(*to) {
            crate::canary::RAN => Exit::Ok,
            crate::canary::REFUSED => Exit::Privilege,
            _ => Exit::Failure,
        }),
        Command::Run(args) => run::main(args),
        Command::Unload(args) => unload::main(args),
        Command::Check(args) => check::main(args),
        Command::Audit(args) => audit_main(args),
        Command::Demo(args) => demo::main(args),
    }
}

/// `bulkhead audit`: the detectors judge what runs, without a kernel half.
fn audit_main(args: &AuditArgs) -> CliResult {
    use crate::container::docker;
    use crate::detect::{Context, Detectors, NoFacts};
    use crate::pipeline::{Compiled, classify};
    let loaded = args.config.load()?;
    require_root("audit")?;
    let compiled = Compiled::new(&loaded).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    let mut processes = crate::provenance::ProcessTable::default();
    let mut detectors = Detectors::new();
    let engine = &loaded.config.engine;
    let mut audit = audit::Audit {
        engine: engine.docker.then(|| docker::Settings::new(&engine.docker_socket)),
        denylist: &compiled.denylist,
        classify: &|name, print| classify(&compiled.lists, name, print),
        judge: &mut |event, _| {
            processes.apply(event);
            let cx = Context { processes: &processes, settings: &compiled.settings, containers: &NoFacts };
            detectors.on_event(event, &cx)
        },
        host: compiled.watch_host,
        json: args.json,
    };
    match audit::run(&mut audit, &mut io::stdout().lock()) {
        Ok(0) => Ok(Exit::Ok),
        Ok(_) => Ok(Exit::Failure),
        Err(error) => {
            let exit = match error.exit_code() {
                69 => Exit::Kernel,
                77 => Exit::Privilege,
                _ => Exit::Failure,
            };
            Err(CliError::new(exit, error.to_string()))
        }
    }
}

/// Writes to standard output; a reader that went away (`| head`) ends the program in good order.
///
/// # Errors
/// Anything else that goes wrong with standard output.
pub fn print(text: &str) -> Result<Printed, CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Printed::Yes),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Printed::ReaderGone),
        Err(error) => Err(CliError::failure(format!("standard output: {error}"))),
    }
}

/// Was it read?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    /// It was written.
    Yes,
    /// Nobody reads any more.
    ReaderGone,
}

/// Ends with exit status 77 unless this process is root.
///
/// # Errors
/// It is not root; `what` is what root is needed for.
pub fn require_root(what: &str) -> Result<(), CliError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(CliError::new(Exit::Privilege, format!("{what} needs root: run it with sudo")))
}

/// Reads `path`, naming it in the error.
fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|e| CliError::failure(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests;
