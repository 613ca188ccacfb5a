//! The load test of the Warden gateway. It shares no code with the gateway, so that its verdict about
//! deliveries is an independent check. This file only parses the command line, calls the other modules and
//! prints the result.

mod args;
mod check;
mod clock;
mod filters;
mod histograms;
mod message;
mod observations;
mod pool;
mod process;
mod publisher;
mod report;
mod run;
mod scenario;
mod slo;
mod spread;
mod sync;
mod wire;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::report::Report;

/// An event was lost, duplicated, reordered or leaked, or a socket failed.
const EXIT_FAILED: u8 = 1;
/// The test could not be started.
const EXIT_UNUSABLE: u8 = 2;
/// The run passed, except that a threshold was missed.
const EXIT_SLO: u8 = 3;

fn main() -> ExitCode {
    execute(args::Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("warden-loadtest: {error:#}");
        ExitCode::from(EXIT_UNUSABLE)
    })
}

fn execute(command: args::CliCommand) -> anyhow::Result<ExitCode> {
    let Some(plan) = args::Plan::from_command(command)? else {
        worker::run()?;
        return Ok(ExitCode::SUCCESS);
    };
    let (json, html) = (plan.common.output.json, plan.common.output.html.clone());
    if let Some(path) = &html {
        // Checked before the test, so that a long run does not end with this error.
        std::fs::write(path, "").with_context(|| format!("--html: cannot write {}", path.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(plan))?;
    print_report(&report, json, html)?;
    Ok(match (report.passed, report.meets_slo()) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(EXIT_SLO),
        (false, _) => ExitCode::from(EXIT_FAILED),
    })
}

fn print_report(report: &Report, json: bool, html: Option<PathBuf>) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{}", report.table());
    }
    let Some(path) = html else { return Ok(()) };
    std::fs::write(&path, report.html()).with_context(|| format!("cannot write {}", path.display()))
}
