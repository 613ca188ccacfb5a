//! A believable voice-call platform for `warden dev` and the benchmarks: calls that ring, are
//! answered and end, their recordings and logs, at a set number of committed changes a second.
//!
//! It writes tenant tables as an application would, as a role that may; it must not touch rows that
//! it did not make, nor know anything of the gateway. Its rows carry `"simulated": true` in
//! `calls.metadata`.

mod call;
mod content;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::call::Call;
use self::content::chance;

/// One after the other, a connection makes about a thousand changes a second on a common disk; with
/// this many a worker keeps its pace.
const CHANGES_PER_WORKER: f64 = 250.0;
/// Each uses one connection of the pool.
const WORKERS_MAX: usize = 8;
/// How long a call rests between two changes, so that a higher rate means more calls at a time.
const SECONDS_PER_STEP: f64 = 4.0;
const LIVE_CALLS_PER_WORKER_MAX: usize = 100;
/// While there is room for more. A call has some seven changes, so this is enough to stay near the
/// limit, and leaves room for the others from the first second on.
const NEW_CALL_PROBABILITY: f64 = 0.3;
/// Below this interval changes are made several at a time.
const TICK_MIN: Duration = Duration::from_millis(5);
/// What was missed while the database was slow or away is made up for, up to this many seconds' worth.
const BURST_SECONDS: f64 = 1.0;
/// Finished calls beyond this many are deleted, the oldest first, so that the tables keep their size.
const CALLS_PER_ORG_KEPT: i64 = 2_000;
/// Old calls are looked for when an organisation got this many new ones, and so many are deleted by
/// one statement at most: more than come in, so that what an earlier run left over melts away.
const CALLS_BETWEEN_CLEANUPS: usize = 5;
const CALLS_PER_CLEANUP_MAX: i64 = 8;
/// Between tries of a statement that failed.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Simulates `changes_per_second` committed changes, spread over `orgs`, until cancelled. Each is an
/// insert, an update or a delete of one statement. Returns at once where there is nothing to do.
///
/// # Errors
/// Only where the rate is no number. What the database refuses is logged and tried again.
pub async fn run(
    pool: PgPool,
    orgs: Vec<Uuid>,
    changes_per_second: f64,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        changes_per_second.is_finite() && changes_per_second >= 0.0,
        "the rate of changes must be a number of 0 or more, not {changes_per_second}"
    );
    if changes_per_second == 0.0 || orgs.is_empty() {
        return Ok(());
    }
    let workers = (1..WORKERS_MAX)
        .find(|&count| changes_per_second <= CHANGES_PER_WORKER * count as f64)
        .unwrap_or(WORKERS_MAX);
    if let Err(e) = end_abandoned(&pool, &orgs).await {
        tracing::warn!("the simulation leaves calls of an earlier run unfinished: {e}");
    }
    // Aborts what still runs when this future is dropped.
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let worker = Worker::new(pool.clone(), &orgs, changes_per_second / workers as f64);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(worker.run()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// A share of the work, on one connection at a time.
struct Worker {
    pool: PgPool,
    orgs: Vec<Org>,
    rate: f64,
    /// The longest untouched first.
    live: VecDeque<Call>,
    live_max: usize,
    /// What the last call of [`Worker::change`] left to do because its statement failed.
    retry: Option<Change>,
    /// The pause after the next failed statement.
    retry_delay: Duration,
}

struct Org {
    id: Uuid,
    calls_since_cleanup: usize,
}

enum Change {
    Call(Call),
    /// Deletes old calls of the organisation with this index.
    CleanUp(usize),
}

impl Worker {
    fn new(pool: PgPool, orgs: &[Uuid], rate: f64) -> Self {
        let live_max = (1..LIVE_CALLS_PER_WORKER_MAX)
            .find(|&count| count as f64 >= rate * SECONDS_PER_STEP)
            .unwrap_or(LIVE_CALLS_PER_WORKER_MAX);
        let org = |&id| Org { id, calls_since_cleanup: 0 };
        Self {
            pool,
            orgs: orgs.iter().map(org).collect(),
            rate,
            live: VecDeque::new(),
            // Enough for a mixture of calls in all states, also at a low rate.
            live_max: live_max.max(4),
            retry: None,
            retry_delay: RETRY_FIRST,
        }
    }

    /// Keeps the pace. Cancelled by dropping: then a change is committed or not, as in any crash.
    async fn run(mut self) {
        let period = Duration::from_secs_f64(1.0 / self.rate).max(TICK_MIN);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let burst_max = (self.rate * BURST_SECONDS).max(1.0);
        let mut due = 0.0;
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            let now = Instant::now();
            due = (due + now.duration_since(last).as_secs_f64() * self.rate).min(burst_max);
            last = now;
            while due >= 1.0 {
                if self.change().await {
                    due -= 1.0;
                }
            }
        }
    }

    /// Makes a change, if it can. False: none was committed; when it failed, after a pause.
    async fn change(&mut self) -> bool {
        let change = self.retry.take().unwrap_or_else(|| self.choose());
        let result = match &change {
            Change::Call(call) => call.advance(&self.pool).await,
            Change::CleanUp(org) => clean_up(&self.pool, self.orgs[*org].id).await,
        };
        match result {
            Ok(changed) => {
                self.retry_delay = RETRY_FIRST;
                if let (Change::Call(call), true) = (change, changed) {
                    self.live.extend(call.next());
                }
                changed
            }
            // A retried insert that had been committed after all, or a call whose organisation was
            // deleted: it will not get better, so this call is given up.
            Err(sqlx::Error::Database(e)) if e.code().is_some_and(|code| code.starts_with("23")) => {
                tracing::warn!("the simulation drops a call: {e}");
                self.pause().await;
                false
            }
            Err(e) => {
                tracing::warn!("the simulation cannot write, and tries again: {e}");
                self.retry = Some(change);
                self.pause().await;
                false
            }
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.retry_delay).await;
        self.retry_delay = (self.retry_delay * 2).min(RETRY_MAX);
    }

    fn choose(&mut self) -> Change {
        let due = |org: &Org| org.calls_since_cleanup >= CALLS_BETWEEN_CLEANUPS;
        if let Some(index) = self.orgs.iter().position(due) {
            self.orgs[index].calls_since_cleanup = 0;
            return Change::CleanUp(index);
        }
        let wanted = self.live.is_empty() || chance(NEW_CALL_PROBABILITY);
        if wanted
            && self.live.len() < self.live_max
            && let Some(org) = fastrand::choice(self.orgs.iter_mut())
        {
            org.calls_since_cleanup += 1;
            return Change::Call(Call::new(org.id));
        }
        // One of those that have waited longest: not in strict turn, or all calls would march in step.
        let index = fastrand::usize(..self.live.len().div_ceil(2).max(1));
        let call = self.live.remove(index);
        Change::Call(call.unwrap_or_else(|| Call::new(self.orgs[0].id)))
    }
}

/// Ends the calls that an earlier run was simulating when it ended: nobody else would.
async fn end_abandoned(pool: &PgPool, orgs: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"update public.calls
           set status = 'failed', ended_at = now(), ended_reason = 'pipeline-error', updated_at = now()
           where org_id = any($1) and ended_at is null and metadata @> '{"simulated": true}'"#,
        orgs
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes a few of the oldest finished calls, with their recordings and logs, where the organisation
/// has more than are kept. Returns whether it deleted any.
async fn clean_up(pool: &PgPool, org: Uuid) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"delete from public.calls where org_id = $1 and id in (
           select id from public.calls
           where org_id = $1 and ended_at is not null and metadata @> '{"simulated": true}'
           order by created_at
           limit (select least($3::bigint, greatest(0, count(*) - $2::bigint)) from public.calls
                  where org_id = $1 and metadata @> '{"simulated": true}')
           for update skip locked)"#,
        org,
        CALLS_PER_ORG_KEPT,
        CALLS_PER_CLEANUP_MAX
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() > 0)
}
