//! One replay read: the log is read once for all waiting clients of an organisation.
//!
//! The clients resume from different cursors, and each takes its own missed events from the shared result. If
//! they need more than one read may return, the group is split, and the clients that missed least are served
//! first.

use std::cmp::Reverse;
use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::Replay;
use super::query::{ReadOutcome, ReadPlan, Truncated, missed_by, truncated};
use super::queue::ReadJob;
use super::waiter::{ReplayError, Waiter};
use crate::org::OrgId;

/// Most transactions in progress in the cursors of one read's clients. Further clients wait for the next
/// read. One cursor holds about ten thousand.
pub(crate) const IN_PROGRESS_MAX: usize = 20_000;

impl Replay {
    /// Reads the log for the waiters of one job, and answers them or puts them back into the queue.
    pub(super) async fn run_job(&self, mut job: ReadJob<Waiter>) {
        job.waiters.retain(|waiter| !waiter.answer.is_closed());
        // Oldest cursor first. Its client missed most, so the first check usually shows that an event is
        // needed.
        job.waiters.sort_by_key(|waiter| waiter.since.id);
        let rest = split_off_rest(&mut job.waiters);
        self.queue.requeue(job.org, vec![rest]);
        let (events_max, bytes_max) = (self.limits.events_max, job.reservation.bytes());
        let Some(plan) = ReadPlan::new(job.org, &job.waiters, events_max, bytes_max) else { return };
        match self.read(&plan, &job.waiters).await {
            Ok((outcome, truncated)) => self.answer(job, outcome, &truncated),
            // Clients with old cursors must not keep the others from events that are read quickly.
            Err(ReplayError::Timeout) if are_different(&job.waiters) => {
                let waiters = std::mem::take(&mut job.waiters);
                self.split(job.org, waiters);
            }
            Err(error) => {
                tracing::warn!(%error, org.id = %job.org, "replay read failed");
                for waiter in job.waiters {
                    let _ = waiter.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Answers every waiter, or puts it back into the queue.
    fn answer(&self, mut job: ReadJob<Waiter>, outcome: ReadOutcome, truncated: &Truncated) {
        let mut waiters = Vec::with_capacity(job.waiters.len());
        for waiter in job.waiters.drain(..) {
            match truncated.get(&waiter.since.from.snapshot.xmin) {
                Some(error) => {
                    let _ = waiter.answer.send(Err(error.clone()));
                }
                None => waiters.push(waiter),
            }
        }
        match outcome {
            ReadOutcome::Events { events, bytes } => {
                tracing::debug!(
                    org.id = %job.org,
                    clients = waiters.len(),
                    events = events.len(),
                    bytes,
                    "replay read done"
                );
                let events = Arc::new(events);
                job.reservation.shrink_to(bytes);
                let reservation = Arc::new(job.reservation);
                for waiter in waiters {
                    let _ = waiter.answer.send(Ok((Arc::clone(&events), Arc::clone(&reservation))));
                }
            }
            // The missed events of one half may fit into a read.
            ReadOutcome::TooMany if are_different(&waiters) => self.split(job.org, waiters),
            ReadOutcome::TooMany => {
                for waiter in waiters {
                    let _ = waiter.answer.send(Err(ReplayError::TooMany));
                }
            }
        }
    }

    /// Puts two halves back into the queue, each for a read of its own. The clients that missed least come
    /// first.
    fn split(&self, org: OrgId, mut waiters: Vec<Waiter>) {
        tracing::debug!(org.id = %org, clients = waiters.len(), "replay read split: too many events for one read");
        waiters.sort_by_cached_key(|w| (Reverse(w.since.id), w.topic.to_string()));
        let older = waiters.split_off(waiters.len() / 2);
        self.queue.requeue(org, vec![waiters, older]);
    }

    /// Reads the log. Returns the outcome, and the cursors that cannot be served.
    async fn read(
        &self,
        plan: &ReadPlan,
        waiters: &[Waiter],
    ) -> Result<(ReadOutcome, Truncated), ReplayError> {
        let mut xmins: Vec<_> = waiters.iter().map(|w| w.since.from.snapshot.xmin).collect();
        xmins.sort_unstable();
        xmins.dedup();
        let read = async {
            let mut connection = self.pool.acquire().await?;
            let outcome = self.read_on(&mut connection, plan, waiters).await;
            if matches!(outcome, Ok(ReadOutcome::Events { .. })) {
                drop(connection);
            } else {
                // The server may still be sending rows, and nobody should wait for them.
                connection.close_on_drop();
            }
            let outcome = outcome?;
            // Checked after the read, so a slot that retention truncated before or during the read is
            // noticed.
            self.metrics.replay_queries.inc();
            Ok((outcome, truncated(&self.pool, plan, &xmins).await?))
        };
        match tokio::time::timeout(self.limits.log_read_timeout, read).await {
            // The server's own timeout has the same length, and may expire first.
            Ok(Err(error)) if is_server_timeout(&error) => Err(ReplayError::Timeout),
            Ok(done) => done.map_err(|error: sqlx::Error| Arc::new(error).into()),
            Err(_) => Err(ReplayError::Timeout),
        }
    }

    async fn read_on(
        &self,
        connection: &mut PgConnection,
        plan: &ReadPlan,
        waiters: &[Waiter],
    ) -> Result<ReadOutcome, sqlx::Error> {
        let mut tx = connection.begin().await?;
        // As in `LogReader::connect`, there is one good plan, which uses indexes, and a page is sorted in
        // memory. The statement timeout makes the server stop a query whose result nobody waits for.
        let timeout = self.limits.log_read_timeout.as_millis().to_string();
        sqlx::query!(
            "select set_config('plan_cache_mode', 'force_generic_plan', true) as plan,
                    set_config('enable_seqscan', 'off', true) as scan,
                    set_config('jit', 'off', true) as jit,
                    set_config('work_mem', '64MB', true) as memory,
                    set_config('statement_timeout', $1, true) as timeout",
            timeout
        )
        .fetch_one(&mut *tx)
        .await?;
        self.metrics.replay_queries.inc();
        let outcome = missed_by(waiters, plan, &mut tx).await?;
        if matches!(outcome, ReadOutcome::Events { .. }) {
            tx.commit().await?;
        }
        Ok(outcome)
    }
}

/// Whether a timeout of the server ended the statement: that of the statement (`query_canceled`), or that of
/// its wait for a lock (`lock_not_available`).
fn is_server_timeout(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("57014" | "55P03"))
}

/// Splits off the waiters whose cursors do not fit into one read any more ([`IN_PROGRESS_MAX`]). The first
/// always fits.
fn split_off_rest(waiters: &mut Vec<Waiter>) -> Vec<Waiter> {
    let mut in_progress = 0;
    let fits = waiters.iter().take_while(|w| {
        in_progress += w.since.from.snapshot.in_progress.len() + w.since.to.snapshot.in_progress.len();
        in_progress <= IN_PROGRESS_MAX
    });
    let fits = fits.count().max(1);
    if fits < waiters.len() { waiters.split_off(fits) } else { Vec::new() }
}

/// Whether one of these waiters may have missed less than another, so that splitting the group can help.
fn are_different(waiters: &[Waiter]) -> bool {
    waiters
        .windows(2)
        .any(|w| w[0].topic != w[1].topic || w[0].since != w[1].since || w[0].until != w[1].until)
}
