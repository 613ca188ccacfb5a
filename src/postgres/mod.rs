//! The database: its addresses, the primary among them, the gateway's role, and SQL migrations.

mod address;
mod backend_mode;
mod command_session;
mod migrations;
mod primary;
mod rights;
mod user;
mod worker;

use anyhow::Context as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use warden_connect::{Address, Link};

pub(crate) use address::ADDRESSES_MAX;
pub use address::{Addresses, options};
pub(crate) use backend_mode::{BackendMode, PROBE_TIMEOUT, begin_pooled, commit_pooled};
pub use migrations::{Migrated, MigrationName, SchemaSet, migrate, migrate_platform};
pub(crate) use migrations::{blocked, is_locked, migrate_on, pending};
pub(crate) use primary::{
    ACQUIRE_TIMEOUT, ADDRESS_TIMEOUT, CHECK_TIMEOUT, CONNECTIONS_MAX, LOCK_TIMEOUT, PUBLISH_CONNECTIONS_MAX,
    PrimaryLocation, READ_CONNECTIONS_MAX, RIVAL_WAIT,
};
pub use primary::{NoPrimary, Primary};
pub(crate) use rights::{MissingRight, missing_gateway_rights, missing_schema_right, missing_table_right};
pub(crate) use user::{begin_snapshot, bind_to_user};
pub(crate) use worker::begin_bound;

/// Role of the gateway. It can read the log, and no row of any tenant.
const GATEWAY_ROLE: &str = "warden_gateway";

/// Settings under which commands read and change the schema. The role or the database may have others, which
/// would change the meaning of SQL, or the text of the definitions that are compared.
const DIALECT: [(&str, &str); 8] = [
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("quote_all_identifiers", "off"),
    ("DateStyle", "'ISO, YMD'"),
    ("IntervalStyle", "postgres"),
    ("check_function_bodies", "on"),
    // JIT compilation of a query on the catalogs takes longer than the query.
    ("jit", "off"),
];

/// The statements that apply these settings to the session or, with `is_local`, to the present transaction.
pub(crate) fn dialect(is_local: bool) -> String {
    let set = if is_local { "set local" } else { "set" };
    DIALECT.map(|(name, value)| format!("{set} {name} = {value}; ")).concat()
}

/// Gives up every privilege beyond the gateway's, for the session or, with `is_local`, for the present
/// transaction.
///
/// A login role that is not a member of the gateway's role keeps its own privileges.
/// [`missing_gateway_rights`] reports those that it lacks.
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

/// Options for connecting to the primary, for commands that change the schema over several connections.
///
/// # Errors
/// If no primary can be reached, or only through a pooler in transaction mode.
pub async fn primary_options(url: &str) -> anyhow::Result<Link> {
    let primary = connect_to_change(url).await?;
    let link = primary.link().clone();
    primary.connection.close().await?;
    Ok(link)
}

/// Options for a command that only reads. A single address is used whatever runs there, also a standby. Of
/// several addresses it is the primary.
///
/// # Errors
/// If the URL is invalid, or none of several addresses leads to a primary.
pub async fn reading_options(url: &str) -> anyhow::Result<Link> {
    match options(url)?.0.as_slice() {
        [only] => reached(only).await,
        _ => primary_options(url).await,
    }
}

/// The link of an address that accepts the login. The error names the address, which a later one could not.
async fn reached(address: &Address) -> anyhow::Result<Link> {
    let link = address.link().await?;
    let failed =
        |reason: String| anyhow::anyhow!("cannot connect to DATABASE_URL: {}: {reason}", address.name());
    match tokio::time::timeout(ADDRESS_TIMEOUT, PgConnection::connect_with(&link)).await {
        Ok(Ok(connection)) => connection.close().await?,
        Ok(Err(error)) => return Err(failed(primary::describe(&error))),
        Err(_) => return Err(failed(primary::no_answer())),
    }
    Ok(link)
}

/// Opens a connection for a command, whose settings do not depend on the role and the database. The error
/// contains the server's message once.
pub(crate) async fn connect(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let mut connection = PgConnection::connect_with(options)
        .await
        .map_err(|error| anyhow::anyhow!("cannot connect to DATABASE_URL: {}", primary::describe(&error)))?;
    command_session::prepare(&mut connection).await?;
    Ok(connection)
}

async fn connect_to_change(url: &str) -> anyhow::Result<primary::PrimaryConnection> {
    let primary = options(url)?.connect(None).await.context("cannot connect to DATABASE_URL")?;
    anyhow::ensure!(
        primary.mode == BackendMode::Dedicated,
        "DATABASE_URL leads through a pooler in transaction mode, where migrations cannot hold the lock that keeps \
         other runs out: use the address of the database itself"
    );
    Ok(primary)
}
