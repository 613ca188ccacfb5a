//! The load test of the Warden gateway. It shares no code with the gateway, on purpose: what it says
//! about deliveries is an independent check. This file only parses, calls and prints.

mod args;
mod check;
mod clock;
mod holder;
mod message;
mod meters;
mod process;
mod publisher;
mod report;
mod run;
mod scenario;
mod slo;
mod spread;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::report::Report;

/// Something was lost, doubled, misplaced, or a socket did not hold.
const EXIT_FAILED: u8 = 1;
/// The test could not be begun.
const EXIT_UNUSABLE: u8 = 2;
/// Nothing of that, but a threshold does not hold.
const EXIT_SLO: u8 = 3;

fn main() -> ExitCode {
    match begin(args::Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("warden-loadtest: {error:#}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

fn begin(command: args::Command) -> anyhow::Result<ExitCode> {
    let Some(plan) = args::Plan::of(command)? else {
        holder::run()?;
        return Ok(ExitCode::SUCCESS);
    };
    let (json, html) = (plan.common.output.json, plan.common.output.html.clone());
    if let Some(path) = &html {
        // Tried before the test, not after it.
        std::fs::write(path, "").with_context(|| format!("--html: cannot write {}", path.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(plan))?;
    show(&report, json, html)?;
    Ok(match (report.passed, report.meets_slo()) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(EXIT_SLO),
        (false, _) => ExitCode::from(EXIT_FAILED),
    })
}

fn show(report: &Report, json: bool, html: Option<PathBuf>) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{}", report.table());
    }
    let Some(path) = html else { return Ok(()) };
    std::fs::write(&path, report.html()).with_context(|| format!("cannot write {}", path.display()))
}
