//! The queue of recordings: claims due work of one organisation, and records how it ended.
//!
//! Every call is one transaction that is bound to an organisation. A row that the database hands out for
//! another organisation is an error: the transaction is rolled back, and the report names the row.

use std::time::Duration;

use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, FromRow, Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::RecordingsError;
use super::tables::Statements;
use crate::org::OrgId;
use crate::postgres::begin_bound;

/// Longest error that a row keeps, in characters.
const ERROR_CHARS_MAX: usize = 500;

/// Reason of a row without an error, whose workers ended during every attempt.
const WORKER_ENDED: &str = "the worker ended during each attempt";

/// A claimed row: a recording to copy.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Claimed {
    /// Id of the row.
    pub id: Uuid,
    /// Organisation of the row.
    pub org_id: OrgId,
    /// The recording.
    pub recording_id: Uuid,
    /// Provider of the source, such as `twilio`.
    pub provider: Option<String>,
    /// The provider's account whose credentials open the source.
    pub account: Option<String>,
    /// Address of the recording at its provider.
    pub source_url: String,
    /// Number of this attempt, from 1.
    pub attempts: i32,
    /// Why the attempt before failed.
    pub last_error: Option<String>,
}

/// The work of one claim.
#[derive(Debug, Default)]
pub struct Claim {
    /// Rows to work on.
    pub rows: Vec<Claimed>,
    /// Rows that failed without an attempt, with the reason.
    pub failed: Vec<(Claimed, String)>,
}

/// A stored recording.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Key in the object store.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Media type, by the first bytes.
    pub media_type: String,
    /// SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// A row of the queue that is not done.
#[derive(Clone, Debug, FromRow)]
pub struct ListedRow {
    /// Id of the row.
    pub id: Uuid,
    /// Organisation of the row.
    pub org_id: OrgId,
    /// The recording.
    pub recording_id: Uuid,
    /// `pending`, `uploading` or `failed`.
    pub state: String,
    /// Attempts so far.
    pub attempts: i32,
    /// When the next attempt is due.
    pub next_attempt_at: OffsetDateTime,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// How long a claimed row belongs to a worker, and how often it may be tried.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Time after which another worker takes a row over, unless this one extends it.
    pub lease: Duration,
    /// Attempts for each recording.
    pub attempts_max: u32,
}

/// The queue, for one worker.
#[derive(Clone, Debug)]
pub struct Queue {
    pub(super) pool: PgPool,
    pub(super) statements: Statements,
    /// Name of the worker in the rows that it holds.
    worker: String,
    terms: Terms,
}

impl Queue {
    /// Opens the queue.
    ///
    /// # Errors
    /// If the tables were not named, or nothing isolates organisations in one of them.
    pub async fn open(pool: PgPool, worker: String, terms: Terms) -> Result<Self, RecordingsError> {
        let statements = Statements::load(&pool).await?;
        Ok(Self { pool, statements, worker, terms })
    }

    /// Organisations with due work, those that have waited longest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn due_organizations(&self, organizations_max: u32) -> Result<Vec<OrgId>, RecordingsError> {
        let mut transaction = self.pool.begin().await?;
        // The function returns ids alone, to this role alone.
        sqlx::query("set local role warden_worker").execute(&mut *transaction).await?;
        let max = i32::try_from(organizations_max).unwrap_or(i32::MAX);
        let due = sqlx::query_scalar("select warden.due_recording_organizations($1)")
            .bind(max)
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(due)
    }

    /// Ids of organisations after this one, in their order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn organizations(
        &self,
        after: Option<OrgId>,
        organizations_max: u32,
    ) -> Result<Vec<OrgId>, RecordingsError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("set local role warden_worker").execute(&mut *transaction).await?;
        let orgs = sqlx::query_scalar("select warden.recording_organizations($1, $2)")
            .bind(after.map(OrgId::as_uuid))
            .bind(i32::try_from(organizations_max).unwrap_or(i32::MAX))
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(orgs)
    }

    /// Claims due rows of an organisation, at most this many.
    ///
    /// # Errors
    /// If the database fails, or hands out a row of another organisation. Then nothing is claimed.
    pub async fn claim(&self, org: OrgId, rows_max: u32) -> Result<Claim, RecordingsError> {
        let mut bound = begin_bound(&self.pool, org).await?;
        // Before the rows are read: what is queued after this leaves a wake of its own.
        sqlx::query("select warden.take_recording_wakes()").execute(&mut *bound).await?;
        sqlx::query(AssertSqlSafe(self.statements.claims.reclaim.as_str())).execute(&mut *bound).await?;
        let rows: Vec<Claimed> = sqlx::query_as(AssertSqlSafe(self.statements.claims.claim.as_str()))
            .bind(i64::from(rows_max))
            .bind(&self.worker)
            .bind(self.terms.lease.as_secs_f64())
            .fetch_all(&mut *bound)
            .await?;
        if let Some(row) = rows.iter().find(|row| row.org_id != org) {
            return Err(RecordingsError::ForeignRow { org, row: row.id });
        }
        let claim = self.sort_out(&mut bound, rows).await?;
        let has_due: bool = sqlx::query_scalar(AssertSqlSafe(self.statements.claims.has_due.as_str()))
            .fetch_one(&mut *bound)
            .await?;
        if has_due {
            sqlx::query("select warden.add_recording_wake(now())").execute(&mut *bound).await?;
        }
        bound.commit().await?;
        Ok(claim)
    }

    /// Marks the recordings as being copied. Rows without a recording of their organisation fail, and those
    /// during whose attempts a worker ended each time.
    async fn sort_out(
        &self,
        bound: &mut Transaction<'static, Postgres>,
        rows: Vec<Claimed>,
    ) -> Result<Claim, RecordingsError> {
        let wanted: Vec<Uuid> = rows.iter().map(|row| row.recording_id).collect();
        let found: Vec<Uuid> =
            sqlx::query_scalar(AssertSqlSafe(self.statements.recordings.mark_processing.as_str()))
                .bind(wanted)
                .fetch_all(&mut **bound)
                .await?;
        let mut claim = Claim::default();
        for row in rows {
            let reason = if !found.contains(&row.recording_id) {
                "the recording is not one of this organisation"
            } else if i64::from(row.attempts) > i64::from(self.terms.attempts_max) {
                row.last_error.as_deref().unwrap_or(WORKER_ENDED)
            } else {
                claim.rows.push(row);
                continue;
            };
            let reason = reason.to_owned();
            self.fail_in(bound, &row, &reason).await?;
            claim.failed.push((row, reason));
        }
        Ok(claim)
    }

    /// Extends the leases of rows of an organisation. Returns those that this worker still holds.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn extend(&self, org: OrgId, rows: &[Uuid]) -> Result<Vec<Uuid>, RecordingsError> {
        let mut bound = begin_bound(&self.pool, org).await?;
        let held = sqlx::query_scalar(AssertSqlSafe(self.statements.claims.extend.as_str()))
            .bind(rows)
            .bind(&self.worker)
            .bind(self.terms.lease.as_secs_f64())
            .fetch_all(&mut *bound)
            .await?;
        bound.commit().await?;
        Ok(held)
    }

    /// Records a stored file: the row, its recording and its call change together.
    ///
    /// # Errors
    /// If the database fails, the worker has lost the row, or the recording or its call belongs to another
    /// organisation. Then nothing changes.
    pub async fn finish(&self, org: OrgId, row: &Claimed, file: &StoredFile) -> Result<(), RecordingsError> {
        let mut bound = self.bind(org, row).await?;
        let done = sqlx::query(AssertSqlSafe(self.statements.rows.finish.as_str()))
            .bind(row.id)
            .bind(&self.worker)
            .bind(&file.key)
            .execute(&mut *bound)
            .await?;
        held(row, done.rows_affected())?;
        let bytes = i64::try_from(file.bytes).unwrap_or(i64::MAX);
        let calls: Vec<Option<Uuid>> =
            sqlx::query_scalar(AssertSqlSafe(self.statements.recordings.finish.as_str()))
                .bind(row.recording_id)
                .bind(&file.key)
                .bind(bytes)
                .bind(&file.media_type)
                .bind(&file.sha256)
                .fetch_all(&mut *bound)
                .await?;
        let [call] = calls.as_slice() else { return Err(RecordingsError::ForeignRow { org, row: row.id }) };
        if let (Some(call), Some(count)) = (call, &self.statements.recordings.count_in_call) {
            let counted = sqlx::query(AssertSqlSafe(count.as_str())).bind(call).execute(&mut *bound).await?;
            if counted.rows_affected() != 1 {
                return Err(RecordingsError::ForeignRow { org, row: row.id });
            }
        }
        bound.commit().await?;
        Ok(())
    }

    /// Makes a row pending for another attempt.
    ///
    /// # Errors
    /// If the database fails, or the worker has lost the row.
    pub async fn retry(
        &self,
        org: OrgId,
        row: &Claimed,
        delay: Duration,
        error: &str,
    ) -> Result<(), RecordingsError> {
        let mut bound = self.bind(org, row).await?;
        let done = sqlx::query(AssertSqlSafe(self.statements.rows.retry.as_str()))
            .bind(row.id)
            .bind(&self.worker)
            .bind(delay.as_secs_f64())
            .bind(shortened(error))
            .execute(&mut *bound)
            .await?;
        held(row, done.rows_affected())?;
        bound.commit().await?;
        Ok(())
    }

    /// Makes a row and its recording failed: nobody tries again until a person asks for it.
    ///
    /// # Errors
    /// If the database fails, or the worker has lost the row.
    pub async fn fail(&self, org: OrgId, row: &Claimed, error: &str) -> Result<(), RecordingsError> {
        let mut bound = self.bind(org, row).await?;
        self.fail_in(&mut bound, row, error).await?;
        bound.commit().await?;
        Ok(())
    }

    async fn fail_in(
        &self,
        bound: &mut Transaction<'static, Postgres>,
        row: &Claimed,
        error: &str,
    ) -> Result<(), RecordingsError> {
        let done = sqlx::query(AssertSqlSafe(self.statements.rows.fail.as_str()))
            .bind(row.id)
            .bind(&self.worker)
            .bind(shortened(error))
            .execute(&mut **bound)
            .await?;
        held(row, done.rows_affected())?;
        // A recording of another organisation is not found, and stays as it is.
        sqlx::query(AssertSqlSafe(self.statements.recordings.fail.as_str()))
            .bind(row.recording_id)
            .execute(&mut **bound)
            .await?;
        Ok(())
    }

    /// Rows of an organisation that are not done.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list(
        &self,
        org: OrgId,
        only_failed: bool,
        rows_max: u32,
    ) -> Result<Vec<ListedRow>, RecordingsError> {
        let mut bound = begin_bound(&self.pool, org).await?;
        let rows = sqlx::query_as(AssertSqlSafe(self.statements.rows.list.as_str()))
            .bind(only_failed)
            .bind(i64::from(rows_max))
            .bind(None::<Uuid>)
            .fetch_all(&mut *bound)
            .await?;
        bound.commit().await?;
        Ok(rows)
    }

    /// Makes failed rows of an organisation pending: one row, or all. Returns their recordings.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn revive(&self, org: OrgId, row: Option<Uuid>) -> Result<Vec<Uuid>, RecordingsError> {
        let mut bound = begin_bound(&self.pool, org).await?;
        let recordings: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(self.statements.rows.revive.as_str()))
            .bind(row)
            .fetch_all(&mut *bound)
            .await?;
        bound.commit().await?;
        Ok(recordings)
    }

    /// A transaction for a claimed row, which must be of the organisation.
    async fn bind(
        &self,
        org: OrgId,
        row: &Claimed,
    ) -> Result<Transaction<'static, Postgres>, RecordingsError> {
        if row.org_id != org {
            return Err(RecordingsError::ForeignRow { org, row: row.id });
        }
        Ok(begin_bound(&self.pool, org).await?)
    }
}

fn held(row: &Claimed, rows_affected: u64) -> Result<(), RecordingsError> {
    if rows_affected == 1 { Ok(()) } else { Err(RecordingsError::Lost(row.id)) }
}

fn shortened(error: &str) -> String {
    error.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect()
}
