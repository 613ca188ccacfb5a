//! The run on the table `auth.users`, for roles that may update it.
//!
//! Each batch is one short transaction, which locks its users. It decides and writes, so no other writer can
//! come between.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::decision::{Decision, decide};
use super::memberships::{Memberships, describe};
use super::options::{RunMode, SyncOptions};
use super::passes::{CREATION_SLACK, LATE_PASSES_MAX, parse_time};
use super::progress::Progress;
use super::state::State;
use super::summary::{Summary, count_unwritten};
use super::user::{AuthUser, Standing};
use crate::backoff::Backoff;

/// Attempts for a batch that another transaction blocks.
const BATCH_ATTEMPTS: u32 = 8;

/// First and longest delay before another attempt.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Errors after which the same batch can succeed: serialisation, deadlock, lock not available.
const RETRIED: [&str; 3] = ["40001", "40P01", "55P03"];

/// A user in `auth.users`. Columns that an older version of Supabase Auth lacks count as null.
#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    org_id: Option<Value>,
    created_at: Option<OffsetDateTime>,
    is_anonymous: bool,
    is_banned: bool,
    is_deleted: bool,
}

impl Row {
    fn standing(&self) -> Standing {
        match self {
            Self { is_deleted: true, .. } => Standing::Deleted,
            Self { is_banned: true, .. } => Standing::Banned,
            Self { is_anonymous: true, .. } => Standing::Anonymous,
            _ => Standing::Active,
        }
    }
}

struct SqlRun<'a> {
    options: &'a SyncOptions,
    memberships: Memberships,
    page_size: u32,
    since: Option<OffsetDateTime>,
}

/// Result of one batch.
struct Batch {
    users: usize,
    last: Option<Uuid>,
    newest: Option<OffsetDateTime>,
    summary: Summary,
}

pub(super) async fn run(
    options: &SyncOptions,
    mut connection: PgConnection,
    memberships: Memberships,
    mut state: State,
) -> anyhow::Result<Summary> {
    let mut progress = Progress::to_stderr();
    loop {
        let since = state.position.since.as_deref().and_then(parse_time);
        let run = SqlRun { options, memberships, page_size: state.position.page_size, since };
        let mut left: i64 = sqlx::query_scalar("select count(*) from auth.users")
            .fetch_one(&mut connection)
            .await
            .context("cannot read auth.users")?;
        loop {
            let batch = run.repeat_batch(&mut connection, state.position.last_user).await?;
            let position = &mut state.position;
            let newest = position.newest.as_deref().and_then(parse_time).max(batch.newest);
            position.newest = newest.map(|newest| newest.format(&Rfc3339)).transpose()?;
            position.summary.add(batch.summary);
            left -= i64::try_from(batch.users)?;
            progress.add(batch.users, left.try_into().unwrap_or(0));
            if batch.last.is_none() {
                break;
            }
            position.last_user = batch.last;
            state.save()?;
        }
        let position = &mut state.position;
        let newest = position.newest.as_deref().and_then(parse_time);
        let next = newest.map(|newest| newest - CREATION_SLACK);
        if next.is_none() || next == since || position.pass >= LATE_PASSES_MAX {
            break;
        }
        position.pass += 1;
        position.last_user = None;
        position.since = next.map(|next| next.format(&Rfc3339)).transpose()?;
        state.save()?;
    }
    progress.finish();
    state.complete()
}

impl SqlRun<'_> {
    async fn repeat_batch(
        &self,
        connection: &mut PgConnection,
        after: Option<Uuid>,
    ) -> anyhow::Result<Batch> {
        let mut backoff = Backoff::new(RETRY_DELAYS.0, RETRY_DELAYS.1);
        for _ in 1..BATCH_ATTEMPTS {
            match self.batch(connection, after).await {
                Err(error) if is_retried(&error) => {}
                Err(error) => bail!("cannot update auth.users: {}", describe(&error)),
                Ok(batch) => return Ok(batch),
            }
            tokio::time::sleep(backoff.next()).await;
        }
        self.batch(connection, after)
            .await
            .map_err(|error| anyhow::anyhow!("cannot update auth.users: {}", describe(&error)))
    }

    /// Reads the users of a batch, and locks them if the run writes.
    async fn rows(&self, transaction: &mut PgConnection, after: Option<Uuid>) -> sqlx::Result<Vec<Row>> {
        let lock = if self.options.mode == RunMode::Write { "for no key update" } else { "" };
        sqlx::query_as(AssertSqlSafe(format!(
            "select u.id, u.raw_app_meta_data -> 'org_id' as org_id, u.created_at,
               coalesce((to_jsonb(u) ->> 'is_anonymous')::bool, false) as is_anonymous,
               coalesce((to_jsonb(u) ->> 'banned_until')::timestamptz > now(), false) as is_banned,
               to_jsonb(u) ->> 'deleted_at' is not null as is_deleted
             from auth.users u
             where ($1::uuid is null or u.id > $1) and ($2::timestamptz is null or u.created_at >= $2)
             order by u.id limit $3 {lock}"
        )))
        .bind(after)
        .bind(self.since)
        .bind(i64::from(self.page_size))
        .fetch_all(transaction)
        .await
    }

    async fn batch(&self, connection: &mut PgConnection, after: Option<Uuid>) -> sqlx::Result<Batch> {
        let is_writing = self.options.mode == RunMode::Write;
        let mut transaction = connection.begin().await?;
        transaction.execute("set local lock_timeout = '2s'").await?;
        let rows = self.rows(&mut transaction, after).await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let orgs = self.memberships.organizations(&mut transaction, &ids).await?;
        let mut summary = Summary::default();
        let known = self.since.map(|since| since + CREATION_SLACK);
        let (mut users, mut written) = (Vec::new(), Vec::new());
        for row in &rows {
            let is_read_again = row.created_at.is_some_and(|at| known.is_some_and(|known| at <= known));
            summary.users += u64::from(!is_read_again);
            let (user, standing) = AuthUser::of_row(row.id, row.org_id.clone(), row.standing());
            let mut decision = decide(&user, standing, orgs.get(&row.id).copied(), self.options);
            if !is_writing {
                if !is_read_again {
                    count_unwritten(&mut summary, self.options.mode, row.id, &decision);
                }
                continue;
            }
            if decision == Decision::Join {
                match self.memberships.join_default(&mut transaction, row.id).await {
                    Ok((org, is_new)) => {
                        summary.memberships += u64::from(is_new);
                        decision = decide(&user, standing, org, self.options);
                    }
                    Err(error @ sqlx::Error::Database(_)) if !is_retried(&error) => {
                        summary.fail(row.id, describe(&error));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            match decision {
                Decision::Update { org, replaced } => {
                    users.push(row.id);
                    written.push(org);
                    summary.updated += 1;
                    if self.options.revokes && replaced.is_some() {
                        self.memberships.revoke(&mut transaction, row.id, replaced.as_ref()).await?;
                        summary.revoked += 1;
                    }
                }
                Decision::Join => summary.fail(row.id, "the membership is not visible".to_owned()),
                _ if is_read_again => {}
                Decision::Right => summary.already_right += 1,
                Decision::Conflict(_) => summary.conflict(row.id),
                Decision::Skip(reason) => summary.skip(reason),
            }
        }
        if !users.is_empty() {
            write(&mut transaction, &users, &written).await?;
        }
        transaction.commit().await?;
        let newest = rows.iter().filter_map(|row| row.created_at).max();
        Ok(Batch { users: rows.len(), last: ids.last().copied(), newest, summary })
    }
}

fn is_retried(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| RETRIED.contains(&&*code))
}

/// Writes organisations, and keeps all other keys.
async fn write(transaction: &mut PgConnection, users: &[Uuid], orgs: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query(
        "update auth.users u set updated_at = now(), raw_app_meta_data =
           case when jsonb_typeof(u.raw_app_meta_data) = 'object' then u.raw_app_meta_data else '{}' end
           || jsonb_build_object('org_id', n.org)
         from unnest($1::uuid[], $2::uuid[]) n (id, org) where u.id = n.id",
    )
    .bind(users)
    .bind(orgs)
    .execute(transaction)
    .await?;
    Ok(())
}
