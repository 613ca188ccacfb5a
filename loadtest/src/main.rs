//! The load test of the Warden gateway. It shares no code with the gateway, on purpose: what it says
//! about deliveries is an independent check. This file only parses, calls and prints.

mod args;
mod check;
mod client;
#[cfg_attr(not(test), expect(dead_code, reason = "the scenarios that measure the server come next"))]
mod process;
mod publisher;
mod report;
mod run;
mod target;
mod wire;

use std::process::ExitCode;

use clap::Parser as _;

/// Something was lost, doubled, misplaced, or a socket did not hold.
const EXIT_FAILED: u8 = 1;
/// The test could not be begun.
const EXIT_UNUSABLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let args::Command::Steady(args) = args::Cli::parse().command;
    let report = match run::run(&args).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("warden-loadtest: {error:#}");
            return ExitCode::from(EXIT_UNUSABLE);
        }
    };
    match serde_json::to_string(&report) {
        Ok(json) if args.output.json => println!("{json}"),
        _ => print!("{}", report.table()),
    }
    if report.passed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }
}
