//! A client that waits for a read of the log, and the errors with which a replay can end.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::missed::{Events, is_missed};
use super::queue::{self, PlaceId, Queued};
use crate::cursor::Cursor;
use crate::wire::{Event, Topic};

/// Memory that is reserved for events from the log.
pub(super) type MemoryReservation = queue::MemoryReservation<Waiter>;

/// The place of one resume among those of its organisation. Dropping it ends the resume's wait for the log.
#[derive(Debug)]
pub struct ResumePlace(pub(super) queue::Place<Waiter>);

impl ResumePlace {
    /// Waits until the place has been given to another organisation. The resume must then end.
    pub async fn evicted(&self) {
        self.0.evicted().await;
    }
}

/// The answer to a waiter: the events of the read that it shared, and the memory that they take.
pub(super) type Answer = Result<(Events, Arc<MemoryReservation>), ReplayError>;

/// A client that waits for a read of the log.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) place: PlaceId,
    pub(super) topic: Topic,
    pub(super) since: Cursor,
    pub(super) until: Cursor,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Queued for Waiter {
    fn place(&self) -> PlaceId {
        self.place
    }
}

impl Waiter {
    /// Whether this client missed the event.
    pub(super) fn missed(&self, event: &Event) -> bool {
        is_missed(event, &self.topic, &self.since, &self.until)
    }
}

/// Reasons why missed events cannot be replayed. The client must reload its state.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplayError {
    /// More events than the limit.
    #[error("the client missed more events than one replay may send")]
    TooMany,
    /// Retention deleted some of the events.
    #[error("the missed events are older than the log's retention")]
    TooOld,
    /// Retention deleted some of the events, because the organisation had taken more than its share of the
    /// log.
    #[error("the organisation took more than its share of the log, and the missed events were deleted")]
    LogShare,
    /// The database returned an error, or did not answer.
    #[error("cannot read the event log: {0}")]
    Log(#[from] Arc<sqlx::Error>),
    /// The log was not read in time, or the tailer made no progress.
    #[error("the event log was not read in time")]
    Timeout,
    /// The organisation has used its share of the resumes that may wait.
    #[error("too many clients of the organisation resume at the same time")]
    TooManyResumes,
    /// Another organisation needed the memory of events that the client was slow to receive.
    #[error("the client was slow to receive its missed events, and another organisation needed their memory")]
    Reclaimed,
    /// Some of the events need a claim that the client's token lacks.
    #[error("missed events need a claim that the token lacks")]
    NeedsClaim,
    /// The filter of the join cannot be evaluated on one of the events.
    #[error(
        "the filter cannot be evaluated on a missed event, which lacks a column or has it in another form"
    )]
    Filter,
    /// The rows that precede the missed events could not all be sent.
    #[error("the snapshot ended before its last page: {0}")]
    Snapshot(Arc<str>),
    /// The database was restored or failed over while the client waited.
    #[error("the cursor belongs to another epoch of the log")]
    Epoch,
}
