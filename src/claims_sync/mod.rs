//! `warden claims sync`: writes each user's organisation into `app_metadata.org_id` of Supabase Auth.
//!
//! The organisation comes from `warden.default_org_for()`, which the token hook calls as well. So the command
//! and the hook cannot disagree.

mod admin_api;
mod by_api;
mod by_sql;
mod decision;
mod memberships;
mod options;
mod passes;
mod progress;
mod state;
mod summary;
mod user;

use self::memberships::Memberships;
use self::state::State;
use crate::postgres;

pub use self::admin_api::{ApiOptions, ServiceKey};
pub use self::options::{RunMode, SyncOptions, UserSource};
pub use self::summary::Summary;

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
