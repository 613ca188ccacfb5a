//! Backend modes: whether a connection has a PostgreSQL session of its own, or shares one through a pooler in
//! transaction mode.
//!
//! Such a pooler lends each of its few sessions to one client after the other, for one transaction. The
//! gateway must leave no state behind in a pooled session, because the next client would inherit it: no
//! setting, no lock beyond the transaction, no LISTEN, no prepared statement. So it does everything there
//! within transactions.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

/// Time within which a notification from a second connection must arrive. Without one the session is pooled.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Setting in the startup packet by which a dedicated session is recognised.
const NONCE_SETTING: &str = "warden.session";

/// Beginnings of SQLSTATEs that reject a login rather than the setting: authentication, database name,
/// resources, startup, TLS, and its files. Any other may be a pooler's answer to the setting.
const LOGIN_ERROR_CLASSES: [&str; 6] = ["28", "3D", "53", "57", "08001", "F0"];

/// Begins a transaction of a pooled session.
pub(super) const BEGIN: &str = "begin isolation level read committed read write";

/// Kind of PostgreSQL session behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendMode {
    /// The session belongs to this connection for as long as the connection lasts.
    Dedicated,
    /// A pooler lends the session for one transaction at a time.
    Pooled,
}

impl BackendMode {
    /// Options for further connections of this mode.
    pub(super) fn adapt(self, options: PgConnectOptions) -> PgConnectOptions {
        match self {
            Self::Dedicated => options,
            Self::Pooled => options.statement_cache_capacity(0),
        }
    }
}

/// Connects and detects the mode of the session.
///
/// A server applies settings from the startup packet. If a session has the setting, it was started for this
/// connection. Poolers reject or ignore the setting. They may still keep one session per client (session
/// mode), so the second test is whether a LISTEN receives a notification.
pub(super) async fn open(options: &PgConnectOptions) -> Result<(PgConnection, BackendMode), sqlx::Error> {
    let nonce = nonce();
    match PgConnection::connect_with(&options.clone().options([(NONCE_SETTING, &nonce)])).await {
        Ok(mut connection) => {
            // The simple protocol needs one round trip, which no pooler splits.
            let sql = sqlx::raw_sql("select current_setting('warden.session', true)");
            let set: Option<String> = sqlx::Row::try_get(&connection.fetch_one(sql).await?, 0)?;
            if set == Some(nonce) {
                return Ok((connection, BackendMode::Dedicated));
            }
            connection.close().await?;
        }
        Err(sqlx::Error::Database(error)) if !is_login_error(error.as_ref()) => {}
        Err(error) => return Err(error),
    }
    let can_listen = can_listen(&BackendMode::Pooled.adapt(options.clone())).await?;
    let mode = if can_listen { BackendMode::Dedicated } else { BackendMode::Pooled };
    let connection = PgConnection::connect_with(&mode.adapt(options.clone())).await?;
    Ok((connection, mode))
}

fn is_login_error(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().is_some_and(|code| LOGIN_ERROR_CLASSES.iter().any(|class| code.starts_with(class)))
}

/// Begins the transaction during which a pooled session belongs to this connection. Each statement has its
/// own snapshot, whatever the server's default isolation level is.
pub(crate) async fn begin_pooled(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(BEGIN).await.map(|_| ())
}

/// Begins a transaction like [`begin_pooled`], for a connection that a pool hands to callers. sqlx counts
/// this transaction, so that a caller's own transaction becomes a savepoint. The count cannot be decremented,
/// so the connection is used once and closed afterwards.
pub(super) async fn begin_pooled_once(
    connection: &mut PgConnection,
    begin: &'static str,
) -> Result<(), sqlx::Error> {
    // Dropping the transaction would roll it back. It owns nothing but a reference.
    std::mem::forget(connection.begin_with(begin).await?);
    Ok(())
}

/// Deallocates the statements that sqlx prepared in this transaction, and commits. sqlx names every
/// statement, even without a cache, and never closes it. After an error the connection must be dropped: a
/// pooler ends a session that a client left in the middle of a transaction.
pub(crate) async fn commit_pooled(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // The simple protocol prepares nothing. A pooler's own prepared statements have other names.
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

/// Whether a LISTEN on one connection receives what another connection sends. The channel is a random one: if
/// the LISTEN stays behind in a pooled session, its next client never receives a notification from it.
async fn can_listen(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
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
        // The sender received its own notification: both connections were lent the same session.
        Err(sqlx::Error::Protocol(_)) => return Ok(false),
        Err(error) => return Err(error),
    }
    // While the listener waits, its connection is idle, and a pooled session is not lent to it.
    match tokio::time::timeout(PROBE_TIMEOUT, listener.try_recv()).await {
        Ok(received) => Ok(received?.is_some()),
        Err(_) => Ok(false),
    }
}

fn nonce() -> String {
    std::iter::repeat_with(|| fastrand::alphanumeric().to_ascii_lowercase()).take(16).collect()
}
