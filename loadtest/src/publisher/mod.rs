//! The changes: made on a schedule that waits for nobody, each entered in the journal before its COMMIT
//! is sent. How a change is made is behind [`Publish`]; what came of it is for others to judge.

mod calls;
mod database;
mod events;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bench_support::database::Database;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use self::calls::{Calls, OpenCalls};
pub(crate) use self::events::{Entities, Events};
use crate::check::{Kind, Outcome, Sent};
use crate::clock::{Nanos, nanos, now, until};
use crate::message::{Label, Timed};
use crate::meters::Meters;
use crate::run::Journal;
use crate::scenario::{Stream, Timeline};

const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// After the end of the schedule, how long late changes are still made. What is later is dropped and
/// shows as changes that were due but not made.
const LATE_MAX: Nanos = 1_000_000_000;

/// A change that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    /// Index of its organisation, the organisation, and the change's name within it.
    pub(crate) org: usize,
    pub(crate) org_id: Uuid,
    pub(crate) n: usize,
}

/// A change that is made but for its COMMIT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) entity: Uuid,
    pub(crate) kind: Kind,
    pub(crate) seq: u32,
}

/// A way to make changes. There is one of it for each writer.
pub(crate) trait Publish: Send {
    /// Makes changes that belong together, up to the moment before they count. Until `commit`
    /// nobody else may change the same entities.
    fn make(
        &mut self,
        run: &str,
        changes: &[Planned],
    ) -> impl Future<Output = anyhow::Result<Vec<Made>>> + Send;

    /// Makes them count.
    fn commit(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What asks later whether a commit counted whose answer was lost.
    fn receipt(&self) -> Option<String>;

    /// Starts anew after an error.
    fn reconnect(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What was published, beside the journal.
#[derive(Default)]
pub(crate) struct Published {
    pub(crate) changes: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// COMMIT sent to COMMIT answered, and the moment at which a change was due to its COMMIT sent.
    pub(crate) commit: Mutex<Meters>,
    pub(crate) lag: Mutex<Meters>,
    /// Commits whose answer was lost.
    unknown: Mutex<Vec<(Vec<Planned>, Option<String>)>>,
    pub(crate) faults: Mutex<Vec<String>>,
}

/// The schedule and what the writers share.
pub(crate) struct Publisher {
    pub(crate) run: String,
    pub(crate) orgs: Vec<Uuid>,
    pub(crate) journal: Journal,
    pub(crate) timeline: Timeline,
    /// When the schedule begins.
    pub(crate) start: Nanos,
    /// Name of the next change of each organisation.
    names: Vec<AtomicUsize>,
    pub(crate) published: Published,
}

impl Publisher {
    pub(crate) fn new(
        run: String,
        orgs: Vec<Uuid>,
        journal: Journal,
        timeline: Timeline,
        start: Nanos,
    ) -> Self {
        let names = orgs.iter().map(|_| AtomicUsize::new(0)).collect();
        Self { run, orgs, journal, timeline, start, names, published: Published::default() }
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
                tasks.spawn(async move { publisher.write(n, writer, &next, &stop).await });
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a writer's task failed")?;
        }
        Ok(())
    }

    /// One writer: takes commits off its stream's schedule until its end. The sleeps keep time, no more.
    async fn write<P: Publish>(
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
                // Nothing more is due: the stream still lasts until its end.
                tokio::select! {
                    () = sleep(until(end)) => {}
                    () = stop.cancelled() => {}
                }
                return;
            };
            let due = self.start + nanos(offset);
            tokio::select! {
                () = sleep(until(due)) => {}
                () = stop.cancelled() => return,
            }
            if now() > end + LATE_MAX {
                return;
            }
            let Err(error) = self.commit(&mut writer, stream, number, offset).await else { continue };
            self.fault(format!("a change failed: {error:#}"));
            while let Err(_refused) = writer.reconnect().await {
                if now() > end + LATE_MAX || stop.is_cancelled() {
                    return;
                }
                sleep(RECONNECT_PAUSE).await;
            }
        }
    }

    async fn commit<P: Publish>(
        &self,
        writer: &mut P,
        stream: &Stream,
        number: u64,
        offset: Duration,
    ) -> anyhow::Result<()> {
        let (due, phase) = (self.start + nanos(offset), self.timeline.phase_at(offset));
        let org = stream.org(number, self.orgs.len());
        let plan = |_| Planned { org, org_id: self.orgs[org], n: self.names[org].fetch_add(1, Relaxed) };
        let changes: Vec<Planned> = (0..stream.per_commit).map(plan).collect();
        let made = match writer.make(&self.run, &changes).await {
            Ok(made) => made,
            Err(error) => {
                self.published.failed.fetch_add(changes.len() as u64, Relaxed);
                return Err(error);
            }
        };
        let sent = now();
        let entry = |(change, made): (&Planned, &Made)| {
            let Made { entity, kind, seq } = *made;
            Sent { org, n: change.n, entity, kind, seq, phase, due, sent }
        };
        let entries: Vec<Sent> = changes.iter().zip(&made).map(entry).collect();
        self.journal.sent(&entries).await?;
        // Again: what took long was the journal, if anything.
        let sent = now();
        if let Err(error) = writer.commit().await {
            self.ended(&changes, Outcome::Unknown).await?;
            lock(&self.published.unknown).push((changes, writer.receipt()));
            return Err(error);
        }
        let answered = now();
        self.ended(&changes, Outcome::Committed).await?;
        let label = |timed| Label { timed, phase, group: 1 };
        lock(&self.published.commit).record(label(Timed::Commit), answered - sent);
        lock(&self.published.lag).record(label(Timed::Due), sent.saturating_sub(due));
        Ok(())
    }

    async fn ended(&self, changes: &[Planned], outcome: Outcome) -> anyhow::Result<()> {
        let count = changes.len() as u64;
        match outcome {
            Outcome::Committed => self.published.changes.fetch_add(count, Relaxed),
            Outcome::RolledBack => self.published.failed.fetch_add(count, Relaxed),
            Outcome::Open | Outcome::Unknown => 0,
        };
        for change in changes {
            self.journal.ended(change.org, change.n, outcome).await?;
        }
        Ok(())
    }

    /// Asks the database how the transactions ended that broke during COMMIT. Returns how many changes
    /// are still unknown at the deadline.
    pub(crate) async fn resolve_unknown(
        &self,
        database: &Database,
        deadline: Nanos,
        hurry: &CancellationToken,
    ) -> usize {
        let mut unknown = std::mem::take(&mut *lock(&self.published.unknown));
        while !unknown.is_empty() && now() < deadline && !hurry.is_cancelled() {
            let mut open = Vec::new();
            for (changes, receipt) in unknown {
                match database::outcome(database, receipt.as_deref()).await {
                    Some(outcome) => {
                        // A holder that is gone has ended the run already.
                        let _ = self.ended(&changes, outcome).await;
                    }
                    None => open.push((changes, receipt)),
                }
            }
            unknown = open;
            if !unknown.is_empty() {
                sleep(RECONNECT_PAUSE).await;
            }
        }
        unknown.iter().map(|(changes, _)| changes.len()).sum()
    }

    fn fault(&self, text: String) {
        const FAULTS_MAX: usize = 10;
        let mut faults = lock(&self.published.faults);
        if faults.len() < FAULTS_MAX {
            faults.push(text);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
