//! The words of the bookkeeping: what is told of a change, what arrives, what that means, and what is
//! counted. They decide nothing.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Nanos;

/// What was done to an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Created,
    Updated,
    /// By `warden.publish`.
    Published,
}

/// How the transaction of a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Still running.
    Open,
    /// Its events are expected.
    Committed,
    /// Its events must not appear.
    RolledBack,
    /// The connection broke during COMMIT: its events are neither expected nor held against anyone.
    Unknown,
}

/// A change whose COMMIT is about to be sent. Those of one entity come in the order in which they commit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    #[serde(rename = "o")]
    pub(crate) org: usize,
    /// Names it within its organisation.
    pub(crate) n: usize,
    #[serde(rename = "e")]
    pub(crate) entity: Uuid,
    #[serde(rename = "k")]
    pub(crate) kind: Kind,
    /// Position in the life of its entity.
    #[serde(rename = "q")]
    pub(crate) seq: u32,
    /// Part of the scenario in which it was due.
    #[serde(rename = "p")]
    pub(crate) phase: usize,
    /// When it should have been made.
    #[serde(rename = "d")]
    pub(crate) due: Nanos,
    /// When its COMMIT was sent.
    #[serde(rename = "s")]
    pub(crate) sent: Nanos,
}

/// An event of an entity, as it came out of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) org: Uuid,
    pub(crate) entity: Uuid,
    pub(crate) kind: Kind,
    /// Name of the change in its organisation, from the event's data.
    pub(crate) n: usize,
    pub(crate) seq: u32,
    pub(crate) at: Nanos,
}

/// What an arrival means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Seen for the first time.
    Delivered(Delivery),
    Duplicate,
    CrossOrg,
    /// Right organisation, but no such change was made, or not on this topic.
    Unexpected,
}

/// An event that is where it belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// When the COMMIT was sent.
    pub(crate) sent: Nanos,
    pub(crate) since_sent: Nanos,
    pub(crate) since_due: Nanos,
    pub(crate) phase: usize,
    /// False where a later change of its entity came before.
    pub(crate) in_order: bool,
}

/// What was found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Over all committed changes: the subscriptions that must see them, and that have.
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) cross_org: u64,
    pub(crate) out_of_order: u64,
    pub(crate) unexpected: u64,
    /// Events of changes that were rolled back.
    pub(crate) phantoms: u64,
    pub(crate) resyncs: u64,
    /// Events that a socket got after it came back, of changes from before.
    pub(crate) replayed: u64,
    /// All events that were where they belong, also those that were not required.
    pub(crate) events: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.cross_org += other.cross_org;
        self.out_of_order += other.out_of_order;
        self.unexpected += other.unexpected;
        self.phantoms += other.phantoms;
        self.resyncs += other.resyncs;
        self.replayed += other.replayed;
        self.events += other.events;
    }

    pub(crate) fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }
}
