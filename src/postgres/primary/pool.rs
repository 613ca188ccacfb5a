//! Hooks of the gateway's pools. A pool serves for the life of the gateway, through every failover: its hooks
//! reject connections to any server but the present primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use tokio::sync::watch;

use super::super::assume_gateway_role;
use super::super::backend_mode::{BackendMode, begin_pooled_once, commit_pooled};
use super::PrimaryLocation;

/// Connections of a gateway's pool. It serves look-ups of what is not in memory.
pub(crate) const CONNECTIONS_MAX: u32 = 4;

/// Connections that publish for back ends. They have a pool of their own, so that publishing does not delay
/// look-ups.
pub(crate) const PUBLISH_CONNECTIONS_MAX: u32 = 8;

/// Connections that read rows for users. They have a pool of their own, so that reading does not delay
/// look-ups.
pub(crate) const READ_CONNECTIONS_MAX: u32 = 4;

/// Longest wait for a connection of the pool.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest check of a connection, when a caller takes it and when the caller returns it. sqlx's own ping has
/// no limit, so a half-open connection would occupy a place in the pool until TCP gives up.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait of a look-up for a lock. Its caller may give up earlier. Without this limit, statements
/// without callers would accumulate at the server.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(4);

type Location = watch::Receiver<Option<PrimaryLocation>>;

/// Options of a pool that follows this location, with at most this many connections. `begin` begins the
/// transaction of a pooled session.
pub(super) fn options(location: &Location, connections_max: u32, begin: &'static str) -> PgPoolOptions {
    let (of_new, of_idle, of_used) = (location.clone(), location.clone(), location.clone());
    let is_warned = Arc::new(AtomicBool::new(false));
    let is_warned_of_idle = Arc::clone(&is_warned);
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // The check of the epoch below replaces sqlx's ping.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let (location, is_warned) = (of_new.borrow().clone(), Arc::clone(&is_warned));
            Box::pin(async move {
                let admitted = admit_new(connection, location, begin).await;
                warn_once(&admitted, &is_warned);
                admitted
            })
        })
        .before_acquire(move |connection, meta| {
            let (location, is_warned) = (of_idle.borrow().clone(), Arc::clone(&is_warned_of_idle));
            Box::pin(async move {
                // A connection with a pooled session is used once.
                let Some(location) = location.filter(|location| {
                    location.mode == BackendMode::Dedicated && meta.age < location.since.elapsed()
                }) else {
                    return Ok(false);
                };
                // A connection that died while it was idle is nothing to report.
                let is_current = is_current(connection, &location, begin).await.unwrap_or(false);
                if is_current {
                    // An outage may end without a new connection.
                    is_warned.store(false, Ordering::Relaxed);
                }
                Ok(is_current)
            })
        })
        .after_release(move |connection, _| {
            let is_pooled = of_used.borrow().as_ref().is_some_and(|at| at.mode == BackendMode::Pooled);
            Box::pin(with_timeout(async move {
                if is_pooled {
                    commit_pooled(connection).await?;
                } else {
                    connection.ping().await?;
                }
                Ok(!is_pooled)
            }))
        })
}

/// Logs one warning per outage. The pool retries for as long as a caller waits. sqlx logs each attempt as an
/// error, which `telemetry` filters out.
fn warn_once(admitted: &Result<(), sqlx::Error>, is_warned: &AtomicBool) {
    match admitted {
        Ok(()) => is_warned.store(false, Ordering::Relaxed),
        Err(error) if !is_warned.swap(true, Ordering::Relaxed) => tracing::warn!(
            %error,
            "look-ups, replays, publishing and reads have no connection: they wait until the tailer has found the primary"
        ),
        Err(_) => {}
    }
}

/// Prepares a new connection, or rejects it.
async fn admit_new(
    connection: &mut PgConnection,
    location: Option<PrimaryLocation>,
    begin: &'static str,
) -> Result<(), sqlx::Error> {
    let Some(location) = location else { return Err(not_the_primary()) };
    if location.mode == BackendMode::Dedicated {
        assume_gateway_role(connection, false).await?;
        set_lock_timeout(connection, false).await?;
        // As in `begin_pooled`: each statement has its own snapshot.
        sqlx::query!("set default_transaction_isolation = 'read committed'")
            .execute(&mut *connection)
            .await?;
    }
    if is_current(connection, &location, begin).await? { Ok(()) } else { Err(not_the_primary()) }
}

/// Whether the connection leads to a primary with the tailer's epoch. On a pooled session this begins the
/// transaction in which the caller will work.
async fn is_current(
    connection: &mut PgConnection,
    location: &PrimaryLocation,
    begin: &'static str,
) -> Result<bool, sqlx::Error> {
    with_timeout(async {
        if location.mode == BackendMode::Pooled {
            begin_pooled_once(connection, begin).await?;
            assume_gateway_role(connection, true).await?;
            set_lock_timeout(connection, true).await?;
        }
        let epoch = sqlx::query_scalar!("select case when not pg_is_in_recovery() then warden.epoch() end")
            .fetch_one(connection)
            .await?;
        Ok(epoch.as_ref() == Some(&location.epoch))
    })
    .await
}

async fn set_lock_timeout(connection: &mut PgConnection, is_local: bool) -> Result<(), sqlx::Error> {
    let milliseconds = LOCK_TIMEOUT.as_millis().to_string();
    sqlx::query!("select set_config('lock_timeout', $1, $2)", milliseconds, is_local)
        .fetch_one(connection)
        .await
        .map(|_| ())
}

async fn with_timeout<T>(check: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(CHECK_TIMEOUT, check).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

fn not_the_primary() -> sqlx::Error {
    sqlx::Error::Configuration("this server is not the primary that the tailer follows".into())
}
