//! What a client missed, in the order in which it is sent, each event with the cursor that comes after it.

use std::sync::Arc;

use super::MemoryReservation;
use crate::log::cursor::{Cursor, CursorPrefix};
use crate::wire::{Event, Topic};

/// Events with their transactions, in the order of their ids.
pub(super) type Events = Arc<Vec<(u64, Arc<Event>)>>;

/// What one client missed. The events are shared with others who missed them too, and cursors are made when
/// they are needed: at a thousand transactions in progress each takes kilobytes.
#[derive(Debug)]
pub struct ReplayBatch {
    pub(super) events: Events,
    pub(super) topic: Topic,
    pub(super) since: Cursor,
    /// Where the node stood, which may be between two points.
    pub(super) until: Cursor,
    /// The memory of the events, where they don't belong to the window of recent ones.
    pub(super) _held: Option<Arc<MemoryReservation>>,
}

impl ReplayBatch {
    /// Events and cursors: first what the cursor's second point covers, with cursors between the cursor's
    /// points; then what the node's first point covers, with cursors from one of these points to the other;
    /// then the rest, with cursors between the node's two points, as they come live.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Event>, String)> {
        let parts = [Part::OfClient, Part::Between, Part::OfNode];
        parts.into_iter().flat_map(move |part| {
            let (from, to) = match part {
                Part::OfClient => (&self.since.from, &self.since.to),
                Part::Between => (&self.since.to, &self.until.from),
                Part::OfNode => (&self.until.from, &self.until.to),
            };
            let prefix = CursorPrefix::new(self.since.epoch, from, to);
            self.wanted()
                .filter(move |(xid, event)| self.part(*xid, event.id) == part)
                .map(move |(_, event)| (event, prefix.with_id(event.id)))
        })
    }

    fn part(&self, xid: u64, id: i64) -> Part {
        if self.since.to.covers(xid, id) {
            Part::OfClient
        } else if self.until.from.covers(xid, id) {
            Part::Between
        } else {
            Part::OfNode
        }
    }

    /// How many, and how many bytes they take.
    pub(super) fn size(&self) -> (usize, usize) {
        self.wanted().fold((0, 0), |(count, bytes), (_, event)| (count + 1, bytes + event.memory_bytes()))
    }

    fn wanted(&self) -> impl Iterator<Item = &(u64, Arc<Event>)> {
        let Self { topic, since, until, .. } = self;
        self.events.iter().filter(|(xid, event)| is_missed(*xid, event, topic, since, until))
    }
}

/// Which cursors an event goes out with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    OfClient,
    Between,
    OfNode,
}

/// Whether a node that stands at `now` has passed on all that a client with this cursor has seen. It may say
/// no where the answer is yes; a look of the reader settles that.
///
/// Either its first point includes the client's second, or the client comes from among the very pages that the
/// node is reading. Otherwise the client has perhaps seen something of the pages that are still to come, which
/// would come again.
pub(super) fn has_reached(now: &Cursor, since: &Cursor) -> bool {
    let is_same_batch = now.from == since.from && now.to == since.to;
    now.from.includes(&since.to) || (is_same_batch && since.id <= now.id)
}

/// Whether somebody with this cursor misses an event on the topic, where the node stands at `until`.
pub(super) fn is_missed(xid: u64, event: &Event, topic: &Topic, since: &Cursor, until: &Cursor) -> bool {
    event.reaches(topic) && until.covers(xid, event.id) && !since.covers(xid, event.id)
}
