//! The command `warden`: reads the command line and calls one command.

use std::process::ExitCode;

use clap::Parser as _;
use warden::cli::Cli;

/// Sessions come and go by the thousands; the system's allocator keeps the memory of those that left.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
