//! `cargo xtask test`: unit tests anywhere; as root also the privileged tests, then the scenarios, and beside them, as they
//! mostly wait, the privileged tests on other kernels; all on the object and daemon built here. Ends with `N passed, N failed, N skipped`.

pub mod artefacts;
pub mod required;
mod scenarios;
pub mod tally;

use crate::build::{self, Profile};
use crate::lab::Engine;
use crate::lab::house::Terms;
use crate::lab::images::Images;
use crate::lab::process::Interrupt;
use crate::lab::runtime::Kind;
use crate::process::{cargo, is_root, run, tee};
use crate::setup::{self, Purpose};
use crate::vm::stage::Guests;
use crate::workspace;
use anyhow::{Context, Result, bail};
use artefacts::{PRIVILEGED, TestBinary};
use std::process::{Command, ExitCode};
use tally::Tally;

/// Tells the privileged tests which daemon to test.
const DAEMON_VARIABLE: &str = "BULKHEAD_BINARY";
/// Tell them of a Docker engine and an image in it.
const ENGINE_VARIABLES: [&str; 2] = ["BULKHEAD_TEST_DOCKER", "BULKHEAD_TEST_IMAGE"];
/// The image: all of it is in one program, and it is built in seconds.
const ENGINE_IMAGE: &str = "busybox";

/// What to run.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Leave out the slow part: privileged tests that take long, all scenario files but the first, scenarios in protect
    /// mode, and the guests with other kernels.
    #[arg(long)]
    pub quick: bool,
    /// Only tests and scenarios whose name contains this.
    #[arg(long, value_name = "WORD")]
    pub only: Option<String>,
}

/// The results so far, by the stage that must-run names refer to.
#[derive(Debug, Default)]
struct Results {
    unit: Tally,
    privileged: Option<Tally>,
    scenarios: Option<Tally>,
    guests: Option<Tally>,
}

/// Runs the tests. The status tells whether all that ran passed and all that had to run did.
pub fn run_tests(options: &Options) -> Result<ExitCode> {
    let root = is_root();
    if root {
        // Before the tests are compiled: the daemon's crate embeds the object.
        build::object(&setup::run(Purpose::Test)?)?;
    }
    let only = options.only.as_deref();
    let binaries = artefacts::build()?;
    let (privileged, unit): (Vec<_>, Vec<_>) = binaries.into_iter().partition(|binary| binary.name == PRIVILEGED);
    let mut results = Results::default();
    for binary in &unit {
        results.unit.add(run_binary(binary, only)?);
    }
    results.unit.add(doc_tests(only)?);
    if root {
        run_privileged(&privileged, options, &mut results)?;
    }
    finish(&results, only, options.quick, root)
}

fn run_privileged(binaries: &[TestBinary], options: &Options, results: &mut Results) -> Result<()> {
    let only = options.only.as_deref();
    // What is tested is what is shipped, and what the scenarios use.
    let daemon = build::daemon(Profile::Release)?;
    let mut privileged = Tally::default();
    let interrupt = Interrupt::install()?;
    // Gone again before the scenarios start one of their own.
    {
        let engine = Engine::start(Kind::Docker, Terms::default(), &interrupt)?;
        let image = Images::new(&[]).reference(&engine, ENGINE_IMAGE).map_err(anyhow::Error::msg)?;
        let [socket_variable, image_variable] = ENGINE_VARIABLES;
        for binary in binaries {
            let mut command = binary_command(binary, only);
            if options.quick {
                command.args(required::MustRun::read()?.slow.iter().flat_map(|name| ["--skip", name]));
            }
            command
                .env(DAEMON_VARIABLE, &daemon)
                .env(socket_variable, engine.paths().socket())
                .env(image_variable, &image);
            privileged.add(run_command(&mut command)?);
        }
        if interrupt.is_set() {
            bail!("interrupted");
        }
    }
    results.privileged = Some(privileged);
    let scenarios = || scenarios::play(options.quick, only, &daemon);
    // One of each kernel; all of them: `cargo xtask vm --all`.
    if options.quick || only.is_some() {
        results.scenarios = Some(scenarios()?);
        return Ok(());
    }
    let (scenarios, guests) = match Guests::ready(&interrupt)? {
        Ok(guests) => guests.play_beside(&daemon, scenarios)?,
        Err(skipped) => (scenarios()?, skipped),
    };
    (results.scenarios, results.guests) = (Some(scenarios), Some(guests));
    Ok(())
}

fn run_binary(binary: &TestBinary, only: Option<&str>) -> Result<Tally> {
    run_command(&mut binary_command(binary, only))
}

fn binary_command(binary: &TestBinary, only: Option<&str>) -> Command {
    let mut command = Command::new(&binary.executable);
    // As `cargo test` starts it: in its package's folder, which tests find their data by.
    command.current_dir(&binary.package_dir).env("CARGO_MANIFEST_DIR", &binary.package_dir).args(only);
    command
}

fn run_command(command: &mut Command) -> Result<Tally> {
    let (status, output) = tee(command)?;
    Ok(Tally::of_libtest(&output, status.success()))
}

fn doc_tests(only: Option<&str>) -> Result<Tally> {
    let mut command = cargo();
    command.current_dir(workspace::root()).args(["test", "--locked", "--workspace", "--doc", "--quiet"]);
    if let Some(word) = only {
        command.arg("--").arg(word);
    }
    let (status, output) = tee(&mut command)?;
    Ok(Tally::of_libtest(&output, status.success()))
}

fn finish(results: &Results, only: Option<&str>, quick: bool, root: bool) -> Result<ExitCode> {
    let mut total = results.unit.clone();
    for tally in results.privileged.iter().chain(&results.scenarios).chain(&results.guests) {
        total.add(tally.clone());
    }
    for name in total.names_of_failed() {
        println!("failed: {name}");
    }
    let unmet = required::MustRun::read()?.unmet(results, only, quick);
    for name in &unmet {
        println!("did not run, and must have: {name}");
    }
    if !root {
        println!(
            "without root only the unit tests ran; `sudo -E env \"PATH=$PATH\" cargo xtask test` also runs the \
             privileged tests, the scenarios and other kernels"
        );
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    let good = total.failed == 0 && unmet.is_empty() && total.passed > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compiles the workspace's tests without running them; a separate step so that a compile error is
/// reported as one.
fn compile_tests() -> Result<()> {
    let mut command = cargo();
    command.current_dir(workspace::root()).args(["test", "--locked", "--workspace", "--no-run"]);
    run(&mut command).context("compile the tests")
}
