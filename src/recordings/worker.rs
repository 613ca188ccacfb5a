//! The worker: claims due recordings, organisation by organisation, and copies them.
//!
//! Fair between organisations: each may use only a share of the jobs that run at once, and the next job goes
//! to the organisation with the fewest running jobs, of several to the one that was served longest ago. So
//! an organisation with many recordings, or with slow sources, does not delay another one's.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::RecordingsError;
use super::failure::Failure;
use super::held::{HeldRow, HeldRows};
use super::queue::{Claimed, Queue, Terms};
use super::transfer::Transfer;
use crate::backoff::{Backoff, jitter};
use crate::org::OrgId;

/// Organisations with due work that one look at the database returns.
const ORGANIZATIONS_MAX: u32 = 10_000;

/// Share of the delay before another attempt that is random.
const RETRY_JITTER: f64 = 0.5;

/// Pause of an organisation whose rows the database rejects. The others go on.
const ORG_PAUSE: Duration = Duration::from_secs(30);

/// First and longest delay after a failed look at the database.
const DATABASE_DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How a worker works.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    /// Jobs that run at once.
    pub jobs_max: usize,
    /// Jobs of one organisation that run at once.
    pub jobs_per_org_max: usize,
    /// Time between two looks for due work, if none was found.
    pub poll: Duration,
    /// Delay before the second attempt, which doubles with each further one, and the longest delay.
    pub retry_delays: (Duration, Duration),
    /// Leases and attempts.
    pub terms: Terms,
    /// Whether the worker ends when no work is due.
    pub ends_when_idle: bool,
}

/// Counts of a worker's jobs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Recordings that were stored.
    pub stored: AtomicU64,
    /// Bytes of these.
    pub bytes: AtomicU64,
    /// Attempts that are repeated.
    pub retried: AtomicU64,
    /// Recordings that failed for good.
    pub failed: AtomicU64,
    /// Rows that were another worker's when the job ended.
    pub lost: AtomicU64,
    /// Rows of another organisation than that of their job.
    pub foreign: AtomicU64,
    /// Jobs that run now.
    pub running: AtomicU64,
}

/// A worker on one database and one object store.
#[derive(Debug)]
pub struct Worker {
    queue: Arc<Queue>,
    transfer: Arc<Transfer>,
    settings: WorkerSettings,
    counters: Arc<Counters>,
}

/// Running jobs, and who was served when.
#[derive(Debug, Default)]
struct Schedule {
    running: HashMap<OrgId, usize>,
    served: HashMap<OrgId, u64>,
    turn: u64,
    /// Organisations whose claims failed, and until when they are left out.
    paused: HashMap<OrgId, Instant>,
}

impl Schedule {
    /// The next organisation to serve, of those with due work.
    fn next(&self, due: &[OrgId], per_org_max: usize) -> Option<OrgId> {
        let running = |org: &OrgId| self.running.get(org).copied().unwrap_or(0);
        let served = |org: &OrgId| self.served.get(org).copied().unwrap_or(0);
        due.iter()
            .filter(|org| running(org) < per_org_max && !self.paused.contains_key(org))
            .min_by_key(|org| (running(org), served(org)))
            .copied()
    }

    fn begin(&mut self, org: OrgId) {
        self.turn += 1;
        self.served.insert(org, self.turn);
        *self.running.entry(org).or_default() += 1;
    }

    fn end(&mut self, org: OrgId) {
        if let Some(running) = self.running.get_mut(&org) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&org);
            }
        }
    }

    fn pause(&mut self, org: OrgId) {
        self.paused.insert(org, Instant::now() + ORG_PAUSE);
    }

    /// Forgets organisations that have neither due work nor running jobs, and pauses that have ended.
    fn prune(&mut self, due: &[OrgId]) {
        let now = Instant::now();
        self.paused.retain(|_, until| *until > now);
        let due: HashSet<&OrgId> = due.iter().collect();
        let running = &self.running;
        self.served.retain(|org, _| due.contains(org) || running.contains_key(org));
    }
}

impl Worker {
    /// A worker. It does nothing before [`Self::run`].
    #[must_use]
    pub fn new(queue: Queue, transfer: Transfer, settings: WorkerSettings) -> Self {
        Self {
            queue: Arc::new(queue),
            transfer: Arc::new(transfer),
            settings,
            counters: Arc::new(Counters::default()),
        }
    }

    /// Counts of its jobs so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Works until `stop` is cancelled. Running jobs then give their rows back.
    pub async fn run(self, stop: CancellationToken) {
        let held = Arc::new(HeldRows::default());
        tokio::select! {
            () = self.work(&held, &stop) => {}
            () = held.keep(&self.queue, self.settings.terms.lease) => {}
        }
    }

    async fn work(&self, held: &Arc<HeldRows>, stop: &CancellationToken) {
        let mut jobs: JoinSet<OrgId> = JoinSet::new();
        let mut schedule = Schedule::default();
        let mut backoff = Backoff::new(DATABASE_DELAYS.0, DATABASE_DELAYS.1);
        while !stop.is_cancelled() {
            let pause = match self.claim_all(&mut jobs, &mut schedule, held, stop).await {
                Ok(()) if self.settings.ends_when_idle && jobs.is_empty() => break,
                Ok(()) => {
                    backoff.reset();
                    self.settings.poll
                }
                Err(error) => {
                    tracing::error!(%error, "due work could not be read");
                    backoff.next()
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = jobs.join_next() => self.end(&mut schedule, &ended),
            }
        }
        while let Some(ended) = jobs.join_next().await {
            self.end(&mut schedule, &ended);
        }
    }

    fn end(&self, schedule: &mut Schedule, ended: &Result<OrgId, tokio::task::JoinError>) {
        self.counters.running.fetch_sub(1, Ordering::Relaxed);
        if let Ok(org) = ended {
            schedule.end(*org);
        }
    }

    /// Claims work until every place is taken or no work is due.
    async fn claim_all(
        &self,
        jobs: &mut JoinSet<OrgId>,
        schedule: &mut Schedule,
        held: &Arc<HeldRows>,
        stop: &CancellationToken,
    ) -> Result<(), RecordingsError> {
        if jobs.len() >= self.settings.jobs_max {
            return Ok(());
        }
        let mut due = self.queue.due_organizations(ORGANIZATIONS_MAX).await?;
        schedule.prune(&due);
        while jobs.len() < self.settings.jobs_max && !stop.is_cancelled() {
            let Some(org) = schedule.next(&due, self.settings.jobs_per_org_max) else { break };
            let claim = match self.queue.claim(org, 1).await {
                Ok(claim) => claim,
                Err(error) if error.is_of_one_organization() => {
                    if matches!(error, RecordingsError::ForeignRow { .. }) {
                        self.counters.foreign.fetch_add(1, Ordering::Relaxed);
                    }
                    tracing::error!(%org, %error, seconds = ORG_PAUSE.as_secs(), "a claim was rolled back, and is repeated later");
                    schedule.pause(org);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (row, reason) in &claim.failed {
                self.report_failed(row, reason);
            }
            let Some(row) = claim.rows.into_iter().next() else {
                if claim.failed.is_empty() {
                    due.retain(|other| *other != org);
                }
                continue;
            };
            schedule.begin(org);
            self.counters.running.fetch_add(1, Ordering::Relaxed);
            // A panic must not keep the organisation's place.
            let job = Job {
                queue: Arc::clone(&self.queue),
                transfer: Arc::clone(&self.transfer),
                counters: Arc::clone(&self.counters),
                settings: self.settings,
                held: held.add(org, row.id),
                org,
                row,
            };
            let stop = stop.clone();
            jobs.spawn(async move {
                let job = AssertUnwindSafe(job.run(stop)).catch_unwind();
                job.await.unwrap_or_else(|_| {
                    tracing::error!(%org, "a job panicked");
                    org
                })
            });
        }
        Ok(())
    }

    fn report_failed(&self, row: &Claimed, reason: &str) {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(org = %row.org_id, recording = %row.recording_id, job = %row.id, reason, "a recording failed");
    }
}

/// One attempt to copy a recording.
struct Job {
    queue: Arc<Queue>,
    transfer: Arc<Transfer>,
    counters: Arc<Counters>,
    settings: WorkerSettings,
    held: HeldRow,
    org: OrgId,
    row: Claimed,
}

impl Job {
    async fn run(self, stop: CancellationToken) -> OrgId {
        let Self { org, row, .. } = &self;
        let outcome = tokio::select! {
            outcome = self.transfer.copy(*org, row) => outcome,
            () = self.held.lost.cancelled() => {
                self.count(&self.counters.lost);
                tracing::warn!(%org, job = %row.id, "another worker has taken a job over");
                return *org;
            }
            () = stop.cancelled() => {
                // The attempt counts, because a source may be what keeps the worker from stopping.
                let given_back = self.queue.retry(*org, row, Duration::ZERO, "the worker was stopped").await;
                self.note(given_back);
                return *org;
            }
        };
        let recorded = match outcome {
            Ok(file) => {
                let finished = self.queue.finish(*org, row, &file).await;
                if finished.is_ok() {
                    self.count(&self.counters.stored);
                    self.counters.bytes.fetch_add(file.bytes, Ordering::Relaxed);
                    tracing::info!(%org, recording = %row.recording_id, job = %row.id, attempt = row.attempts,
                                   bytes = file.bytes, sha256 = file.sha256, "a recording was stored");
                }
                finished
            }
            Err(failure) => self.record(&failure).await,
        };
        if let Err(error @ RecordingsError::ForeignRow { .. }) = &recorded {
            self.count(&self.counters.foreign);
            tracing::error!(%org, job = %row.id, %error, "a job was handed what is not its organisation's");
            let failed = self.queue.fail(*org, row, &error.to_string()).await;
            self.note(failed);
        } else {
            self.note(recorded);
        }
        *org
    }

    /// Records a failed attempt.
    async fn record(&self, failure: &Failure) -> Result<(), RecordingsError> {
        let Self { org, row, .. } = self;
        let attempts_max = i64::from(self.settings.terms.attempts_max);
        if let Failure::Temporary { after, .. } = failure
            && i64::from(row.attempts) < attempts_max
        {
            let delay = self.delay().max(after.unwrap_or_default());
            self.count(&self.counters.retried);
            tracing::info!(%org, recording = %row.recording_id, job = %row.id, attempt = row.attempts,
                           reason = %failure, seconds = delay.as_secs_f64(), "a recording is tried again later");
            return self.queue.retry(*org, row, delay, &failure.to_string()).await;
        }
        self.count(&self.counters.failed);
        tracing::warn!(%org, recording = %row.recording_id, job = %row.id, attempt = row.attempts,
                       reason = %failure, "a recording failed");
        self.queue.fail(*org, row, &failure.to_string()).await
    }

    /// Delay before the next attempt.
    fn delay(&self) -> Duration {
        let (first, max) = self.settings.retry_delays;
        let doublings = u32::try_from(self.row.attempts.saturating_sub(1)).unwrap_or(0).min(20);
        jitter(first.saturating_mul(1 << doublings).min(max), RETRY_JITTER)
    }

    /// Logs that the outcome of a job was not recorded. The row's lease ends, and the job is done again.
    fn note(&self, recorded: Result<(), RecordingsError>) {
        match recorded {
            Ok(()) => {}
            Err(RecordingsError::Lost(_)) => {
                self.count(&self.counters.lost);
                tracing::warn!(org = %self.org, job = %self.row.id, "another worker has taken a job over");
            }
            Err(error) => {
                tracing::error!(org = %self.org, job = %self.row.id, %error, "the end of a job was not recorded");
            }
        }
    }

    #[expect(clippy::unused_self, reason = "counters are named at the call")]
    fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orgs(n: u128) -> Vec<OrgId> {
        (1..=n).map(OrgId::for_tests).collect()
    }

    #[test]
    fn organisations_take_turns() {
        let due = orgs(3);
        let mut schedule = Schedule::default();
        let mut served = Vec::new();
        for _ in 0..6 {
            let org = schedule.next(&due, 2).expect("one may be served");
            schedule.begin(org);
            served.push(org);
        }
        assert_eq!(served, [due.clone(), due.clone()].concat());
        assert_eq!(schedule.next(&due, 2), None);
        schedule.end(due[1]);
        assert_eq!(schedule.next(&due, 2), Some(due[1]));
    }

    #[test]
    fn an_organisation_with_fewer_running_jobs_comes_first() {
        let due = orgs(2);
        let mut schedule = Schedule::default();
        for _ in 0..3 {
            schedule.begin(due[0]);
        }
        schedule.begin(due[1]);
        schedule.end(due[1]);
        assert_eq!(schedule.next(&due, 4), Some(due[1]));
        schedule.prune(&[]);
        assert_eq!(schedule.served.len(), 1, "the other one has running jobs");
    }
}
