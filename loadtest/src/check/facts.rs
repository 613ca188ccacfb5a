//! The facts that the ledger works with: announced changes, arriving events, verdicts and counts. This file
//! contains no decisions.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Nanos;
use crate::filters::{Moved, RowChange};

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ChangeKind {
    Created,
    Updated,
    /// An event of `warden.publish`.
    Published,
}

/// How the transaction of a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It is still running.
    Open,
    /// The events are expected.
    Committed,
    /// The events must not appear.
    RolledBack,
    /// The connection broke during COMMIT, so its events are neither expected nor a fault.
    Unknown,
}

/// A change that was announced before its COMMIT was sent. Changes of one entity are announced in the order
/// in which they commit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Index of its organisation.
    #[serde(rename = "o")]
    pub(crate) org: usize,
    /// Number within its organisation, from 0.
    #[serde(rename = "n")]
    pub(crate) number: usize,
    #[serde(rename = "e")]
    pub(crate) entity: Uuid,
    #[serde(rename = "k")]
    pub(crate) kind: ChangeKind,
    /// Number within the life of its entity, from 1.
    #[serde(rename = "q")]
    pub(crate) seq: u32,
    /// Phase of the scenario in which it was due.
    #[serde(rename = "p")]
    pub(crate) phase: usize,
    /// When the schedule asked for it.
    #[serde(rename = "d")]
    pub(crate) due: Nanos,
    /// When its COMMIT was sent.
    #[serde(rename = "s")]
    pub(crate) sent: Nanos,
    /// Columns that filters compare, before and after. Empty without filters.
    #[serde(rename = "r", default)]
    pub(crate) row: RowChange,
}

/// An event that a socket received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) org: Uuid,
    pub(crate) entity: Uuid,
    pub(crate) kind: ChangeKind,
    /// Number of the change within its organisation, from the event's data.
    pub(crate) number: usize,
    pub(crate) seq: u32,
    /// Whether the event says that the row has entered or left the filter.
    pub(crate) moved: Option<Moved>,
    /// When it was read.
    pub(crate) at: Nanos,
}

/// The ledger's judgement of an arrival.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The subscription receives this change for the first time.
    Delivered(Delivery),
    Duplicate,
    CrossOrg,
    /// The organisation is right, but nobody made this change, its topic does not receive changes, or its
    /// filter means another event or none.
    Unexpected,
}

/// An event that arrived where it belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// When the COMMIT was sent.
    pub(crate) sent: Nanos,
    /// Time from COMMIT sent to event read.
    pub(crate) since_sent: Nanos,
    /// Time from the schedule to event read.
    pub(crate) since_due: Nanos,
    pub(crate) phase: usize,
    /// False if a later change of its entity arrived earlier.
    pub(crate) in_order: bool,
}

/// Counts of a worker since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Deliveries that the committed changes require.
    pub(crate) expected: u64,
    /// Required deliveries that have arrived.
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) cross_org: u64,
    pub(crate) out_of_order: u64,
    pub(crate) unexpected: u64,
    /// Events of changes that were rolled back.
    pub(crate) rolled_back: u64,
    pub(crate) resyncs: u64,
    /// Events of earlier changes that a socket received after it reconnected.
    pub(crate) replayed: u64,
    /// All events that arrived where they belong, including those that were not required.
    pub(crate) events: u64,
    /// Events of rows that entered a filter.
    pub(crate) entered: u64,
    /// Events of rows that left a filter.
    pub(crate) left: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.cross_org += other.cross_org;
        self.out_of_order += other.out_of_order;
        self.unexpected += other.unexpected;
        self.rolled_back += other.rolled_back;
        self.resyncs += other.resyncs;
        self.replayed += other.replayed;
        self.events += other.events;
        self.entered += other.entered;
        self.left += other.left;
    }

    pub(crate) fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }
}
