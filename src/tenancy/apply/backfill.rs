//! Rows without org_id get one, in batches, while the application writes.
//!
//! First a pass over the table by ranges of blocks, each a short transaction. It may miss rows: those that a
//! writer has locked are skipped, and those that are updated meanwhile move. So, once the index on org_id is
//! there, it finds what was left, until nothing is. That comes to an end, because no new row comes without
//! org_id: the filling trigger was made under a lock that no writer of the table shared. The one exception is
//! a child whose parent had none yet in its transaction's view, so before the last look transactions from
//! before are waited for, as CREATE INDEX CONCURRENTLY does.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::session::{LOOK_EVERY, Session, StepError, is_transient};
use crate::backoff::Backoff;
use crate::tenancy::registry::Table;
use crate::tenancy::{literal, quoted};

/// How long a batch should take: writers of its rows wait for so long, and for no longer than the lock limit.
const BATCH_TARGET: Duration = Duration::from_millis(40);
/// Blocks of the first batch; from then on the time of the last one tells.
const BATCH_BLOCKS_FIRST: u64 = 4;
/// At most so many blocks are looked at in one batch, also where none of their rows lacks org_id.
const BATCH_BLOCKS_MAX: u64 = 4_096;
/// More rows without org_id than this are worth a pass over the table; fewer are found by the index.
const SWEEP_ROWS_MAX: i64 = 5_000;
/// First and longest pause after a batch that met a lock, or found only locked rows.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long rows that are locked by others, and transactions from before, are waited for.
const WAIT_MAX: Duration = Duration::from_mins(30);
/// Batches find their rows by address and their parents by key, however large the planner takes them to be.
const PLAN: &str =
    "set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off";
/// What a uuid looks like in a text.
const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// How the table's own triggers are kept out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiet {
    /// `session_replication_role`, for the batch's transaction alone: no lock, and nobody else is affected.
    Replica,
    /// Disabled and enabled again within the batch's transaction, as the registry asks for this table.
    Paused,
    /// They fire: this role may not switch them off.
    Not,
}

/// Which rows a batch is about.
#[derive(Debug)]
enum Rows {
    /// From a block up to another.
    Blocks(u64, u64),
    /// So many that lack org_id, wherever they are.
    Any(i64),
}

impl Session {
    /// The pass over the whole table; the number of rows that got an organisation.
    pub(super) async fn fill_by_blocks(&mut self, table: &Table, quiet: Quiet) -> Result<u64, StepError> {
        let name = table.sql();
        let missing: i64 = self
            .scalar(format!(
                "select count(*) from (select from {name} where org_id is null limit {}) s",
                SWEEP_ROWS_MAX + 1
            ))
            .await?;
        if missing == 0 || (missing <= SWEEP_ROWS_MAX && table.has_org_index) {
            return Ok(0);
        }
        // Rows that come behind this end have org_id from the trigger, or are versions of rows before it.
        let blocks: i64 = self
            .scalar(format!(
                "select pg_relation_size({}::regclass) / current_setting('block_size')::int",
                literal(&name)
            ))
            .await?;
        let blocks = u64::try_from(blocks).unwrap_or(0);
        let (mut at, mut size, mut rows) = (0_u64, BATCH_BLOCKS_FIRST, 0_u64);
        while at < blocks {
            self.check_stop()?;
            let end = (at + size).min(blocks);
            let range = Rows::Blocks(at, end);
            let begun = Instant::now();
            rows += self.batch(table, quiet, &range).await?;
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

    /// What the pass left, found by the index, until nothing is left. `is_first` says that no earlier run came
    /// beyond this point.
    pub(super) async fn fill_the_rest(
        &mut self,
        table: &Table,
        quiet: Quiet,
        is_first: bool,
    ) -> Result<u64, StepError> {
        if table.parent.is_some() && is_first {
            self.outwait_older(table).await?;
        }
        let name = table.sql();
        let (mut rows, begun) = (0, Instant::now());
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            self.check_stop()?;
            let range = Rows::Any(self.options.batch_rows.into());
            let filled = self.batch(table, quiet, &range).await?;
            rows += filled;
            if filled > 0 {
                backoff.reset();
                continue;
            }
            let is_left: bool =
                self.scalar(format!("select exists (select from {name} where org_id is null)")).await?;
            if !is_left {
                return Ok(rows);
            }
            if begun.elapsed() > WAIT_MAX {
                return Err(StepError::Locked(format!("rows of {name} without org_id stay locked")));
            }
            self.progress.wait("waiting for rows that are locked by others");
            self.pause(backoff.next()).await?;
        }
    }

    fn blocks_max(&self, table: &Table, blocks: u64) -> u64 {
        let rows_per_block = (table.rows_about().max(1) / blocks.max(1)).max(1);
        (u64::from(self.options.batch_rows) / rows_per_block).clamp(1, BATCH_BLOCKS_MAX)
    }

    /// One batch, tried again where it meets a lock or a deadlock.
    async fn batch(&mut self, table: &Table, quiet: Quiet, range: &Rows) -> Result<u64, StepError> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let begun = Instant::now();
        loop {
            self.check_stop()?;
            let error = match self.try_batch(table, quiet, range).await {
                Ok(rows) => return Ok(rows),
                Err(error @ StepError::Fatal(_)) => return Err(error),
                Err(error) => error,
            };
            self.work.execute("rollback").await?;
            if !is_transient(error.code()) || begun.elapsed() > WAIT_MAX {
                return Err(error);
            }
            self.progress.wait(&format!("a batch is tried again: {error}"));
            self.pause(backoff.next()).await?;
        }
    }

    async fn try_batch(&mut self, table: &Table, quiet: Quiet, range: &Rows) -> Result<u64, StepError> {
        let mut before = format!(
            "begin; set local lock_timeout = {}; {PLAN}",
            self.options.lock_timeout.as_millis().max(1)
        );
        let mut after = String::new();
        match quiet {
            Quiet::Replica => before.push_str("; set local session_replication_role = replica"),
            Quiet::Paused => {
                let (disable, enable) = self.pausing(table).await?;
                before = format!("{before}; {disable}");
                // Deferred ones would otherwise still be waiting, and nothing can be altered then.
                after = format!("set constraints all immediate; {enable}; ");
            }
            Quiet::Not => {}
        }
        self.work.execute(sqlx::raw_sql(AssertSqlSafe(before))).await?;
        let filling = sqlx::query_as(AssertSqlSafe(fill_statement(table, range)));
        let filling = match range {
            Rows::Blocks(from, to) => filling.bind(format!("({from},0)")).bind(format!("({to},0)")),
            Rows::Any(limit) => filling.bind(limit),
        };
        let filled: Vec<(Uuid, i64)> = filling.fetch_all(&mut self.work).await?;
        if quiet == Quiet::Replica && !filled.is_empty() {
            // Foreign keys are checked by triggers, so here it is done by hand: the organisations are held
            // until the commit.
            let orgs: Vec<Uuid> = filled.iter().map(|(org, _)| *org).collect();
            let held = sqlx::query_scalar!(
                r#"select count(*) as "held!"
                   from (select from public.organizations where id = any ($1) for key share) o"#,
                &orgs
            )
            .fetch_one(&mut self.work)
            .await?;
            if usize::try_from(held).unwrap_or(0) < orgs.len() {
                return Err(StepError::Given(
                    "an organisation was deleted while rows were given to it: run this again".to_owned(),
                ));
            }
        }
        self.work.execute(sqlx::raw_sql(AssertSqlSafe(format!("{after}commit")))).await?;
        Ok(filled.iter().map(|(_, rows)| u64::try_from(*rows).unwrap_or(0)).sum())
    }

    /// Statements that switch the table's own triggers off, and those on again that are on now.
    async fn pausing(&mut self, table: &Table) -> Result<(String, String), StepError> {
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

    /// Waits until every transaction is over that began before now and has written to the table, or may still
    /// see the rows as they were before.
    async fn outwait_older(&mut self, table: &Table) -> Result<(), StepError> {
        let own = self.own_pids().await?;
        // A prepared transaction has no pid. Of other roles' sessions one may see no more than that they are
        // there: then they are waited for.
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
        .fetch_all(&mut self.side)
        .await?;
        let begun = Instant::now();
        loop {
            let left = sqlx::query_scalar!(
                r#"select format('waiting for the transaction of pid %s (%s, %s) since %s', coalesce(l.pid::text, 'none: prepared'),
                               coalesce(a.usename, '?'), coalesce(nullif(a.application_name, ''), 'unnamed'),
                               coalesce(to_char(a.xact_start, 'HH24:MI:SS'), '?')) as "line!"
                 from pg_locks l left join pg_stat_activity a using (pid)
                 where l.virtualtransaction = any ($1) order by a.xact_start limit 1"#,
                &older
            )
            .fetch_optional(&mut self.side)
            .await?;
            let Some(line) = left else {
                self.progress.clear_wait();
                return Ok(());
            };
            if begun.elapsed() > WAIT_MAX {
                return Err(StepError::Locked(line));
            }
            self.progress.wait(&line);
            self.pause(LOOK_EVERY.min(Duration::from_millis(50).max(begun.elapsed() / 4))).await?;
        }
    }

    pub(super) async fn scalar<T>(&mut self, sql: String) -> Result<T, StepError>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.work).await?)
    }
}

/// The size of the next batch, by the time that the last one took.
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

/// Gives the rows of a range their organisation, and tells how many went to which. The rule is that of the
/// filling trigger: the parent's, else that of the user's membership, else the default one; a row whose parent
/// is there and has none yet stays as it is. Most users may have no membership: those are not asked about.
fn fill_statement(table: &Table, rows: &Rows) -> String {
    let name = table.sql();
    // As the trigger takes it: a column of another type may hold uuids as well.
    let user = table.user_column.as_deref().map_or("null::uuid".to_owned(), |c| {
        let column = format!("t.{}::text", quoted(c));
        format!("case when {column} ~ '{UUID}' then {column}::uuid end")
    });
    let better = "coalesce(case when k.user_id in (select m.user_id from public.organization_members m)
                                then warden.default_org_for(k.user_id) end, warden.default_organization())";
    let (parent_column, parent_join, org) = match &table.parent {
        Some(parent) => (
            format!("t.{}", quoted(&parent.column)),
            format!("left join {} p on p.{} = k.parent", parent.sql(), quoted(&parent.key)),
            format!("case when p.{} is null then {better} else p.org_id end", quoted(&parent.key)),
        ),
        None => ("null::uuid".to_owned(), String::new(), better.to_owned()),
    };
    let range = match rows {
        Rows::Blocks(..) => "t.ctid >= $1::text::tid and t.ctid < $2::text::tid".to_owned(),
        Rows::Any(_) => {
            format!("t.ctid = any (array(select ctid from {name} where org_id is null limit $1))")
        }
    };
    // Where a unique index contains org_id, writing it conflicts with children that are being inserted.
    let is_indexed = table.has_org_index || matches!(rows, Rows::Any(_));
    let lock = if is_indexed { "update" } else { "no key update" };
    format!(
        "with picked as materialized (
           select t.ctid as tid, {user} as user_id, {parent_column} as parent
           from only {name} t where {range} and t.org_id is null for {lock} of t skip locked),
         found as materialized (select k.tid, {org} as org_id from picked k {parent_join}),
         filled as (
           update only {name} t set org_id = f.org_id from found f
           where t.ctid = f.tid and t.org_id is null and f.org_id is not null
           returning t.org_id)
         select org_id, count(*) from filled group by org_id"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_to_their_time() {
        assert_eq!(next_size(8, Duration::from_millis(5), 100), 16);
        assert_eq!(next_size(8, Duration::from_millis(40), 100), 8);
        assert_eq!(next_size(8, Duration::from_millis(400), 100), 4);
        assert_eq!(next_size(1, Duration::from_secs(4), 100), 1);
        assert_eq!(next_size(80, Duration::ZERO, 100), 100);
    }
}
