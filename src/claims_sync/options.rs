//! Options of a run.

use std::path::PathBuf;

use super::admin_api::ApiOptions;

/// Writes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// Everything that is missing.
    Write,
    /// Nothing. The summary counts what would be written.
    DryRun,
    /// Nothing. Each user with another organisation than expected is a difference.
    Verify,
}

/// Access to the users.
#[derive(Debug)]
pub enum UserSource {
    /// The admin API.
    Api(ApiOptions),
    /// The table `auth.users`.
    Sql,
}

/// Options of a run.
#[derive(Debug)]
pub struct SyncOptions {
    /// Connection string of the database.
    pub database_url: String,
    /// Access to the users.
    pub source: UserSource,
    /// Writes of the run.
    pub mode: RunMode,
    /// Whether users without a membership become members of the default organisation.
    pub inserts_memberships: bool,
    /// Whether another organisation is overwritten.
    pub reassigns: bool,
    /// Whether the sessions of a user end whose organisation changed.
    pub revokes: bool,
    /// Users in one page or batch.
    pub page_size: u32,
    /// File with the position of the run.
    pub state_file: Option<PathBuf>,
}
