//! The database: connections of the gateway, migrations, and private clusters for development.

pub mod cluster;

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::Connection as _;
use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

/// Every migration, in order, as part of the binary.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// The role that the gateway runs as: it can read the log, and nothing of any tenant.
const GATEWAY_ROLE: &str = "warden_gateway";

/// Connections of a gateway's pool: the doorbell, and look-ups of what is not in memory.
const POOL_CONNECTIONS_MAX: u32 = 4;

/// Longest wait for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a database URL.
///
/// # Errors
/// When it is none; the URL itself, which may hold a password, is not repeated.
pub fn options(url: &str) -> anyhow::Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url)
        .context("DATABASE_URL is not a PostgreSQL URL: postgres://user:password@host:5432/database")?;
    Ok(options.application_name("warden"))
}

/// The gateway's pool. It connects when first used, so a database that is away delays no start.
#[must_use]
pub fn gateway_pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(POOL_CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| Box::pin(assume_gateway_role(connection)))
        .connect_lazy_with(options)
}

/// Gives up every right beyond the gateway's, whoever logged in. A login role that is not a member
/// of the gateway's role keeps its own rights, and the queries tell what it lacks.
pub(crate) async fn assume_gateway_role(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select set_config('role', $1, false) where exists (
            select from pg_roles where rolname = $1 and pg_has_role(current_user, oid,
                case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end))",
        GATEWAY_ROLE
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
/// When the database can't be reached, refuses a statement, or was migrated by another version.
pub async fn migrate(url: &str) -> anyhow::Result<Migrated> {
    let mut connection =
        PgConnection::connect_with(&options(url)?).await.context("cannot connect to DATABASE_URL")?;
    let migrated = migrate_on(&mut connection).await?;
    connection.close().await?;
    Ok(migrated)
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
