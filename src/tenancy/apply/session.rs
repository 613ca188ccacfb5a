//! The connection that does the work, and the discipline with which it takes locks.
//!
//! One connection holds the lock of the run and does everything, so that the lock is held for exactly as long
//! as the server still works for this run, also when this process is killed. A second one only looks: at
//! progress, at who is in the way, and it cancels the first when the operator asks to stop.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgQueryResult};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio_util::sync::CancellationToken;

use super::Options;
use super::progress::Progress;
use crate::backoff::Backoff;
use crate::tenancy::Finding;

/// First and longest pause between two tries for a lock; in between writers have the table for themselves.
const LOCK_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long a step tries for its locks before it is given up, and reported with who is in the way.
pub(super) const LOCK_TRIES_MAX: Duration = Duration::from_mins(10);
/// How often a long statement is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What every session of a run begins with. The last one: when this process is gone, the server ends a
/// statement of it within that time.
pub(super) const SETTINGS: &str = "
    set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0;
    set default_transaction_isolation = 'read committed'; set search_path = '';
    -- Rows that a policy hides must not look like rows that are not there: this makes it an error.
    set row_security = off;
    -- Compiling a batch would take longer than the batch may.
    set jit = off;
    set client_connection_check_interval = '500ms'";
/// What shows in `pg_stat_activity`.
pub(super) const APPLICATION_NAME: &str = "warden migrate";
/// 'WARM': one run at a time per database. Next to the doorbell's key.
const RUN_LOCK: i64 = 1_463_898_701;

/// Why a step did not end well.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// The operator asked to stop.
    #[error("stopped")]
    Stopped,
    /// The server refused it: this table's affair, the others go on.
    #[error("{}", describe(.0))]
    Refused(#[source] Box<PgDatabaseError>),
    /// A lock was not to be had.
    #[error("waited in vain: {0}")]
    Locked(String),
    /// It can't be done, for a reason that this program found itself.
    #[error("{0}")]
    Given(String),
    /// Something of the application's is in the way.
    #[error("{}", .0.what)]
    Conflict(Box<Finding>),
    /// The connection is gone or the like: the run ends.
    #[error(transparent)]
    Fatal(anyhow::Error),
}

impl StepError {
    /// SQLSTATE of a refusal.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Refused(error) => error.code(),
            _ => "",
        }
    }
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            // Class 57P: the server goes down, or an administrator ended the session.
            sqlx::Error::Database(e) if !e.code().is_some_and(|code| code.starts_with("57P")) => {
                Self::Refused(e.downcast::<PgDatabaseError>())
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

/// Whether the same statement may work in the next moment: no lock, deadlock, serialization.
pub(super) fn is_transient(code: &str) -> bool {
    matches!(code, "55P03" | "40P01" | "40001")
}

/// The two connections of a run.
pub(super) struct Session {
    /// Does everything.
    pub(super) work: PgConnection,
    /// Looks.
    pub(super) side: PgConnection,
    work_pid: i32,
    pub(super) options: Options,
    pub(super) stop: CancellationToken,
    pub(super) progress: Progress,
}

impl Session {
    pub(super) async fn open(
        options: Options,
        database: &PgConnectOptions,
        stop: CancellationToken,
        progress: Progress,
    ) -> anyhow::Result<Self> {
        let database = database.clone().application_name(APPLICATION_NAME).disable_statement_logging();
        let mut work = connect(&database).await?;
        let side = connect(&database).await?;
        refuse_standby(&mut work).await?;
        let work_pid = backend_pid(&mut work).await?;
        Ok(Self { work, side, work_pid, options, stop, progress })
    }

    /// One run at a time: waits for another, and says which, or fails where the operator doesn't want to wait.
    pub(super) async fn take_turn(&mut self, is_waiting: bool) -> anyhow::Result<()> {
        let mut has_said = false;
        loop {
            let is_mine = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "is_mine!""#, RUN_LOCK)
                .fetch_one(&mut self.work)
                .await?;
            if is_mine {
                return Ok(());
            }
            let holder = self.turn_holder().await?;
            anyhow::ensure!(is_waiting, "another run is under way: {holder}");
            if !has_said {
                self.progress.say(&format!("waiting for another run: {holder}"));
                has_said = true;
            }
            self.pause(LOOK_EVERY)
                .await
                .map_err(|_| anyhow::anyhow!("stopped while waiting for another run"))?;
        }
    }

    async fn turn_holder(&mut self) -> anyhow::Result<String> {
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
        .fetch_optional(&mut self.side)
        .await?;
        Ok(holder.unwrap_or_else(|| "it just ended".to_owned()))
    }

    /// A moment's rest, unless the operator asks to stop.
    pub(super) async fn pause(&self, time: Duration) -> Result<(), StepError> {
        tokio::select! {
            () = self.stop.cancelled() => Err(StepError::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    pub(super) fn check_stop(&self) -> Result<(), StepError> {
        if self.stop.is_cancelled() { Err(StepError::Stopped) } else { Ok(()) }
    }

    /// Short DDL in one transaction and one round trip, under the lock limit, tried again until its locks are
    /// free. Whoever comes behind a waiting request for a strong lock waits with it, so the limit is shared
    /// out among the relations that the statements lock: together they make nobody wait for longer.
    pub(super) async fn short(&mut self, locked: &[i64], statements: &[String]) -> Result<(), StepError> {
        let limit = self.options.lock_timeout / u32::try_from(locked.len().max(1)).unwrap_or(1);
        let sql = format!(
            "begin; set local lock_timeout = {}; {}; commit",
            limit.as_millis().max(1),
            statements.join("; ")
        );
        let begun = Instant::now();
        let mut backoff = Backoff::new(LOCK_RETRY.0, LOCK_RETRY.1);
        loop {
            self.check_stop()?;
            let error = match self.work.execute(sqlx::raw_sql(AssertSqlSafe(sql.clone()))).await {
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
            if !is_transient(error.code()) {
                return Err(error);
            }
            let holder = self.lock_holder(locked).await?;
            if begun.elapsed() > LOCK_TRIES_MAX {
                return Err(StepError::Locked(holder));
            }
            self.progress.wait(&format!("waiting for a lock; {holder}"));
            self.pause(backoff.next()).await?;
        }
    }

    /// The oldest transaction that has one of these relations locked, for people.
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
        .fetch_optional(&mut self.side)
        .await?;
        Ok(holder.unwrap_or_else(|| "its holder is gone already".to_owned()))
    }

    /// A long statement that blocks no writer: it has no lock limit, can be cancelled by the operator, and is
    /// looked at meanwhile with `look`, a query for one line of text.
    pub(super) async fn long(
        &mut self,
        sql: &str,
        look: Option<&'static str>,
    ) -> Result<PgQueryResult, StepError> {
        self.check_stop()?;
        let Self { work, side, work_pid, stop, progress, .. } = self;
        let working = work.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())));
        tokio::pin!(working);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut is_cancelled = false;
        loop {
            tokio::select! {
                result = &mut working => {
                    progress.clear_wait();
                    return result.map_err(|error| match StepError::from(error) {
                        StepError::Refused(_) if is_cancelled => StepError::Stopped,
                        other => other,
                    });
                }
                () = stop.cancelled(), if !is_cancelled => {
                    is_cancelled = true;
                    cancel(side, *work_pid).await?;
                }
                // A cancel request that came before the statement did is lost: so it is sent again.
                _ = ticks.tick() => {
                    if is_cancelled {
                        cancel(side, *work_pid).await?;
                    } else if let Some(look) = look {
                        let line: Option<Option<String>> =
                            sqlx::query_scalar(look).bind(*work_pid).fetch_optional(&mut *side).await?;
                        if let Some(line) = line.flatten() {
                            progress.wait(&line);
                        }
                    }
                }
            }
        }
    }

    /// The process ids of this run's own connections.
    pub(super) async fn own_pids(&mut self) -> Result<Vec<i32>, StepError> {
        let side = backend_pid(&mut self.side).await?;
        Ok(vec![self.work_pid, side])
    }

    pub(super) async fn close(self) {
        // The work is done; that a goodbye fails changes nothing.
        let _ = self.work.close().await;
        let _ = self.side.close().await;
    }
}

async fn cancel(side: &mut PgConnection, pid: i32) -> Result<(), StepError> {
    sqlx::query!("select pg_cancel_backend($1)", pid).fetch_one(side).await?;
    Ok(())
}

async fn backend_pid(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(r#"select pg_backend_pid() as "pid!""#).fetch_one(connection).await
}

/// A standby can be read alone.
pub(in crate::tenancy) async fn refuse_standby(connection: &mut PgConnection) -> anyhow::Result<()> {
    let is_standby =
        sqlx::query_scalar!(r#"select pg_is_in_recovery() as "is_standby!""#).fetch_one(connection).await?;
    anyhow::ensure!(
        !is_standby,
        "DATABASE_URL leads to a standby, which can't be written to: name the primary"
    );
    Ok(())
}

/// Connects, and sets aside what a role's or database's own settings may bring along.
async fn connect(database: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let mut connection =
        PgConnection::connect_with(database).await.context("cannot connect to DATABASE_URL")?;
    connection.execute(sqlx::raw_sql(SETTINGS)).await.context("cannot prepare the session")?;
    Ok(connection)
}
