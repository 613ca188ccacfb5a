//! Flags of the database.

use clap::Args;

use crate::postgres::{self, Addresses};

/// Flags of every command that needs the database.
#[derive(Args, Clone)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    /// Database: postgres://user:password@host:5432/database, or another form that libpq knows (host=...
    /// dbname=..., service=...), completed by PG* variables and ~/.pgpass. For verified TLS add
    /// ?sslmode=verify-full&sslrootcert=system, or a file of authorities; the default is sslmode=prefer. With
    /// several addresses (host1:5432,host2:5432) Warden finds the primary and follows it
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "DATABASE_URL")]
    pub database_url: String,
}

impl DatabaseArgs {
    pub(super) fn into_addresses(self) -> anyhow::Result<Addresses> {
        postgres::options(&self.database_url)
    }
}
