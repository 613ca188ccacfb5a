//! The connection that reads the log: connecting, the epoch, and the transactions of a pooled session.

use sqlx::postgres::PgConnection;

use super::page_size::{PageLimits, PageSize};
use crate::cursor::{Epoch, ParseError};
use crate::postgres::{
    BackendMode, NoPrimary, Primary, assume_gateway_role, begin_pooled, commit_pooled, missing_gateway_rights,
};

/// A connection that reads the log, bound to the epoch in which it was opened.
///
/// If the connection leads through a pooler in transaction mode (a pooled session), each read is a
/// transaction. It checks the epoch first, because the pooler may route one transaction to another database
/// than the previous one.
#[derive(Debug)]
pub struct LogReader {
    pub(super) connection: PgConnection,
    mode: BackendMode,
    epoch: Epoch,
    pub(super) page_size: PageSize,
}

/// Reasons why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database returned an error, or did not answer.
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
    /// No address leads to a primary. Standbys do not help: their snapshots omit transactions in progress.
    #[error("no primary at the addresses of DATABASE_URL: {0}")]
    NoPrimary(#[from] NoPrimary),
    /// A pooler leads to another database, or to another history of the database, than before.
    #[error("the pooler now leads to a database with another epoch: reconnecting")]
    Moved,
    /// Rows in another encoding may contain bytes that are not valid UTF-8.
    #[error("the database's encoding is {0}, but Warden needs UTF8: create the database with encoding UTF8")]
    Encoding(String),
    /// The role of the gateway lacks rights. The message says which, and how to grant them.
    #[error("{0}")]
    Rights(String),
    /// The schema is missing, or older than this binary.
    #[error("the database has no event log: run `warden migrate` against it first")]
    NotMigrated,
    /// The database returned a string in an unexpected form.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl LogReader {
    /// Connects to the primary, checks that it has a log, and begins its current epoch. The gateway's pool
    /// follows to the same address.
    ///
    /// # Errors
    /// If no primary can be reached, it has no event log, or the gateway's role lacks rights.
    pub async fn connect(primary: &Primary, page: PageLimits) -> Result<Self, LogError> {
        let mut found = primary.connect().await?;
        let is_pooled = found.mode == BackendMode::Pooled;
        let connection = &mut found.connection;
        if is_pooled {
            begin_pooled(connection).await?;
        }
        assume_gateway_role(connection, is_pooled).await?;
        if let Some(missing) = missing_gateway_rights(connection).await? {
            return Err(LogError::Rights(missing.to_string()));
        }
        let epoch = begin_epoch(connection).await?;
        if is_pooled {
            commit_pooled(connection).await?;
        } else {
            // A read has one good plan, which uses indexes, whatever the statistics say. Planning each read
            // would take longer than the read itself, and a partition that was empty at planning time will
            // fill.
            sqlx::query!("set plan_cache_mode = force_generic_plan").execute(&mut *connection).await?;
            sqlx::query!("set enable_seqscan = off").execute(&mut *connection).await?;
            // A small table without a fitting index then seems so expensive that the server would compile the
            // query, which takes 100 ms.
            sqlx::query!("set jit = off").execute(&mut *connection).await?;
            // A page is sorted in memory. Otherwise a small temp_file_limit of the role would stop all reads.
            sqlx::query!("set work_mem = '64MB'").execute(&mut *connection).await?;
            // The check of retention relies on it that a statement locks the log before its snapshot is
            // taken.
            sqlx::query!("set default_transaction_isolation = 'read committed'")
                .execute(&mut *connection)
                .await?;
            // Keepalives end the session of a host that vanished. Otherwise it could silence the doorbell for
            // hours.
            sqlx::query!("set tcp_keepalives_idle = 10").execute(&mut *connection).await?;
            sqlx::query!("set tcp_keepalives_interval = 5").execute(&mut *connection).await?;
            sqlx::query!("set tcp_keepalives_count = 3").execute(&mut *connection).await?;
        }
        primary.follow(&found, &epoch);
        let epoch = epoch.parse()?;
        Ok(Self { connection: found.connection, mode: found.mode, epoch, page_size: PageSize::new(page) })
    }

    /// The epoch that this connection reads.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the backend session belongs to this connection alone. Only then do settings and session locks
    /// persist.
    pub(super) fn has_dedicated_session(&self) -> bool {
        self.mode == BackendMode::Dedicated
    }

    /// Begins a read. [`Self::end_read`] ends it. After a failed read the connection must be dropped.
    pub(super) async fn begin_read(&mut self) -> Result<(), LogError> {
        if self.has_dedicated_session() {
            return Ok(());
        }
        begin_pooled(&mut self.connection).await?;
        assume_gateway_role(&mut self.connection, true).await?;
        sqlx::query!("set local enable_seqscan = off").execute(&mut self.connection).await?;
        sqlx::query!("set local jit = off").execute(&mut self.connection).await?;
        sqlx::query!("set local work_mem = '64MB'").execute(&mut self.connection).await?;
        let epoch: Epoch = sqlx::query_scalar!(r#"select warden.epoch() as "epoch!""#)
            .fetch_one(&mut self.connection)
            .await?
            .parse()?;
        if epoch == self.epoch { Ok(()) } else { Err(LogError::Moved) }
    }

    /// Ends a read, and returns a pooled session to the pooler.
    pub(super) async fn end_read(&mut self) -> Result<(), LogError> {
        if !self.has_dedicated_session() {
            commit_pooled(&mut self.connection).await?;
        }
        Ok(())
    }
}

/// Checks the database, begins its current epoch, and returns it. In a new epoch this deletes rows
/// whose transaction ids are in the future.
async fn begin_epoch(connection: &mut PgConnection) -> Result<String, LogError> {
    let encoding = sqlx::query_scalar!(r#"select current_setting('server_encoding') as "encoding!""#)
        .fetch_one(&mut *connection)
        .await?;
    if encoding != "UTF8" {
        return Err(LogError::Encoding(encoding));
    }
    let is_there = sqlx::query_scalar!(r#"select to_regclass('warden.events') is not null as "there!""#)
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Err(LogError::NotMigrated);
    }
    Ok(sqlx::query_scalar!(r#"select warden.begin_epoch() as "epoch!""#).fetch_one(connection).await?)
}
