//! `warden claims sync`: writes each user's organisation into `app_metadata.org_id` of Supabase Auth.
//!
//! The organisation comes from `warden.default_org_for()`, which the token hook calls as well. So the command
//! and the hook cannot disagree.

mod admin_api;
mod by_api;
mod by_sql;
mod decision;
mod memberships;
mod progress;
mod state;
mod summary;
mod user;

use std::path::PathBuf;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use self::decision::{Decision, decide};
use self::memberships::Memberships;
use self::progress::Progress;
use self::state::State;
pub use self::summary::Summary;
use self::user::AuthUser;
use crate::postgres;

pub use self::admin_api::{ApiOptions, ServiceKey};

/// Passes after the first one, each for the users that were created during the pass before it.
const LATE_PASSES_MAX: u32 = 10;

/// Difference between the time in `created_at` and the moment at which the user becomes visible.
const CREATION_SLACK: time::Duration = time::Duration::minutes(5);

/// What a run writes.
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
    /// What the run writes.
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

/// Synchronises all users.
///
/// # Errors
/// If the run cannot continue. Failures of single users are in the summary.
pub async fn run(options: &SyncOptions) -> anyhow::Result<Summary> {
    let link = postgres::primary_options(&options.database_url).await?;
    let mut connection = postgres::connect(&link).await?;
    let memberships = Memberships::open(&mut connection).await?;
    let source = match &options.source {
        UserSource::Api(api) => api.url.to_string(),
        UserSource::Sql => "auth.users".to_owned(),
    };
    let database = memberships::database_identity(&mut connection).await?;
    let state = State::open(options.state_file.clone(), &database, &source, options.page_size)?;
    match &options.source {
        UserSource::Api(api) => by_api::run(options, api, connection, memberships, state).await,
        UserSource::Sql => by_sql::run(options, connection, memberships, state).await,
    }
}

/// Parses a time as Supabase Auth writes it.
fn parse_time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// Counts a decision that a run without writes made.
fn count_unwritten(summary: &mut Summary, mode: RunMode, user: Uuid, decision: &Decision) {
    match (mode, decision) {
        (_, Decision::Right) => summary.already_right += 1,
        (RunMode::Verify, Decision::Conflict(org)) => {
            summary.differ(user, format!("has another organisation than {org}"));
        }
        (RunMode::Verify, Decision::Update { org, .. }) => {
            summary.differ(user, format!("does not have the organisation {org}"));
        }
        (RunMode::Verify, Decision::Join) => summary.differ(user, "has no membership".to_owned()),
        (_, Decision::Join) => {
            summary.memberships += 1;
            summary.updated += 1;
        }
        (_, Decision::Update { .. }) => summary.updated += 1,
        (_, Decision::Conflict(_)) => summary.conflict(user),
        (_, Decision::Skip(reason)) => summary.skip(reason),
    }
}
