//! Build, test and benchmark commands: `cargo xtask …`.

mod baselines;
mod bench;
mod build;
mod check;
mod churn;
mod lab;
mod process;
mod run;
mod scenarios;
mod setup;
mod test;
mod vm;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use process::Failure;
use std::process::ExitCode;

/// Bulkhead's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need; does nothing when nothing is missing.
    Setup,
    /// Build the eBPF object and the daemon that embeds it.
    Build {
        /// Optimised, as shipped and measured.
        #[arg(long)]
        release: bool,
    },
    /// Set up, build, and run the monitor on this terminal.
    Run {
        /// Passed on to `bulkhead run`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the unit tests and, as root, the privileged tests and the scenarios.
    Test(test::Options),
    /// Check formatting, lints, dependencies, licences and generated files.
    Check,
    /// Measure what the monitor costs: with and without it, in turn.
    Bench(bench::Options),
    /// The process that the benchmark measures.
    #[command(hide = true)]
    BenchWorker(bench::worker::WorkerOptions),
    /// Start and stop containers by the thousand under the monitor: each identified, memory flat.
    Churn(churn::Options),
    /// Let real services teach their baselines, hold them to these under load, and attack them.
    Baselines(baselines::Options),
    /// Play scenarios in containers under a fresh monitor and judge what it found and stopped.
    Scenarios(scenarios::Args),
    /// Run the privileged tests on other kernels, under QEMU.
    Vm(vm::Options),
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            let status = error.downcast_ref::<Failure>().map_or(1, |failure| failure.status);
            ExitCode::from(status)
        }
    }
}

fn dispatch(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::run(setup::Purpose::Test).map(drop)?,
        Task::Build { release } => {
            let profile = if release { build::Profile::Release } else { build::Profile::Dev };
            let daemon = build::all(profile)?;
            println!("{}", daemon.display());
        }
        Task::Run { arguments } => run::run(&arguments)?,
        Task::Test(options) => return test::run_tests(&options),
        Task::Check => check::check()?,
        Task::Bench(options) => bench::run(&options)?,
        Task::BenchWorker(options) => bench::worker::work(&options)?,
        Task::Vm(options) => {
            return Ok(if vm::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Task::Baselines(options) => return baselines::run(&options),
        Task::Churn(options) => return churn::run(&options),
        Task::Scenarios(arguments) => {
            return Ok(if scenarios::run(&arguments)?.is_green() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}
