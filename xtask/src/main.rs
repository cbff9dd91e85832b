//! Build, test and benchmark commands.

mod lab;
mod scenarios;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
enum Command {
    /// Plays scenarios under the monitor and judges what it found.
    Scenarios(scenarios::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    let Command::Scenarios(args) = Command::parse();
    let summary = scenarios::run(&args)?;
    Ok(if summary.is_green() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
