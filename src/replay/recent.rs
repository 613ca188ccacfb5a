//! The recent events of each organisation, in memory: most of those who come back after a moment are
//! served from here, so that a storm of reconnects does not become a storm of queries.
//!
//! What is here is complete from a known point on; who stands before it is served from the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::log::LoggedEvent;
use crate::log::cursor::{Cursor, Point};
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{Event, Topic};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct RecentLimits {
    /// Bytes of all organisations together.
    pub bytes_max: usize,
    /// Bytes of one organisation.
    pub org_bytes_max: usize,
}

/// What an event costs besides itself until it is forgotten altogether; so the record of what was
/// dropped is bounded too.
const ENTRY_BYTES: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub struct RecentEvents {
    limits: RecentLimits,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// Everything after it is here, but for organisations that have a later start of their own.
    start: Arc<Point>,
    /// By organisation; `None` has what concerns all.
    orgs: HashMap<Option<OrgId>, OrgWindow>,
    /// The oldest first: whose event, and the point that covers it.
    order: VecDeque<(Option<OrgId>, Arc<Point>)>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct OrgWindow {
    start: Option<Arc<Point>>,
    events: VecDeque<Kept>,
    bytes: usize,
    /// Events at the front of the window's `order` that were dropped here already.
    dropped: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    xid: u64,
    event: Arc<Event>,
    /// Covers the event and its whole batch.
    to: Arc<Point>,
}

impl RecentEvents {
    /// Nothing is kept yet, and nothing is complete.
    #[must_use]
    pub fn new(limits: RecentLimits) -> Self {
        Self { limits, window: Mutex::default() }
    }

    /// Begins anew at this point.
    pub(crate) fn reset(&self, start: Arc<Point>) {
        *lock(&self.window) = Window { start, ..Window::default() };
    }

    /// Keeps what was read; `to` covers all of it.
    pub(crate) fn push(&self, to: &Arc<Point>, events: &[LoggedEvent]) {
        let mut window = lock(&self.window);
        for LoggedEvent { org, xid, event } in events {
            let kept = Kept { xid: *xid, event: Arc::clone(event), to: Arc::clone(to) };
            let bytes = kept.event.memory_bytes();
            window.bytes += bytes + ENTRY_BYTES;
            window.order.push_back((*org, Arc::clone(to)));
            let of_org = window.orgs.entry(*org).or_default();
            of_org.bytes += bytes;
            of_org.events.push_back(kept);
            let mut freed = 0;
            while of_org.bytes > self.limits.org_bytes_max {
                freed += of_org.drop_oldest();
                of_org.dropped += 1;
            }
            window.bytes -= freed;
        }
        while window.bytes > self.limits.bytes_max {
            window.drop_oldest();
        }
    }

    /// The events of an organisation on a topic that `until` covers and `since` doesn't, with their
    /// transaction ids, in the order of their ids. None: they are not all here.
    #[must_use]
    pub fn between(
        &self,
        org: OrgId,
        topic: &Topic,
        since: &Cursor,
        until: &Cursor,
    ) -> Option<Vec<(u64, Arc<Event>)>> {
        let window = lock(&self.window);
        let mut found = Vec::new();
        for whose in [None, Some(org)] {
            let of_org = window.orgs.get(&whose);
            let start = of_org.and_then(|o| o.start.as_ref()).unwrap_or(&window.start);
            if !since.from.includes(start) || !since.from.includes(&window.start) {
                return None;
            }
            let events = of_org.into_iter().flat_map(|o| &o.events);
            found.extend(
                events
                    .filter(|kept| kept.event.reaches(topic))
                    .filter(|kept| {
                        until.covers(kept.xid, kept.event.id) && !since.covers(kept.xid, kept.event.id)
                    })
                    .map(|kept| (kept.xid, Arc::clone(&kept.event))),
            );
        }
        found.sort_by_key(|(_, event)| event.id);
        Some(found)
    }
}

impl OrgWindow {
    /// Returns the bytes that it freed.
    fn drop_oldest(&mut self) -> usize {
        let Some(kept) = self.events.pop_front() else { return 0 };
        let bytes = kept.event.memory_bytes();
        self.bytes -= bytes;
        self.start = Some(kept.to);
        bytes
    }
}

impl Window {
    fn drop_oldest(&mut self) {
        let Some((org, to)) = self.order.pop_front() else { return };
        self.start = to;
        self.bytes -= ENTRY_BYTES;
        let Some(of_org) = self.orgs.get_mut(&org) else { return };
        if of_org.dropped > 0 {
            of_org.dropped -= 1;
        } else {
            self.bytes -= of_org.drop_oldest();
        }
        if of_org.events.is_empty() && of_org.dropped == 0 {
            // Its own start is no later than the window's now.
            self.orgs.remove(&org);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::cursor::Epoch;

    const ORG: u128 = 1;
    const OTHER: u128 = 2;

    /// A point that covers the transactions below `xmax`, and events up to the same number.
    fn point(xmax: u64) -> Arc<Point> {
        let snapshot = format!("{xmax}:{xmax}:").parse().expect("a snapshot");
        Arc::new(Point { snapshot, max_id: i64::try_from(xmax).expect("small") - 1 })
    }

    fn at(xmax: u64) -> Cursor {
        Cursor::at(Epoch::default(), point(xmax))
    }

    /// An event whose transaction has the same number as itself.
    fn logged(org: u128, id: u64) -> LoggedEvent {
        let event = Event {
            id: i64::try_from(id).expect("small"),
            at: time::OffsetDateTime::UNIX_EPOCH,
            topic: Topic::parse("calls").expect("a topic"),
            entity_topic: None,
            name: "call.created".into(),
            data: "{}".into(),
            old: None,
            truncated: false,
            cursor: "".into(),
        };
        LoggedEvent { org: Some(OrgId::for_tests(org)), xid: id, event: Arc::new(event) }
    }

    fn between(recent: &RecentEvents, since: u64, until: u64) -> Option<Vec<i64>> {
        let since = at(since);
        let calls = Topic::parse("calls").expect("a topic");
        let found = recent.between(OrgId::for_tests(ORG), &calls, &since, &at(until))?;
        Some(found.into_iter().map(|(_, event)| event.id).collect())
    }

    fn keeping(events: usize) -> RecentEvents {
        let bytes = events * (logged(ORG, 1).event.memory_bytes() + ENTRY_BYTES);
        let recent = RecentEvents::new(RecentLimits { bytes_max: bytes, org_bytes_max: bytes });
        recent.reset(point(10));
        recent
    }

    #[test]
    fn gives_what_lies_between_and_nothing_beyond() {
        let recent = keeping(100);
        recent.push(&point(13), &[logged(ORG, 10), logged(OTHER, 11), logged(ORG, 12)]);
        recent.push(&point(15), &[logged(ORG, 13), logged(ORG, 14)]);
        assert_eq!(between(&recent, 10, 15), Some(vec![10, 12, 13, 14]));
        assert_eq!(between(&recent, 13, 15), Some(vec![13, 14]));
        // The node was told of the second batch after this session had its place.
        assert_eq!(between(&recent, 10, 13), Some(vec![10, 12]));
        assert_eq!(between(&recent, 15, 15), Some(vec![]));
        // From before the node was there.
        assert_eq!(between(&recent, 9, 15), None);
    }

    #[test]
    fn forgets_the_oldest_and_says_so() {
        let recent = keeping(3);
        for id in 10..15 {
            recent.push(&point(id + 1), &[logged(ORG, id)]);
        }
        assert_eq!(between(&recent, 12, 15), Some(vec![12, 13, 14]));
        assert_eq!(between(&recent, 11, 15), None);
        assert!(lock(&recent.window).bytes <= recent.limits.bytes_max);
    }

    #[test]
    fn one_organisation_does_not_push_out_the_others() {
        let size = logged(ORG, 1).event.memory_bytes();
        let limits = RecentLimits { bytes_max: 100 * (size + ENTRY_BYTES), org_bytes_max: 3 * size };
        let recent = RecentEvents::new(limits);
        recent.reset(point(10));
        recent.push(&point(11), &[logged(ORG, 10)]);
        for id in 11..60 {
            recent.push(&point(id + 1), &[logged(OTHER, id)]);
        }
        assert_eq!(between(&recent, 10, 60), Some(vec![10]));
        let others = at(11);
        let calls = Topic::parse("calls").expect("a topic");
        assert!(recent.between(OrgId::for_tests(OTHER), &calls, &others, &at(60)).is_none());
        // In the long run everything is bounded, also the record of what was dropped.
        for id in 60..1000 {
            recent.push(&point(id + 1), &[logged(OTHER, id)]);
        }
        let window = lock(&recent.window);
        assert!(window.bytes <= limits.bytes_max);
        assert!(window.order.len() * ENTRY_BYTES <= limits.bytes_max, "{}", window.order.len());
        let counted: usize =
            window.orgs.values().map(|org| org.bytes).sum::<usize>() + window.order.len() * ENTRY_BYTES;
        assert_eq!(counted, window.bytes);
    }
}
