//! The backfill: gives an organisation to rows without `org_id`, in batches, while the application writes.
//!
//! First a pass over the table by ranges of blocks, each in a short transaction. It may miss rows: it skips
//! rows that a writer has locked, and rows that are updated meanwhile move. So a second pass finds the
//! remaining rows by the index on `org_id`, and repeats until none is left. That terminates, because no new
//! row lacks `org_id`: the fill trigger was created under a lock that excluded every writer of the table. The
//! one exception is a child whose parent had no organisation yet in the snapshot of its transaction.
//! Therefore the second pass first waits for older transactions, as CREATE INDEX CONCURRENTLY does. A row
//! that only references rows without an organisation stays as it is, and becomes an issue.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::connection::{ExecutorConnection, POLL_INTERVAL, StepError, is_transient};
use super::source::{BatchRange, Reference, fill_statement, unknown};
use crate::backoff::Backoff;
use crate::tenancy::registry::Table;
use crate::tenancy::sql::literal;

/// Target duration of a batch. Writers of its rows wait for that long, and never longer than the lock limit.
pub(crate) const BATCH_TARGET: Duration = Duration::from_millis(40);
/// Blocks in the first batch. The duration of each batch determines the size of the next one.
const BATCH_BLOCKS_FIRST: u64 = 4;
/// Maximum number of blocks in one batch. It matters if none of their rows lacks `org_id`.
const BATCH_BLOCKS_MAX: u64 = 4_096;
/// Number of rows without `org_id` above which a pass over the table is faster than the index.
const INDEX_ROWS_MAX: i64 = 5_000;
/// First and longest pause after a batch that met a lock, or found only locked rows.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Longest wait for rows that others have locked, and for older transactions.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(30);
/// Planner settings that make a batch find its rows by address and their parents by key. Without them, a
/// planner that takes the batch for most of the table reads the whole table.
const PLANNER: &str = "set local enable_seqscan = off; set local enable_hashjoin = off; \
                       set local enable_mergejoin = off; set local jit = off";

/// How a batch treats the table's own triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TriggerMode {
    /// Sets `session_replication_role` for the batch's transaction. It takes no lock and affects no other
    /// session.
    Replica,
    /// Disables the triggers and enables them again within the batch's transaction, because the registry says
    /// so.
    Disabled,
    /// Lets them fire, because the role may not suppress them.
    Firing,
}

impl ExecutorConnection {
    /// Fills the whole table by ranges of blocks. Returns the number of rows filled.
    pub(super) async fn fill_by_blocks(
        &mut self,
        table: &Table,
        triggers: TriggerMode,
    ) -> Result<u64, StepError> {
        let name = table.sql();
        let missing: i64 = self
            .scalar(format!(
                "select count(*) from (select from {name} where org_id is null limit {}) s",
                INDEX_ROWS_MAX + 1
            ))
            .await?;
        if missing == 0 || (missing <= INDEX_ROWS_MAX && table.has_org_index) {
            return Ok(0);
        }
        // Rows beyond this end have org_id from the trigger, or are newer versions of rows before it.
        let blocks: i64 = self
            .scalar(format!(
                "select pg_relation_size({}::regclass) / current_setting('block_size')::int",
                literal(&name)
            ))
            .await?;
        let blocks = u64::try_from(blocks).unwrap_or(0);
        let references = Reference::load(&mut self.work, table).await?;
        let (mut at, mut size, mut rows) = (0_u64, BATCH_BLOCKS_FIRST, 0_u64);
        while at < blocks {
            self.check_stop()?;
            let end = (at + size).min(blocks);
            let range = BatchRange::Blocks(at, end);
            let begun = Instant::now();
            rows += self.batch(table, triggers, &references, &range).await?;
            let took = begun.elapsed();
            at = end;
            self.progress.rows(at, blocks, rows);
            size = next_size(size, took, self.blocks_max(table, blocks));
            if self.options.is_gentle {
                self.pause(took).await?;
            }
        }
        Ok(rows)
    }

    /// Fills the remaining rows by the index, until none is left. `is_first` means that no earlier run has
    /// got beyond this step.
    pub(super) async fn fill_remaining(
        &mut self,
        table: &Table,
        triggers: TriggerMode,
        is_first: bool,
    ) -> Result<u64, StepError> {
        let references = Reference::load(&mut self.work, table).await?;
        if is_first && (table.parent.is_some() || !references.is_empty()) {
            self.wait_for_older_transactions(table).await?;
        }
        // PostgreSQL rejects an update of a published table without a key, even if it concerns no row.
        if !self.has_unfilled(table).await? {
            return Ok(0);
        }
        let (mut rows, begun) = (0, Instant::now());
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            self.check_stop()?;
            let range = BatchRange::Any(self.options.batch_rows.into());
            let filled = self.batch(table, triggers, &references, &range).await?;
            rows += filled;
            if filled > 0 {
                backoff.reset();
                continue;
            }
            if !self.has_unfilled(table).await? {
                return Ok(rows);
            }
            if let Some(issue) = unknown(&mut self.work, table, &references).await? {
                return Err(StepError::Conflict(Box::new(issue)));
            }
            if begun.elapsed() > WAIT_MAX {
                return Err(StepError::Locked(format!(
                    "rows of {} without org_id are still locked",
                    table.sql()
                )));
            }
            self.progress.wait("waiting for rows that other transactions have locked");
            self.pause(backoff.next()).await?;
        }
    }

    /// Whether a row has no organisation yet.
    async fn has_unfilled(&mut self, table: &Table) -> Result<bool, StepError> {
        self.scalar(format!("select exists (select from {} where org_id is null)", table.sql())).await
    }

    fn blocks_max(&self, table: &Table, blocks: u64) -> u64 {
        let rows_per_block = (table.estimated_rows().max(1) / blocks.max(1)).max(1);
        (u64::from(self.options.batch_rows) / rows_per_block).clamp(1, BATCH_BLOCKS_MAX)
    }

    /// Fills one batch, and retries it after a lock timeout or a deadlock.
    async fn batch(
        &mut self,
        table: &Table,
        triggers: TriggerMode,
        references: &[Reference],
        range: &BatchRange,
    ) -> Result<u64, StepError> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let begun = Instant::now();
        loop {
            self.check_stop()?;
            let error = match self.try_batch(table, triggers, references, range).await {
                Ok(rows) => return Ok(rows),
                Err(error @ StepError::Fatal(_)) => return Err(error),
                Err(error) => error,
            };
            self.work.execute("rollback").await?;
            if !is_transient(error.code()) || begun.elapsed() > WAIT_MAX {
                return Err(error);
            }
            self.progress.wait(&format!("retrying a batch: {error}"));
            self.pause(backoff.next()).await?;
        }
    }

    async fn try_batch(
        &mut self,
        table: &Table,
        triggers: TriggerMode,
        references: &[Reference],
        range: &BatchRange,
    ) -> Result<u64, StepError> {
        let mut before = format!(
            "begin; set local lock_timeout = {}; {PLANNER}",
            self.options.lock_timeout.as_millis().max(1)
        );
        let mut after = String::new();
        match triggers {
            TriggerMode::Replica => before.push_str("; set local session_replication_role = replica"),
            TriggerMode::Disabled => {
                let (disable, enable) = self.trigger_statements(table).await?;
                before = format!("{before}; {disable}");
                // PostgreSQL does not alter a table with pending deferred trigger events, so these run first.
                after = format!("set constraints all immediate; {enable}; ");
            }
            TriggerMode::Firing => {}
        }
        self.work.execute(sqlx::raw_sql(AssertSqlSafe(before))).await?;
        let filling = sqlx::query_as(AssertSqlSafe(fill_statement(table, references, range)));
        let filling = match range {
            BatchRange::Blocks(from, to) => filling.bind(format!("({from},0)")).bind(format!("({to},0)")),
            BatchRange::Any(limit) => filling.bind(limit),
        };
        let filled: Vec<(Uuid, i64)> = filling.fetch_all(&mut self.work).await?;
        if triggers == TriggerMode::Replica && !filled.is_empty() {
            self.lock_organizations(&filled).await?;
        }
        self.work.execute(sqlx::raw_sql(AssertSqlSafe(format!("{after}commit")))).await?;
        Ok(filled.iter().map(|(_, rows)| u64::try_from(*rows).unwrap_or(0)).sum())
    }

    /// Checks that the organisations of a batch exist, and locks them until its commit. Triggers check
    /// foreign keys, so in mode Replica nothing else does.
    async fn lock_organizations(&mut self, filled: &[(Uuid, i64)]) -> Result<(), StepError> {
        let orgs: Vec<Uuid> = filled.iter().map(|(org, _)| *org).collect();
        let locked = sqlx::query_scalar!(
            r#"select count(*) as "locked!"
               from (select from public.organizations where id = any ($1) for key share) o"#,
            &orgs
        )
        .fetch_one(&mut self.work)
        .await?;
        if usize::try_from(locked).unwrap_or(0) < orgs.len() {
            return Err(StepError::Aborted(
                "an organisation was deleted while rows were assigned to it: run the command again"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Statements that disable the table's own triggers, and that enable those again which are enabled now,
    /// each in its present mode.
    async fn trigger_statements(&mut self, table: &Table) -> Result<(String, String), StepError> {
        let name = table.sql();
        let enable = sqlx::query_scalar!(
            r#"select format('enable %s trigger %I',
                           case tgenabled when 'R' then 'replica' when 'A' then 'always' else '' end, tgname) as "enable!"
             from pg_trigger
             where tgrelid::bigint = $1 and not tgisinternal and tgenabled <> 'D' order by tgname"#,
            table.oid
        )
        .fetch_all(&mut self.work)
        .await?;
        if enable.is_empty() {
            return Ok(("select".to_owned(), "select".to_owned()));
        }
        Ok((
            format!("alter table {name} disable trigger user"),
            format!("alter table {name} {}", enable.join(", ")),
        ))
    }

    /// Waits for every transaction that began earlier and has written to the table, or may still see its
    /// parent without an organisation.
    async fn wait_for_older_transactions(&mut self, table: &Table) -> Result<(), StepError> {
        let own = self.own_pids().await?;
        // A prepared transaction has no pid. Without the right to see another role's activity, a session
        // counts as in a transaction.
        let older = sqlx::query_scalar!(
            r#"select distinct l.virtualtransaction as "transaction!" from pg_locks l left join pg_stat_activity a using (pid)
             where (l.pid is null or (l.pid <> all ($1) and a.datname = current_database()
                                      and coalesce(a.backend_type, 'client backend') = 'client backend'))
               and ((l.locktype = 'relation' and l.relation::bigint = $2 and l.granted
                     and l.database = (select oid from pg_database where datname = current_database())
                     and l.mode not in ('AccessShareLock', 'RowShareLock'))
                 or (l.locktype = 'virtualxid' and l.granted
                     and (a.backend_xmin is not null or a.xact_start is null)))"#,
            &own,
            table.oid
        )
        .fetch_all(&mut self.monitor)
        .await?;
        let begun = Instant::now();
        loop {
            let remaining = sqlx::query_scalar!(
                r#"select format('waiting for the transaction of pid %s (%s, %s) since %s', coalesce(l.pid::text, 'none: prepared'),
                               coalesce(a.usename, '?'), coalesce(nullif(a.application_name, ''), 'unnamed'),
                               coalesce(to_char(a.xact_start, 'HH24:MI:SS'), '?')) as "line!"
                 from pg_locks l left join pg_stat_activity a using (pid)
                 where l.virtualtransaction = any ($1) order by a.xact_start limit 1"#,
                &older
            )
            .fetch_optional(&mut self.monitor)
            .await?;
            let Some(line) = remaining else {
                self.progress.clear_wait();
                return Ok(());
            };
            if begun.elapsed() > WAIT_MAX {
                return Err(StepError::Locked(line));
            }
            self.progress.wait(&line);
            self.pause(POLL_INTERVAL.min(Duration::from_millis(50).max(begun.elapsed() / 4))).await?;
        }
    }
}

/// The size of the next batch, from the duration of the last one.
fn next_size(size: u64, took: Duration, max: u64) -> u64 {
    let next = if took > BATCH_TARGET + BATCH_TARGET / 2 {
        size / 2
    } else if took < BATCH_TARGET / 2 {
        size * 2
    } else {
        size
    };
    next.clamp(1, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_size_follows_the_duration_of_the_last_batch() {
        assert_eq!(next_size(8, Duration::from_millis(5), 100), 16);
        assert_eq!(next_size(8, Duration::from_millis(40), 100), 8);
        assert_eq!(next_size(8, Duration::from_millis(400), 100), 4);
        assert_eq!(next_size(1, Duration::from_secs(4), 100), 1);
        assert_eq!(next_size(80, Duration::ZERO, 100), 100);
    }
}
