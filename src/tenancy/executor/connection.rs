//! The executor's database connections, and its lock discipline.
//!
//! One connection holds the run's advisory lock and executes every statement. So the lock is held for exactly
//! as long as the server works for this run, even if this process is killed. A second connection only
//! observes: it reports progress and lock holders, and it cancels the first one if the operator stops the
//! run.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgQueryResult};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio_util::sync::CancellationToken;

use super::options::AdoptionOptions;
use super::progress::AdoptionProgress;
use crate::backoff::Backoff;
use crate::postgres;
use crate::tenancy::AdoptionIssue;

/// First and longest pause between two attempts to get a lock. In between, writers have the table to
/// themselves.
const LOCK_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Time after which a step gives up its attempts to get a lock, and reports the lock's holder.
pub(crate) const LOCK_RETRY_MAX: Duration = Duration::from_mins(10);
/// Interval at which a long statement is observed.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Settings of both connections, except while SQL migrations are applied.
pub(super) const SETTINGS: &str = "
    set lock_timeout = 0; set search_path = '';
    -- A query on rows that a policy hides fails. Otherwise hidden rows would look like missing rows.
    set row_security = off;
    -- The executor protects new members itself, so the event trigger need not check each statement.
    set warden.is_protecting = 'on';
    -- If this process dies, the server ends its running statement within this time.
    set client_connection_check_interval = '500ms'";
/// Application name in `pg_stat_activity`.
pub(super) const APPLICATION_NAME: &str = "warden migrate";
/// Advisory lock 'WARM', next to the doorbell's key: one run at a time per database.
const RUN_LOCK: i64 = 1_463_898_701;
/// Advice about a session that is no run. Every role can take an advisory lock.
const NO_RUN: &str = "if that is no run of warden, end it with pg_terminate_backend(pid)";

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// The operator stopped the run.
    #[error("stopped")]
    Stopped,
    /// The server rejected a statement. It concerns one table; the others continue.
    #[error("{}", describe(.0))]
    Rejected(#[source] Box<PgDatabaseError>),
    /// A lock was not granted in time.
    #[error("gave up waiting: {0}")]
    Locked(String),
    /// The executor itself found a reason not to continue.
    #[error("{0}")]
    Aborted(String),
    /// An object of the application blocks the step.
    #[error("{}", .0.problem)]
    Conflict(Box<AdoptionIssue>),
    /// The connection is lost, or a similar failure: the run ends.
    #[error(transparent)]
    Fatal(anyhow::Error),
}

impl StepError {
    /// SQLSTATE of a rejected statement; empty for other errors.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Rejected(error) => error.code(),
            _ => "",
        }
    }
}

impl StepError {
    /// Whether a query failed because row-level security hides rows from this role (see [`SETTINGS`]).
    pub(super) fn is_hidden_by_policy(&self) -> bool {
        matches!(self, Self::Rejected(error) if error.code() == "42501" && error.message().contains("row-level security"))
    }

    /// Whether a publication replicates updates of a table whose rows subscribers could not identify.
    pub(super) fn lacks_replica_identity(&self) -> bool {
        matches!(self, Self::Rejected(error) if error.code() == "55000" && error.message().contains("replica identity"))
    }
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            // Class 57P: the server shuts down, or an administrator ended the connection.
            sqlx::Error::Database(e) if !e.code().is_some_and(|code| code.starts_with("57P")) => {
                Self::Rejected(e.downcast::<PgDatabaseError>())
            }
            other => Self::Fatal(anyhow::Error::new(other).context("the connection to the database failed")),
        }
    }
}

fn describe(error: &PgDatabaseError) -> String {
    let mut text = error.message().to_owned();
    for part in [error.detail(), error.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(part);
    }
    text
}

/// Whether the same statement may succeed if retried: lock not available, deadlock, or serialization failure.
pub(super) fn is_transient(code: &str) -> bool {
    matches!(code, "55P03" | "40P01" | "40001")
}

/// The two connections of a run, with its options and its progress output.
pub(super) struct ExecutorConnection {
    /// Executes every statement, and holds the run's lock.
    pub(super) work: PgConnection,
    /// Observes the other connection, and cancels it.
    pub(super) monitor: PgConnection,
    work_pid: i32,
    pub(super) options: AdoptionOptions,
    pub(super) stop: CancellationToken,
    pub(super) progress: AdoptionProgress,
}

impl ExecutorConnection {
    pub(super) async fn open(
        options: AdoptionOptions,
        database: &PgConnectOptions,
        stop: CancellationToken,
        progress: AdoptionProgress,
    ) -> anyhow::Result<Self> {
        let database = database.clone().application_name(APPLICATION_NAME).disable_statement_logging();
        let mut work = connect(&database).await?;
        let monitor = connect(&database).await?;
        reject_standby(&mut work).await?;
        let work_pid = backend_pid(&mut work).await?;
        Ok(Self { work, monitor, work_pid, options, stop, progress })
    }

    /// Takes the run's advisory lock. If another run holds it: waits and names that run, or fails unless
    /// `is_waiting`.
    pub(super) async fn lock_run(&mut self, is_waiting: bool) -> anyhow::Result<()> {
        let mut is_reported = false;
        loop {
            let is_locked =
                sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "is_locked!""#, RUN_LOCK)
                    .fetch_one(&mut self.work)
                    .await?;
            if is_locked {
                return Ok(());
            }
            let holder = self.run_lock_holder().await?;
            anyhow::ensure!(is_waiting, "another run is in progress: {holder}; {NO_RUN}");
            if !is_reported {
                self.progress.print(&format!("waiting for another run: {holder}; {NO_RUN}"));
                is_reported = true;
            }
            self.pause(POLL_INTERVAL)
                .await
                .map_err(|_| anyhow::anyhow!("stopped while waiting for another run"))?;
        }
    }

    async fn run_lock_holder(&mut self) -> anyhow::Result<String> {
        let holder = sqlx::query_scalar!(
            r#"select format('pid %s, %s, connected since %s from %s', a.pid, coalesce(a.usename, '?'),
                           coalesce(to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS'), '?'),
                           coalesce(host(a.client_addr), 'a local socket')) as "holder!"
             from pg_locks l join pg_stat_activity a using (pid)
             where l.locktype = 'advisory' and l.granted and l.objsubid = 1
               and (l.classid::bigint << 32) | l.objid::bigint = $1
               and l.database = (select oid from pg_database where datname = current_database())"#,
            RUN_LOCK
        )
        .fetch_optional(&mut self.monitor)
        .await?;
        Ok(holder.unwrap_or_else(|| "it has just ended".to_owned()))
    }

    /// Sleeps, unless the operator stops the run.
    pub(super) async fn pause(&self, time: Duration) -> Result<(), StepError> {
        tokio::select! {
            () = self.stop.cancelled() => Err(StepError::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    pub(super) fn check_stop(&self) -> Result<(), StepError> {
        if self.stop.is_cancelled() { Err(StepError::Stopped) } else { Ok(()) }
    }

    /// Executes short DDL in one transaction and one round trip, and retries until its locks are granted.
    ///
    /// Other sessions queue behind a strong lock request that waits, so the wait has a limit. The limit is
    /// divided by the number of relations that the statements lock: together their requests delay others no
    /// longer than that.
    pub(super) async fn short(&mut self, locked: &[i64], statements: &[String]) -> Result<(), StepError> {
        let limit = self.lock_limit(locked.len());
        self.retried(locked, limit, |_| statements.join("; "), is_transient).await
    }

    /// The longest wait of each of several lock requests.
    pub(super) fn lock_limit(&self, requests: usize) -> Duration {
        self.options.lock_timeout / u32::try_from(requests.max(1)).unwrap_or(1)
    }

    /// Executes statements in one transaction and one round trip, with this limit for each lock request, and
    /// retries them after errors that may pass. The statements may depend on the number of failures so far.
    pub(super) async fn retried(
        &mut self,
        locked: &[i64],
        limit: Duration,
        statements: impl Fn(u32) -> String,
        may_pass: fn(&str) -> bool,
    ) -> Result<(), StepError> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(LOCK_RETRY.0, LOCK_RETRY.1);
        let mut failures = 0;
        loop {
            self.check_stop()?;
            let sql = format!(
                "begin; set local lock_timeout = {}; {}; commit",
                limit.as_millis().max(1),
                statements(failures)
            );
            let error = match self.work.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await {
                Ok(_) => {
                    self.progress.clear_wait();
                    return Ok(());
                }
                Err(error) => StepError::from(error),
            };
            if let StepError::Fatal(_) = error {
                return Err(error);
            }
            self.work.execute("rollback").await?;
            if !may_pass(error.code()) {
                return Err(error);
            }
            let holder = self.lock_holder(locked).await?;
            if begun.elapsed() > LOCK_RETRY_MAX {
                return Err(StepError::Locked(holder));
            }
            self.progress.wait(&format!("waiting for a lock, {holder}"));
            self.pause(backoff.next()).await?;
            failures += 1;
        }
    }

    /// Describes the oldest transaction that holds a lock on one of these relations.
    async fn lock_holder(&mut self, relations: &[i64]) -> Result<String, StepError> {
        let holder = sqlx::query_scalar!(
            r#"select format('held by pid %s (%s, %s), in a transaction since %s, %s', a.pid,
                           coalesce(a.usename, '?'), coalesce(nullif(a.application_name, ''), 'unnamed'),
                           coalesce(to_char(a.xact_start, 'HH24:MI:SS'), '?'), coalesce(a.state, '?')) as "holder!"
             from pg_locks l join pg_stat_activity a using (pid)
             where l.locktype = 'relation' and l.relation::bigint = any ($1) and l.granted
               and l.pid <> all (array[pg_backend_pid(), $2])
             order by a.xact_start limit 1"#,
            relations,
            self.work_pid
        )
        .fetch_optional(&mut self.monitor)
        .await?;
        Ok(holder.unwrap_or_else(|| "which has just been released".to_owned()))
    }

    /// Executes a long statement that blocks no writer. It has no lock limit, and the operator can cancel it.
    /// Meanwhile `observe`, a query for one line of text, reports how far the statement is.
    pub(super) async fn long(
        &mut self,
        sql: &str,
        observe: Option<&'static str>,
    ) -> Result<PgQueryResult, StepError> {
        self.check_stop()?;
        let Self { work, monitor, work_pid, stop, progress, .. } = self;
        let working = work.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())));
        tokio::pin!(working);
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        let mut is_cancelled = false;
        loop {
            tokio::select! {
                result = &mut working => {
                    progress.clear_wait();
                    return result.map_err(|error| match StepError::from(error) {
                        StepError::Rejected(_) if is_cancelled => StepError::Stopped,
                        other => other,
                    });
                }
                () = stop.cancelled(), if !is_cancelled => {
                    is_cancelled = true;
                    cancel(monitor, *work_pid).await?;
                }
                _ = ticks.tick() => {
                    if is_cancelled {
                        // A cancel request that arrives before its statement is lost, so it is repeated.
                        cancel(monitor, *work_pid).await?;
                    } else if let Some(observe) = observe {
                        let line: Option<Option<String>> =
                            sqlx::query_scalar(observe).bind(*work_pid).fetch_optional(&mut *monitor).await?;
                        if let Some(line) = line.flatten() {
                            progress.wait(&line);
                        }
                    }
                }
            }
        }
    }

    /// Reads one value.
    pub(super) async fn scalar<T>(&mut self, sql: String) -> Result<T, StepError>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.work).await?)
    }

    /// Process ids of the run's own connections.
    pub(super) async fn own_pids(&mut self) -> Result<Vec<i32>, StepError> {
        let monitor = backend_pid(&mut self.monitor).await?;
        Ok(vec![self.work_pid, monitor])
    }

    pub(super) async fn close(self) {
        // The work is done: an error while closing changes nothing.
        let _ = self.work.close().await;
        let _ = self.monitor.close().await;
    }
}

async fn cancel(monitor: &mut PgConnection, pid: i32) -> Result<(), StepError> {
    sqlx::query!("select pg_cancel_backend($1)", pid).fetch_one(monitor).await?;
    Ok(())
}

async fn backend_pid(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(r#"select pg_backend_pid() as "pid!""#).fetch_one(connection).await
}

/// Fails if the server is a standby, which accepts no writes.
pub(in crate::tenancy) async fn reject_standby(connection: &mut PgConnection) -> anyhow::Result<()> {
    let is_standby =
        sqlx::query_scalar!(r#"select pg_is_in_recovery() as "is_standby!""#).fetch_one(connection).await?;
    anyhow::ensure!(
        !is_standby,
        "DATABASE_URL leads to a server that is a standby and accepts no writes: use the primary's address"
    );
    Ok(())
}

async fn connect(database: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let mut connection = crate::postgres::connect(database).await?;
    let settings = postgres::dialect(false) + SETTINGS;
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(settings)))
        .await
        .context("cannot apply the session settings")?;
    Ok(connection)
}
