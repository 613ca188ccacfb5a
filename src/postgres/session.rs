//! What lies between the gateway and a server: whether a connection is a session of the server's own, or
//! leads through a proxy that hands its few sessions to one client after the other, by the transaction.
//!
//! In a shared session nothing may be left behind, for another client finds it: no setting, no lock beyond
//! the transaction, no LISTEN, no prepared statement. Everything there happens within transactions.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

/// A word from a second connection must be heard within this, or the session counts as shared.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A setting that a session of our own was started with.
const NONCE_SETTING: &str = "warden.session";

/// What a server says to a login, not to a setting: password, database, too many connections, starting up.
/// Anything else may be a proxy's answer to the setting.
const NOT_THE_SETTING: [&str; 4] = ["28", "3D", "53", "57"];

const BEGIN: &str = "begin isolation level read committed read write";

/// Whom a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// To this connection, for as long as it lasts.
    Own,
    /// To a proxy, which lends it for one transaction.
    Shared,
}

/// A connection, with what is known of it.
pub(super) struct Opened {
    pub(super) connection: PgConnection,
    pub(super) session: Session,
    /// With which further connections of the same kind are made.
    pub(super) options: PgConnectOptions,
}

/// Connects, and finds out whom the session belongs to.
///
/// A server takes a setting from the startup packet, so a session that has it was started for this
/// connection. Proxies refuse it or pass it over; then it is tried whether a LISTEN hears anything, for a
/// proxy may well keep one session for each client.
pub(super) async fn open(options: &PgConnectOptions) -> Result<Opened, sqlx::Error> {
    let nonce = nonce();
    match PgConnection::connect_with(&options.clone().options([(NONCE_SETTING, &nonce)])).await {
        Ok(mut connection) => {
            // In the simple protocol: one round trip, which no proxy divides.
            let sql = sqlx::raw_sql("select current_setting('warden.session', true)");
            let set: Option<String> = sqlx::Row::try_get(&connection.fetch_one(sql).await?, 0)?;
            if set == Some(nonce) {
                return Ok(Opened { connection, session: Session::Own, options: options.clone() });
            }
            connection.close().await?;
        }
        Err(sqlx::Error::Database(error))
            if !NOT_THE_SETTING.iter().any(|class| error.code().is_some_and(|c| c.starts_with(class))) => {}
        Err(error) => return Err(error),
    }
    let stateless = options.clone().statement_cache_capacity(0);
    let (session, options) =
        if hears(&stateless).await? { (Session::Own, options.clone()) } else { (Session::Shared, stateless) };
    let connection = PgConnection::connect_with(&options).await?;
    Ok(Opened { connection, session, options })
}

/// Begins the transaction within which a shared session is this connection's. Each statement has a snapshot
/// of its own, whatever the server's default is.
pub(crate) async fn begin_shared(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(BEGIN).await.map(|_| ())
}

/// As [`begin_shared`], for a connection that is handed to others: sqlx counts this transaction, so that whoever
/// begins another within it gets a savepoint. The count cannot be taken back: the connection serves once.
pub(super) async fn begin_shared_once(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Dropped it would roll back; it holds nothing but a reference.
    std::mem::forget(connection.begin_with(BEGIN).await?);
    Ok(())
}

/// Gives the session back, without the statements that sqlx prepared in it: it always names them, and does
/// not close them. Where this fails the connection is to be dropped: a proxy ends a session that is
/// left in the middle of a transaction.
pub(crate) async fn commit_shared(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // In the simple protocol, which prepares nothing. A proxy's own statements have other names.
    connection
        .execute(
            "do $$ declare statement text; begin
               for statement in select name from pg_catalog.pg_prepared_statements
                                where prepare_time >= now() and name like 'sqlx\\_s\\_%' loop
                 execute format('deallocate %I', statement);
               end loop;
             end $$;
             commit",
        )
        .await
        .map(|_| ())
}

/// Whether a LISTEN of one connection hears what another says. On a channel of its own, so that a LISTEN that
/// stays behind in a session that is somebody else's by now never brings them anything.
async fn hears(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let channel = format!("warden_probe_{}", nonce());
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(PROBE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(&channel).await?;
    match pool.execute(sqlx::raw_sql(AssertSqlSafe(format!("notify {channel}")))).await {
        Ok(_) => {}
        // It has heard itself: this is the session in which the other one listens.
        Err(sqlx::Error::Protocol(_)) => return Ok(false),
        Err(error) => return Err(error),
    }
    // While this waits the listener's connection is idle, and a session that is shared is not its own.
    match tokio::time::timeout(PROBE_TIMEOUT, listener.try_recv()).await {
        Ok(heard) => Ok(heard?.is_some()),
        Err(_) => Ok(false),
    }
}

fn nonce() -> String {
    std::iter::repeat_with(|| fastrand::alphanumeric().to_ascii_lowercase()).take(16).collect()
}
