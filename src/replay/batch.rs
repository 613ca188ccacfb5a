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
    /// Missed events, each as `render` returns it from the event and its position. Positions are sealed only
    /// if `render` asks for it. The cursors are formed in three parts:
    ///
    /// 1. events that the client's second point covers, with cursors between the client's two points;
    /// 2. events that the node's first point covers, with cursors from the client's second point to that
    ///    point;
    /// 3. the rest, with cursors between the node's two points, as live events have them.
    ///
    /// The cursor of the last event of a part covers the whole second point, if the node has read all of it:
    /// then no event of the topic follows in this part.
    pub fn rendered<'a, T>(
        &'a self,
        seal: &'a CursorSeal,
        render: impl Fn(&Event, &mut EventPosition<'_, '_>) -> T + Copy + 'a,
    ) -> impl Iterator<Item = (&'a Arc<Event>, T)> {
        let parts = [Part::OfClient, Part::Between, Part::OfNode];
        parts.into_iter().flat_map(move |part| {
            let (from, to) = match part {
                Part::OfClient => (&self.since.from, &self.since.to),
                Part::Between => (&self.since.to, &self.until.from),
                Part::OfNode => (&self.until.from, &self.until.to),
            };
            let points = CursorPrefix::new(self.since.epoch, from, to);
            let end = self.until.includes(to).then_some(to.max_id);
            let mut transactions = TransactionSealer::new(seal);
            let mut events = self.missed().filter(move |event| self.part(event) == part).peekable();
            std::iter::from_fn(move || {
                let event = events.next()?;
                let end = end.filter(|_| events.peek().is_none());
                let id = end.map_or(event.id, |end| end.max(event.id));
                let transactions = &mut transactions;
                let position = &mut EventPosition { id, xid: event.xid, seal, points: &points, transactions };
                Some((event, render(event, position)))
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

/// The position of one event of a replay.
#[derive(Debug)]
pub struct EventPosition<'a, 's> {
    /// Id of the cursor that follows the event.
    id: i64,
    xid: u64,
    seal: &'a CursorSeal,
    points: &'a CursorPrefix,
    transactions: &'a mut TransactionSealer<'s>,
}

impl EventPosition<'_, '_> {
    /// The sealed cursor that follows the event, and its sealed transaction.
    pub fn sealed(&mut self) -> (String, &str) {
        let cursor = self.seal.seal_at(self.points, self.id);
        (cursor, self.transactions.seal(self.points, self.xid))
    }
}

/// The part of a replay to which an event belongs. It determines the points of the event's cursor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    OfClient,
    Between,
    OfNode,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{CursorKey, Epoch, KeyRing, Point, Snapshot};
    use crate::org::{Incarnation, OrgId};

    fn point(xmax: u64, max_id: i64) -> Arc<Point> {
        Arc::new(Point { snapshot: Snapshot { xmin: xmax, xmax, in_progress: Vec::new() }, max_id })
    }

    fn cursor(from: &Arc<Point>, to: &Arc<Point>, id: i64) -> Cursor {
        Cursor { epoch: Epoch::default(), from: Arc::clone(from), to: Arc::clone(to), id }
    }

    /// Ids of the cursors of a replay of events with these ids and transactions.
    fn cursor_ids(since: Cursor, until: Cursor, events: &[(i64, u64)]) -> Vec<i64> {
        let event =
            |(id, xid): &(i64, u64)| Arc::new(Event { xid: *xid, ..Event::control("test", "{}", *id) });
        let events = Arc::new(events.iter().map(event).collect());
        let batch = ReplayBatch { events, topic: Topic::Org, since, until, reservation: None };
        let ring = Arc::<KeyRing>::default();
        ring.replace(&[CursorKey { id: 1, key: vec![1; 32], is_current: true }]);
        let incarnation = Incarnation { number: 0, since_xid: 0 };
        let seal = CursorSeal::new(ring, OrgId::for_tests(1), incarnation);
        let open = |(_, cursor): (_, String)| seal.open(Epoch::default(), &cursor).expect("opens").id;
        batch.rendered(&seal, |_, position| position.sealed().0).map(open).collect()
    }

    #[test]
    fn the_last_event_of_a_part_covers_its_point_if_the_node_has_read_all_of_it() {
        let points = [point(10, 100), point(20, 200), point(30, 300), point(40, 400)];
        let [first, second, third, fourth] = &points;
        let events = [(110, 11), (120, 12), (210, 21), (220, 22), (310, 31), (320, 32)];
        let since = cursor(first, second, 105);
        let all = cursor_ids(since.clone(), cursor(third, fourth, 400), &events);
        assert_eq!(all, [110, 200, 210, 300, 310, 400]);
        // The node has read a page of its last batch, whose other pages may have more events.
        let page = cursor_ids(since.clone(), cursor(third, fourth, 330), &events);
        assert_eq!(page, [110, 200, 210, 300, 310, 320]);
        // The node is within the client's own batch.
        let own = cursor_ids(since, cursor(first, second, 130), &events[..2]);
        assert_eq!(own, [110, 120]);
    }
}
