//! The database: its addresses, connections to the primary among them, migrations, and private clusters
//! for development.

mod address;
pub mod cluster;
mod primary;
mod session;

use anyhow::Context as _;
use sqlx::Connection as _;
use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};

pub use address::{Addresses, options};
pub(crate) use primary::PrimaryLocation;
pub use primary::{NoPrimary, Primary};
pub(crate) use session::{Session, begin_shared, commit_shared};

/// Every migration, in order, as part of the binary.
pub static MIGRATOR: Migrator = sqlx::migrate!();

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

/// What [`migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Migrations applied now: version and description.
    pub applied: Vec<(i64, String)>,
    /// How many there are in all.
    pub total: usize,
}

/// Brings the schema up to date. Two at once wait for one another.
///
/// # Errors
/// When no primary can be reached, it refuses a statement, or was migrated by another version.
pub async fn migrate(url: &str) -> anyhow::Result<Migrated> {
    let mut connection = connect_to_change(url).await?.connection;
    let migrated = migrate_on(&mut connection).await?;
    connection.close().await?;
    Ok(migrated)
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

/// [`migrate`] on a connection that is there, also within a transaction of it.
///
/// # Errors
/// As there.
pub(crate) async fn migrate_on(connection: &mut PgConnection) -> anyhow::Result<Migrated> {
    let before = applied_versions(&mut *connection).await?;
    MIGRATOR.run(&mut *connection).await.map_err(|error| match error {
        MigrateError::VersionMismatch(version) => anyhow::anyhow!(
            "migration {version} was applied in another form: this database belongs to another version of Warden. \
             A development database is made anew with `warden dev --ephemeral`, or by removing its data directory"
        ),
        other => anyhow::Error::new(other).context("a migration failed and was rolled back"),
    })?;
    let applied = MIGRATOR
        .iter()
        .filter(|m| !before.contains(&m.version))
        .map(|m| (m.version, m.description.to_string()))
        .collect();
    Ok(Migrated { applied, total: MIGRATOR.iter().count() })
}

/// What [`migrate_on`] would apply.
pub(crate) async fn pending(connection: &mut PgConnection) -> Result<Vec<(i64, String)>, sqlx::Error> {
    let applied = applied_versions(connection).await?;
    let missing = MIGRATOR.iter().filter(|m| !applied.contains(&m.version));
    Ok(missing.map(|m| (m.version, m.description.to_string())).collect())
}

/// Whether [`migrate_on`] failed because a lock was not to be had in time.
pub(crate) fn is_locked(error: &anyhow::Error) -> bool {
    let Some(MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error.downcast_ref()
    else {
        return false;
    };
    cause.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "55P03")
}

async fn applied_versions(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    // Not checked at compile time: the table is made by the migrator itself.
    let is_there: bool = sqlx::query_scalar("select to_regclass('warden._sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("select version from warden._sqlx_migrations where success")
        .fetch_all(connection)
        .await
}
