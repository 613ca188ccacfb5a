//! Simulates a voice-call platform at a given number of committed changes per second: calls ring, are
//! answered and end, and have recordings and logs.
//!
//! It writes to tenant tables as an application would. It must not know the gateway, or change rows that it
//! did not create. Its calls have `"simulated": true` in their `metadata`.

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

/// Changes per second of one worker. On a common disk, one connection makes about a thousand changes per
/// second, so a worker keeps this rate easily.
const CHANGES_PER_WORKER: f64 = 250.0;
/// Most workers. Each uses one connection of the pool.
const WORKERS_MAX: usize = 8;
/// Time between two changes of one call. A higher rate therefore means more concurrent calls.
const SECONDS_PER_STEP: f64 = 4.0;
const LIVE_CALLS_PER_WORKER_MAX: usize = 100;
/// Live calls of a worker at any rate, so that a low rate also shows calls in different states.
const LIVE_CALLS_PER_WORKER_MIN: usize = 4;
/// Share of changes that create a call, below the limit of live calls. A call has about seven changes, so
/// this share keeps the number of calls near the limit, and leaves room for other changes from the first
/// second.
const NEW_CALL_PROBABILITY: f64 = 0.3;
/// Shortest interval of ticks. At higher rates, one tick makes several changes.
const TICK_MIN: Duration = Duration::from_millis(5);
/// Backlog that is caught up after the database was slow or unavailable, as seconds of the rate.
const BURST_SECONDS: f64 = 1.0;
/// Finished calls that an organisation keeps. Older ones are deleted, so that the tables stay small.
const CALLS_PER_ORG_KEPT: i64 = 2_000;
/// New calls of an organisation between two deletions of old ones.
const CALLS_BETWEEN_CLEANUPS: usize = 5;
/// Most calls that one statement deletes. It is higher than the number of new calls, so that leftovers of
/// earlier runs disappear as well.
const CALLS_PER_CLEANUP_MAX: i64 = 8;
/// First pause after a failed statement. It doubles with every failure.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failed statement.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Makes `changes_per_second` committed changes, spread over the organisations, until cancelled. Each change
/// is one statement. Returns immediately if the rate is 0 or there is no organisation.
///
/// # Errors
/// If the rate is negative or not a number. Failed statements are logged and retried.
pub async fn run(
    pool: PgPool,
    orgs: Vec<Uuid>,
    changes_per_second: f64,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        changes_per_second.is_finite() && changes_per_second >= 0.0,
        "the rate of changes is {changes_per_second}, but must be 0 or more"
    );
    if changes_per_second == 0.0 || orgs.is_empty() {
        return Ok(());
    }
    let workers = (1..WORKERS_MAX)
        .find(|&count| changes_per_second <= CHANGES_PER_WORKER * count as f64)
        .unwrap_or(WORKERS_MAX);
    if let Err(e) = end_abandoned(&pool, &orgs).await {
        tracing::warn!(error = %e, "simulated calls of an earlier run stay unfinished");
    }
    // If this future is dropped, the set aborts its tasks.
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

/// A worker, which makes its share of the changes one after the other.
struct Worker {
    pool: PgPool,
    orgs: Vec<Org>,
    rate: f64,
    /// Live calls, the longest unchanged first.
    live: VecDeque<Call>,
    live_max: usize,
    /// Change whose statement failed, to be retried.
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
    /// Deletes old calls of the organisation with this index in `orgs`.
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
            live_max: live_max.max(LIVE_CALLS_PER_WORKER_MIN),
            retry: None,
            retry_delay: RETRY_FIRST,
        }
    }

    /// Makes changes at the worker's rate. Dropping the future cancels it; the current change may or may not
    /// be committed.
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

    /// Makes one change. Returns whether one was committed. After a failure it pauses first.
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
            // A constraint is violated (class 23): the organisation was deleted, or a retried insert had been
            // committed before. A retry cannot succeed, so the call is dropped.
            Err(sqlx::Error::Database(e)) if e.code().is_some_and(|code| code.starts_with("23")) => {
                tracing::warn!(error = %e, "simulated call dropped");
                self.pause().await;
                false
            }
            Err(e) => {
                tracing::warn!(error = %e, "simulation cannot write: retrying");
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
        // A random call of the longer unchanged half. A strict order would keep all calls in lockstep.
        let index = fastrand::usize(..self.live.len().div_ceil(2).max(1));
        let call = self.live.remove(index);
        Change::Call(call.unwrap_or_else(|| Call::new(self.orgs[0].id)))
    }
}

/// Ends the calls that were live when an earlier run ended.
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

/// Deletes some of the oldest finished calls, with their recordings and logs, if the organisation has more
/// than are kept. Returns whether it deleted any.
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
