//! The comparison of the gateway with a bare write loop and with other servers. It shares no code with the
//! gateway. This file only parses the command line, calls the other modules and prints the result.

mod args;
mod baseline;
mod clients;
mod comparison;
mod conditions;
mod cores;
mod measure;
mod plan;
mod report;
mod servers;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

/// A server lost or duplicated events, or could not be measured.
const EXIT_FAILED: u8 = 1;
/// The comparison could not be started.
const EXIT_UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let args::Cli { command, compare } = args::Cli::parse();
    let result = match command {
        Some(args::Command::Baseline(args)) => baseline::run(&args).map(|()| ExitCode::SUCCESS),
        Some(args::Command::HoldSockets) => clients::hold_sockets().map(|()| ExitCode::SUCCESS),
        None => run(&compare),
    };
    result.unwrap_or_else(|error| {
        eprintln!("warden-compare: {error:#}");
        ExitCode::from(EXIT_UNUSABLE)
    })
}

fn run(args: &args::CompareArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(comparison::run(args))?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.markdown());
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}
