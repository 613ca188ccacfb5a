//! The database: its addresses, connections to the primary among them, and migrations.

mod address;
mod migrations;
mod primary;
mod session;

use anyhow::Context as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

pub use address::{Addresses, options};
pub use migrations::{Migrated, MigrationName, SchemaSet, migrate, migrate_platform};
pub(crate) use migrations::{is_locked, migrate_on, pending};
pub(crate) use primary::PrimaryLocation;
pub use primary::{NoPrimary, Primary};
pub(crate) use session::{Session, begin_shared, commit_shared};

/// The role that the gateway runs as: it can read the log, and nothing of any tenant.
const GATEWAY_ROLE: &str = "warden_gateway";

/// Gives up every right beyond the gateway's, whoever logged in. A login role that is not a member
/// of the gateway's role keeps its own rights, and the queries tell what it lacks. For the session, or
/// for its present transaction alone (`is_local`).
pub(crate) async fn assume_gateway_role(
    connection: &mut PgConnection,
    is_local: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select set_config('role', $1, $2) where exists (
            select from pg_roles where rolname = $1 and pg_has_role(current_user, oid,
                case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end))",
        GATEWAY_ROLE,
        is_local
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// How to reach the primary among the addresses, for those who change the schema in several connections.
///
/// # Errors
/// When no primary can be reached, or a pooler in transaction mode lies between.
pub async fn primary_options(url: &str) -> anyhow::Result<PgConnectOptions> {
    let link = connect_to_change(url).await?;
    let options = link.options().clone();
    link.connection.close().await?;
    Ok(options)
}

/// How to reach the one address of a URL, whatever runs there, or the primary among several: for those who only
/// read.
///
/// # Errors
/// When the URL is none, or no primary can be reached among several addresses.
pub async fn reading_options(url: &str) -> anyhow::Result<PgConnectOptions> {
    match options(url)?.0.as_slice() {
        [only] => Ok(only.options.clone()),
        _ => primary_options(url).await,
    }
}

async fn connect_to_change(url: &str) -> anyhow::Result<primary::Link> {
    let link = options(url)?.connect(None).await.context("cannot connect to DATABASE_URL")?;
    anyhow::ensure!(
        link.session == Session::Own,
        "DATABASE_URL leads through a pooler in transaction mode, where migrations cannot lock one another out: \
         name the database's own address"
    );
    Ok(link)
}
