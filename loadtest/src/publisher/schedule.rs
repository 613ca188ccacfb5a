//! The schedule, and the writers that follow it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use bench_support::database::Database;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::change::{PlannedChange, PreparedChange, Publish};
use super::outcome;
use crate::check::{Change, Outcome};
use crate::clock::{Nanos, nanos, now, until};
use crate::histograms::{Histograms, Label, LatencyKind};
use crate::pool::CommandSender;
use crate::scenario::{Stream, Timeline};
use crate::sync::lock;

const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Errors that are described in words.
const FINDINGS_MAX: usize = 10;

/// The results of the writers so far.
#[derive(Default)]
pub(crate) struct Published {
    /// Committed changes.
    pub(crate) changes: AtomicU64,
    /// Changes that failed or were rolled back.
    pub(crate) failed: AtomicU64,
    /// Durations from COMMIT sent to COMMIT answered.
    pub(crate) commit: Mutex<Histograms>,
    /// Delays of the COMMIT behind the schedule.
    pub(crate) lag: Mutex<Histograms>,
    /// Commits whose answer was lost, with the ids of their transactions.
    unknown: Mutex<Vec<(Vec<PlannedChange>, Option<String>)>>,
    pub(crate) findings: Mutex<Vec<String>>,
}

/// The schedule and the state that the writers share.
pub(crate) struct Publisher {
    run: String,
    orgs: Vec<Uuid>,
    pub(crate) commands: CommandSender,
    pub(crate) timeline: Timeline,
    /// When the schedule begins.
    pub(crate) start: Nanos,
    /// How long after the end of the schedule late changes are still made. Later ones are dropped, and the
    /// report shows them as due but not made.
    late_max: Nanos,
    /// Number of the next change of each organisation.
    next_numbers: Vec<AtomicUsize>,
    pub(crate) published: Published,
}

impl Publisher {
    pub(crate) fn new(
        run: String,
        orgs: Vec<Uuid>,
        commands: CommandSender,
        timeline: Timeline,
        start: Nanos,
        late_max: Duration,
    ) -> Self {
        let next_numbers = orgs.iter().map(|_| AtomicUsize::new(0)).collect();
        let late_max = nanos(late_max);
        Self { run, orgs, commands, timeline, start, late_max, next_numbers, published: Published::default() }
    }

    /// Runs the writers of each stream until the end of the schedule.
    pub(crate) async fn publish<P: Publish + 'static>(
        self: &Arc<Self>,
        writers: Vec<Vec<P>>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for (n, writers) in writers.into_iter().enumerate() {
            let next = Arc::new(AtomicU64::new(0));
            for writer in writers {
                let (publisher, next, stop) = (Arc::clone(self), Arc::clone(&next), stop.clone());
                tasks.spawn(async move { publisher.run_writer(n, writer, &next, &stop).await });
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a writer's task failed")?;
        }
        Ok(())
    }

    /// Runs one writer: it takes the next commit of its stream's schedule until the stream ends.
    async fn run_writer<P: Publish>(
        &self,
        stream: usize,
        mut writer: P,
        next: &AtomicU64,
        stop: &CancellationToken,
    ) {
        let stream = &self.timeline.streams[stream];
        let end = self.start + nanos(stream.until);
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(offset) = stream.due(number) else {
                // No commit is left, but the stream lasts until its end.
                tokio::select! {
                    () = sleep(until(end)) => {}
                    () = stop.cancelled() => {}
                }
                return;
            };
            tokio::select! {
                () = sleep(until(self.start + nanos(offset))) => {}
                () = stop.cancelled() => return,
            }
            if now() > end + self.late_max {
                return;
            }
            let Err(error) = self.make_commit(&mut writer, stream, number, offset).await else { continue };
            self.add_finding(format!("a change failed: {error:#}"));
            while let Err(_unreachable) = writer.reconnect().await {
                if now() > end + self.late_max || stop.is_cancelled() {
                    return;
                }
                sleep(RECONNECT_PAUSE).await;
            }
        }
    }

    /// Makes the changes of one commit: prepares, announces and commits them.
    async fn make_commit<P: Publish>(
        &self,
        writer: &mut P,
        stream: &Stream,
        number: u64,
        offset: Duration,
    ) -> anyhow::Result<()> {
        let (due, phase) = (self.start + nanos(offset), self.timeline.phase_at(offset));
        let org = stream.org(number, self.orgs.len());
        let plan = |_| PlannedChange {
            org,
            org_id: self.orgs[org],
            number: self.next_numbers[org].fetch_add(1, Relaxed),
        };
        let planned: Vec<PlannedChange> = (0..stream.per_commit).map(plan).collect();
        let prepared = match writer.prepare(&self.run, &planned).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.published.failed.fetch_add(planned.len() as u64, Relaxed);
                return Err(error);
            }
        };
        let sent = now();
        let change = |(planned, prepared): (&PlannedChange, &PreparedChange)| {
            let PreparedChange { entity, kind, seq, row } = *prepared;
            Change { org, number: planned.number, entity, kind, seq, phase, due, sent, row }
        };
        let changes: Vec<Change> = planned.iter().zip(&prepared).map(change).collect();
        self.commands.announce(&changes).await?;
        // Read once more, so that the commit's duration does not include the announcement.
        let sent = now();
        if let Err(error) = writer.commit().await {
            self.set_outcome(&planned, Outcome::Unknown).await?;
            lock(&self.published.unknown).push((planned, writer.transaction_id()));
            return Err(error);
        }
        let answered = now();
        self.set_outcome(&planned, Outcome::Committed).await?;
        let label = |kind| Label { kind, phase, group: 1 };
        lock(&self.published.commit).record(label(LatencyKind::Commit), answered - sent);
        lock(&self.published.lag).record(label(LatencyKind::Schedule), sent.saturating_sub(due));
        Ok(())
    }

    async fn set_outcome(&self, changes: &[PlannedChange], outcome: Outcome) -> anyhow::Result<()> {
        let count = changes.len() as u64;
        match outcome {
            Outcome::Committed => self.published.changes.fetch_add(count, Relaxed),
            Outcome::RolledBack => self.published.failed.fetch_add(count, Relaxed),
            Outcome::Open | Outcome::Unknown => 0,
        };
        for change in changes {
            self.commands.set_outcome(change.org, change.number, outcome).await?;
        }
        Ok(())
    }

    /// Queries the outcomes of transactions that broke during COMMIT. Returns how many changes are still
    /// unknown at the deadline.
    pub(crate) async fn resolve_unknown(
        &self,
        database: &Database,
        deadline: Nanos,
        hurry: &CancellationToken,
    ) -> usize {
        let mut unknown = std::mem::take(&mut *lock(&self.published.unknown));
        while !unknown.is_empty() && now() < deadline && !hurry.is_cancelled() {
            let mut unresolved = Vec::new();
            for (changes, transaction_id) in unknown {
                match outcome::query(database, transaction_id.as_deref()).await {
                    Some(outcome) => {
                        // This fails only if a worker has ended, which ends the run elsewhere.
                        let _ = self.set_outcome(&changes, outcome).await;
                    }
                    None => unresolved.push((changes, transaction_id)),
                }
            }
            unknown = unresolved;
            if !unknown.is_empty() {
                sleep(RECONNECT_PAUSE).await;
            }
        }
        unknown.iter().map(|(changes, _)| changes.len()).sum()
    }

    fn add_finding(&self, text: String) {
        let mut findings = lock(&self.published.findings);
        if findings.len() < FINDINGS_MAX {
            findings.push(text);
        }
    }
}
