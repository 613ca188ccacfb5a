//! What a client missed: from its cursor up to where this node stands, from memory or from the log.
//!
//! A client comes back with the cursor (A, B, n), and this node stands at the point P. What B covers and A
//! doesn't, with ids above n, comes first, with cursors (A, B, id); then what P covers and B doesn't, with
//! cursors (B, P, id). No other snapshot takes part: one of its own, with the live events filtered by it,
//! would double events.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Semaphore, watch};

use super::cursor::{Cursor, CursorPrefix, Point};
use super::doorbell::Ring;
use super::log::{LoggedEvent, is_truncated, org_events_since};
use super::recent::Recent;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::wire::{Event, Topic};

/// Limits of replays.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    /// Replays that read the log at the same time; the others wait for their turn.
    pub from_log_max: usize,
    /// Events that one replay brings; who missed more reads its state anew.
    pub events_max: usize,
    /// Bytes of the events that one replay brings.
    pub bytes_max: usize,
    /// How long a join waits for the reader to catch up; clients give a join up after some 10 s.
    pub timeout: Duration,
    /// How long a replay may wait for its turn and for the log; the join has its reply by then.
    pub read_timeout: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Replay {
    pool: PgPool,
    recent: Arc<Recent>,
    ring: Arc<Ring>,
    looks: watch::Receiver<u64>,
    turns: Semaphore,
    metrics: Arc<Metrics>,
    limits: ReplayLimits,
}

/// An event that was missed, with the cursor that comes after it.
#[derive(Clone, Debug)]
pub struct Missed {
    /// What.
    pub event: Arc<Event>,
    /// As a string.
    pub cursor: String,
}

/// Why what was missed can't be told: the client is to read its state anew.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// More than the limit.
    #[error("too many events were missed")]
    TooMany,
    /// Some of it is older than what is kept.
    #[error("what was missed is older than what is kept")]
    TooOld,
    /// The database did not answer, or not in time.
    #[error("the event log can't be read: {0}")]
    Log(#[from] sqlx::Error),
    /// No turn, or no reader, within the limit.
    #[error("the event log can't be read in time")]
    Timeout,
}

impl Replay {
    /// Replays from this window, and from the log through this pool.
    #[must_use]
    pub fn new(
        pool: PgPool,
        recent: Arc<Recent>,
        ring: Arc<Ring>,
        looks: watch::Receiver<u64>,
        metrics: Arc<Metrics>,
        limits: ReplayLimits,
    ) -> Self {
        let turns = Semaphore::new(limits.from_log_max);
        Self { pool, recent, ring, looks, turns, metrics, limits }
    }

    /// Resolves when `position` (of this node) is a point that includes all that the client has seen.
    /// Where the client comes from a node that is ahead, the reader is made to look: what it reads from
    /// now on is later than any cursor that was handed out before.
    ///
    /// # Errors
    /// When the reader does not get there in time, as when the database is away.
    pub async fn caught_up(
        &self,
        since: &Cursor,
        position: impl Fn() -> Option<Cursor>,
    ) -> Result<(), ReplayError> {
        let mut looks = self.looks.clone();
        // The look that is under way may have taken its snapshot already; the one after it has not.
        let enough = *looks.borrow_and_update() + 2;
        let wait = async {
            loop {
                let now = position();
                if let Some(now) = now.filter(Cursor::is_settled)
                    && (now.to.includes(&since.to) || *looks.borrow() >= enough)
                {
                    return Ok(());
                }
                self.ring.pull();
                if looks.changed().await.is_err() {
                    return Err(ReplayError::Timeout);
                }
            }
        };
        tokio::time::timeout(self.limits.timeout, wait).await.unwrap_or(Err(ReplayError::Timeout))
    }

    /// What `until` covers and the cursor doesn't, in the order in which it is to be sent.
    ///
    /// # Errors
    /// When it is too much, or can't be read.
    pub async fn missed(
        &self,
        org: OrgId,
        topic: &Topic,
        since: &Cursor,
        until: &Arc<Point>,
    ) -> Result<Vec<Missed>, ReplayError> {
        let events = if let Some(events) = self.recent.between(org, topic, since, until) {
            self.metrics.replays_from_memory.inc();
            events
        } else {
            self.metrics.replays_from_log.inc();
            let read = self.read(org, topic, since, until);
            tokio::time::timeout(self.limits.read_timeout, read).await.unwrap_or(Err(ReplayError::Timeout))?
        };
        let bytes: usize = events.iter().map(|(_, event)| event.memory_bytes()).sum();
        if events.len() > self.limits.events_max || bytes > self.limits.bytes_max {
            return Err(ReplayError::TooMany);
        }
        let (first, second): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|(xid, event)| since.to.covers(*xid, event.id));
        let with_cursors = |events: Vec<(u64, Arc<Event>)>, from: &Point, to: &Point| {
            let prefix = CursorPrefix::new(since.epoch, from, to);
            events
                .into_iter()
                .map(|(_, event)| Missed { cursor: prefix.with_id(event.id), event })
                .collect::<Vec<_>>()
        };
        let mut missed = with_cursors(first, &since.from, &since.to);
        missed.extend(with_cursors(second, &since.to, until));
        Ok(missed)
    }

    async fn read(
        &self,
        org: OrgId,
        topic: &Topic,
        since: &Cursor,
        until: &Point,
    ) -> Result<Vec<(u64, Arc<Event>)>, ReplayError> {
        let _turn = self.turns.acquire().await.map_err(|_| ReplayError::Timeout)?;
        let mut connection = self.pool.acquire().await?;
        let mut found = Vec::new();
        let mut after = i64::MIN;
        let mut bytes = 0;
        loop {
            self.metrics.replay_queries.inc();
            let (page, more) = org_events_since(&mut connection, org, &since.from, after).await?;
            let wanted = page
                .into_iter()
                .filter(|LoggedEvent { xid, event, .. }| {
                    event.reaches(topic) && until.covers(*xid, event.id) && !since.covers(*xid, event.id)
                })
                .map(|LoggedEvent { xid, event, .. }| (xid, event));
            for (xid, event) in wanted {
                bytes += event.memory_bytes();
                found.push((xid, event));
            }
            if found.len() > self.limits.events_max || bytes > self.limits.bytes_max {
                return Err(ReplayError::TooMany);
            }
            match more {
                Some(last_id) => after = last_id,
                None => break,
            }
        }
        // Asked after the reading: a slot that was emptied before or during it is noticed either way.
        if is_truncated(&mut connection, &since.from).await? {
            return Err(ReplayError::TooOld);
        }
        Ok(found)
    }
}
