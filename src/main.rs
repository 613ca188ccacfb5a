//! The command `warden`: reads the command line and calls one command.

use std::process::ExitCode;

use clap::Parser as _;
use warden::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
