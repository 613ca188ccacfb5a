//! The database: its addresses, connections to the primary among them, migrations, and private clusters
//! for development.

mod address;
pub mod cluster;
mod primary;
mod session;

use anyhow::Context as _;
use sqlx::Connection as _;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;

pub use address::{Addresses, options};
pub(crate) use primary::Place;
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
    let link = options(url)?.connect(None).await.context("cannot connect to DATABASE_URL")?;
    anyhow::ensure!(
        link.session == Session::Own,
        "DATABASE_URL leads through a pooler in transaction mode, where migrations cannot lock one another out: \
         name the database's own address"
    );
    let mut connection = link.connection;
    let before = applied_versions(&mut connection).await?;
    MIGRATOR.run(&mut connection).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::VersionMismatch(version) => anyhow::anyhow!(
            "migration {version} was applied in another form: this database belongs to another version of Warden. \
             A development database is made anew with `warden dev --ephemeral`, or by removing its data directory"
        ),
        other => anyhow::Error::new(other).context("a migration failed and was rolled back"),
    })?;
    connection.close().await?;
    let applied = MIGRATOR
        .iter()
        .filter(|m| !before.contains(&m.version))
        .map(|m| (m.version, m.description.to_string()))
        .collect();
    Ok(Migrated { applied, total: MIGRATOR.iter().count() })
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
