//! What a client missed, in the order in which it is sent, each event with the cursor that comes after it.

use std::sync::Arc;

use super::Held;
use crate::events::cursor::{Cursor, CursorPrefix, Point};
use crate::wire::{Event, Topic};

/// Events with their transactions, in the order of their ids.
pub(super) type Events = Arc<Vec<(u64, Arc<Event>)>>;

/// What one client missed. The events are shared with others who missed them too, and cursors are made when
/// they are needed: at a thousand transactions in progress each takes kilobytes.
#[derive(Debug)]
pub struct Missed {
    pub(super) events: Events,
    pub(super) topic: Topic,
    pub(super) since: Cursor,
    pub(super) until: Arc<Point>,
    /// The memory of the events, where they don't belong to the window of recent ones.
    pub(super) _held: Option<Arc<Held>>,
}

impl Missed {
    /// Events and cursors: first what the cursor's second point covers, with cursors between the cursor's
    /// points, then the rest, with cursors between its second point and `until`.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Event>, String)> {
        let first = CursorPrefix::new(self.since.epoch, &self.since.from, &self.since.to);
        let second = CursorPrefix::new(self.since.epoch, &self.since.to, &self.until);
        [(true, first), (false, second)].into_iter().flat_map(move |(is_first, prefix)| {
            self.wanted()
                .filter(move |(xid, event)| self.since.to.covers(*xid, event.id) == is_first)
                .map(move |(_, event)| (event, prefix.with_id(event.id)))
        })
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

/// Whether somebody with this cursor misses an event on the topic, where the node stands at `until`.
pub(super) fn is_missed(xid: u64, event: &Event, topic: &Topic, since: &Cursor, until: &Point) -> bool {
    event.reaches(topic) && until.covers(xid, event.id) && !since.covers(xid, event.id)
}
