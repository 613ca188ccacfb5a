//! The binary `warden`: parses the command line and runs one command.

use std::process::ExitCode;

use warden::cli::Cli;

/// jemalloc, because the system's allocator keeps the memory of thousands of sessions that have left.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::from_command_line().run()
}
