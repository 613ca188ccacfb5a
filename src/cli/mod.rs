//! The command line of the binary, with one file per command.

mod audit;
mod candidates;
mod claims;
#[cfg(feature = "dev")]
mod dev;
mod migrate;
mod parse;
mod publish;
mod serve;
mod tail;
mod terminal;
#[cfg(feature = "dev")]
mod token;
#[cfg(feature = "dev")]
mod watch;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::telemetry::{self, LogArgs};

/// Zero-trust real-time gateway for multi-tenant applications on PostgreSQL.
///
/// To try it without any setup, run `warden dev`. It starts a private PostgreSQL, two demo organisations with
/// simulated calls, and the gateway, and prints what to do next.
#[derive(Parser)]
#[command(name = "warden", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything for development: a private database, demo data, the gateway
    #[cfg(feature = "dev")]
    Dev(dev::DevArgs),
    /// Run the gateway
    Serve(Box<crate::config::ServeArgs>),
    /// Migrate the database's schema, and adopt existing tables
    Migrate(migrate::MigrateArgs),
    /// Check that the database isolates organisations, and print a remedy for each finding
    Audit(audit::AuditArgs),
    /// Write each user's organisation into the identity provider
    Claims(claims::ClaimsArgs),
    /// Sign a development token
    #[cfg(feature = "dev")]
    Token(token::TokenArgs),
    /// Subscribe to topics and print one JSON line per event
    Tail(tail::TailArgs),
    /// Publish events, from the command line or from standard input
    Publish(publish::PublishArgs),
    /// Copy recordings from their providers into the object store
    Worker(Box<worker::WorkerArgs>),
}

impl Cli {
    /// Runs the command, and prints an error with its causes. The exit code reports the result.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = telemetry::init(&self.log, self.command.log_filter()).and_then(|()| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(self.command.run())
        });
        match result {
            Ok(code) => code,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Command {
    /// Default log filter of the command.
    fn log_filter(&self) -> &'static str {
        match self {
            #[cfg(feature = "dev")]
            Self::Dev(_) => telemetry::QUIET_FILTER,
            _ => telemetry::DEFAULT_FILTER,
        }
    }

    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            #[cfg(feature = "dev")]
            Self::Dev(args) => dev::run(args).await?,
            Self::Serve(args) => serve::run(*args).await?,
            // These choose their exit code themselves, because a finding is not an error of the command.
            Self::Migrate(args) => return migrate::run(args).await,
            Self::Audit(args) => return Ok(audit::run(args).await),
            Self::Claims(args) => return claims::run(args).await,
            #[cfg(feature = "dev")]
            Self::Token(args) => token::run(&args)?,
            Self::Tail(args) => tail::run(args).await?,
            Self::Publish(args) => publish::run(args).await?,
            Self::Worker(args) => return worker::run(*args).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}
