//! The events that one client missed, in the order in which they are sent, each with the cursor that follows
//! it.

use std::sync::Arc;

use super::missed::{Events, is_missed};
use super::waiter::MemoryReservation;
use crate::cursor::{Cursor, CursorPrefix, CursorSeal, TransactionSealer};
use crate::wire::{Event, Topic};

/// The events that one client missed. It shares them with other clients that missed them too. Cursors are
/// sealed only when they are needed: with a thousand transactions in progress each takes kilobytes.
#[derive(Debug)]
pub struct ReplayBatch {
    pub(super) events: Events,
    pub(super) topic: Topic,
    pub(super) since: Cursor,
    /// Position of the node, which may be between two points.
    pub(super) until: Cursor,
    /// Memory of the events, unless they belong to the recent events.
    pub(super) reservation: Option<Arc<MemoryReservation>>,
}

impl ReplayBatch {
    /// Missed events, each as `render` returns it from the event, its cursor and its transaction. The cursors
    /// are formed in three parts:
    ///
    /// 1. events that the client's second point covers, with cursors between the client's two points;
    /// 2. events that the node's first point covers, with cursors from the client's second point to that
    ///    point;
    /// 3. the rest, with cursors between the node's two points, as live events have them.
    pub fn rendered<'a, T>(
        &'a self,
        seal: &'a CursorSeal,
        render: impl Fn(&Event, &str, &str) -> T + Copy + 'a,
    ) -> impl Iterator<Item = (&'a Arc<Event>, T)> {
        let parts = [Part::OfClient, Part::Between, Part::OfNode];
        parts.into_iter().flat_map(move |part| {
            let (from, to) = match part {
                Part::OfClient => (&self.since.from, &self.since.to),
                Part::Between => (&self.since.to, &self.until.from),
                Part::OfNode => (&self.until.from, &self.until.to),
            };
            let prefix = CursorPrefix::new(self.since.epoch, from, to);
            let mut transactions = TransactionSealer::new(seal);
            self.missed().filter(move |event| self.part(event) == part).map(move |event| {
                let cursor = seal.seal_at(&prefix, event.id);
                (event, render(event, &cursor, transactions.seal(&prefix, event.xid)))
            })
        })
    }

    /// Waits until another organisation needs the memory of these events. The batch must then be dropped.
    pub async fn reclaimed(&self) {
        match &self.reservation {
            Some(reservation) => reservation.reclaimed().await,
            None => std::future::pending().await,
        }
    }

    fn part(&self, event: &Event) -> Part {
        if self.since.to.covers(event.xid, event.id) {
            Part::OfClient
        } else if self.until.from.covers(event.xid, event.id) {
            Part::Between
        } else {
            Part::OfNode
        }
    }

    /// Number of missed events, and the bytes that they take in memory.
    pub(super) fn size(&self) -> (usize, usize) {
        self.missed().fold((0, 0), |(count, bytes), event| (count + 1, bytes + event.memory_bytes()))
    }

    fn missed(&self) -> impl Iterator<Item = &Arc<Event>> {
        let Self { topic, since, until, .. } = self;
        self.events.iter().filter(|event| is_missed(event, topic, since, until))
    }
}

/// The part of a replay to which an event belongs. It determines the points of the event's cursor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    OfClient,
    Between,
    OfNode,
}
