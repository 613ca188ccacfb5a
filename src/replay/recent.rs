//! Recent events of each organisation, in memory. They serve most clients that reconnect after a short time,
//! so that a reconnect storm does not become a storm of queries.
//!
//! The events are complete from a known point on. A client whose cursor is older is served from the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::missed::is_missed;
use crate::cursor::{Cursor, Point};
use crate::log::LoggedEvent;
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{Event, Topic};

/// Limits of the recent events.
#[derive(Clone, Copy, Debug)]
pub struct RecentLimits {
    /// Most bytes of all organisations together.
    pub bytes_max: usize,
    /// Most bytes of one organisation.
    pub org_bytes_max: usize,
}

/// Bytes that the window counts for each event in addition to the event itself, until the window forgets it.
/// They also bound the entries of events that their organisation has dropped before.
const ENTRY_BYTES: usize = 64;

/// Most events in one chunk. Copying the chunks of a full window takes some microseconds.
const CHUNK_EVENTS: usize = 256;

/// The recent events of all organisations.
///
/// The tailer adds events under the lock that resumes take too. So a resume only copies the references to its
/// organisation's chunks under the lock, and searches them without it.
#[derive(Debug)]
pub struct RecentEvents {
    limits: RecentLimits,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// The window is complete after this point, except for organisations with a later start of their own.
    start: Arc<Point>,
    /// Events by organisation; `None` holds the control events to all organisations.
    orgs: HashMap<Option<OrgId>, OrgWindow>,
    /// For each event, oldest first: its organisation, and the point that covers it.
    order: VecDeque<(Option<OrgId>, Arc<Point>)>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct OrgWindow {
    /// The organisation's events are complete after this point, if it is later than the window's start.
    start: Option<Arc<Point>>,
    /// Events in the order of arrival, in chunks that resumes share. A chunk that a resume still reads is
    /// copied before it changes.
    chunks: VecDeque<Arc<VecDeque<RecentEvent>>>,
    bytes: usize,
    /// Number of the organisation's oldest entries in the window's `order` whose events are already dropped
    /// here.
    dropped: usize,
}

#[derive(Clone, Debug)]
struct RecentEvent {
    event: Arc<Event>,
    /// A point that covers the event and its whole batch.
    to: Arc<Point>,
}

impl RecentEvents {
    /// Creates an empty window. It serves no replay before the first [`Self::reset`].
    #[must_use]
    pub fn new(limits: RecentLimits) -> Self {
        Self { limits, window: Mutex::default() }
    }

    /// Drops all events. The window is complete from `start` on.
    pub fn reset(&self, start: Arc<Point>) {
        *lock(&self.window) = Window { start, ..Window::default() };
    }

    /// Adds the events of a page. The point `to` covers all of them.
    pub fn push(&self, to: &Arc<Point>, events: &[LoggedEvent]) {
        let mut window = lock(&self.window);
        for LoggedEvent { org, event } in events {
            let recent = RecentEvent { event: Arc::clone(event), to: Arc::clone(to) };
            let bytes = recent.event.memory_bytes();
            window.bytes += bytes + ENTRY_BYTES;
            window.order.push_back((*org, Arc::clone(to)));
            let org_window = window.orgs.entry(*org).or_default();
            org_window.bytes += bytes;
            org_window.push(recent);
            let mut freed = 0;
            while org_window.bytes > self.limits.org_bytes_max {
                freed += org_window.drop_oldest();
                org_window.dropped += 1;
            }
            window.bytes -= freed;
        }
        while window.bytes > self.limits.bytes_max {
            window.drop_oldest();
        }
    }

    /// Returns the organisation's events on a topic that `until` covers and `since` does not, in the order of
    /// their ids. Returns none if some of these events are no longer here.
    #[must_use]
    pub fn between(
        &self,
        org: OrgId,
        topic: &Topic,
        since: &Cursor,
        until: &Cursor,
    ) -> Option<Vec<Arc<Event>>> {
        let chunks = self.chunks(org, since)?;
        let missed = chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .filter(|recent| is_missed(&recent.event, topic, since, until));
        let mut found: Vec<_> = missed.map(|recent| Arc::clone(&recent.event)).collect();
        found.sort_by_key(|event| event.id);
        Some(found)
    }

    /// The chunks of the organisation's events, and of the control events to all organisations. Returns none
    /// if events that `since` does not cover are no longer here.
    fn chunks(&self, org: OrgId, since: &Cursor) -> Option<Vec<Arc<VecDeque<RecentEvent>>>> {
        let window = lock(&self.window);
        let mut chunks = Vec::new();
        for key in [None, Some(org)] {
            let org_window = window.orgs.get(&key);
            let start = org_window.and_then(|o| o.start.as_ref()).unwrap_or(&window.start);
            if !since.from.includes(start) || !since.from.includes(&window.start) {
                return None;
            }
            chunks.extend(org_window.into_iter().flat_map(|org_window| org_window.chunks.iter().cloned()));
        }
        Some(chunks)
    }
}

impl OrgWindow {
    fn push(&mut self, event: RecentEvent) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_EVENTS => Arc::make_mut(chunk).push_back(event),
            _ => self.chunks.push_back(Arc::new(VecDeque::from([event]))),
        }
    }

    /// Drops the oldest event, and returns the bytes that this freed.
    fn drop_oldest(&mut self) -> usize {
        let Some(chunk) = self.chunks.front_mut() else { return 0 };
        let Some(oldest) = Arc::make_mut(chunk).pop_front() else { return 0 };
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        let bytes = oldest.event.memory_bytes();
        self.bytes -= bytes;
        self.start = Some(oldest.to);
        bytes
    }
}

impl Window {
    fn drop_oldest(&mut self) {
        let Some((org, to)) = self.order.pop_front() else { return };
        self.start = to;
        self.bytes -= ENTRY_BYTES;
        let Some(org_window) = self.orgs.get_mut(&org) else { return };
        if org_window.dropped > 0 {
            org_window.dropped -= 1;
        } else {
            self.bytes -= org_window.drop_oldest();
        }
        if org_window.chunks.is_empty() && org_window.dropped == 0 {
            // The organisation's own start is no later than the window's start now.
            self.orgs.remove(&org);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;

    const ORG: u128 = 1;
    const OTHER: u128 = 2;

    /// A point that covers all transactions below `xmax`, and all events with a lower id than `xmax`.
    fn point(xmax: u64) -> Arc<Point> {
        let snapshot = format!("{xmax}:{xmax}:").parse().expect("a snapshot");
        Arc::new(Point { snapshot, max_id: i64::try_from(xmax).expect("small") - 1 })
    }

    fn at(xmax: u64) -> Cursor {
        Cursor::at(Epoch::default(), point(xmax))
    }

    /// An event whose id equals its transaction id.
    fn logged(org: u128, id: u64) -> LoggedEvent {
        let event = Event {
            id: i64::try_from(id).expect("small"),
            xid: id,
            at: time::OffsetDateTime::UNIX_EPOCH,
            topic: Topic::parse("calls").expect("a topic"),
            entity_topic: None,
            name: "call.created".into(),
            data: "{}".into(),
            old: None,
            truncated: false,
            needs_claim: false,
            traceparent: None,
            watch: None,
        };
        LoggedEvent { org: Some(OrgId::for_tests(org)), event: Arc::new(event) }
    }

    fn between(recent: &RecentEvents, since: u64, until: u64) -> Option<Vec<i64>> {
        let since = at(since);
        let calls = Topic::parse("calls").expect("a topic");
        let found = recent.between(OrgId::for_tests(ORG), &calls, &since, &at(until))?;
        Some(found.into_iter().map(|event| event.id).collect())
    }

    fn window_for(events: usize) -> RecentEvents {
        let bytes = events * (logged(ORG, 1).event.memory_bytes() + ENTRY_BYTES);
        let recent = RecentEvents::new(RecentLimits { bytes_max: bytes, org_bytes_max: bytes });
        recent.reset(point(10));
        recent
    }

    #[test]
    fn events_between_two_cursors_are_returned_and_no_others() {
        let recent = window_for(100);
        recent.push(&point(13), &[logged(ORG, 10), logged(OTHER, 11), logged(ORG, 12)]);
        recent.push(&point(15), &[logged(ORG, 13), logged(ORG, 14)]);
        assert_eq!(between(&recent, 10, 15), Some(vec![10, 12, 13, 14]));
        assert_eq!(between(&recent, 13, 15), Some(vec![13, 14]));
        // The second batch is newer than the position at which this session subscribed.
        assert_eq!(between(&recent, 10, 13), Some(vec![10, 12]));
        assert_eq!(between(&recent, 15, 15), Some(vec![]));
        // This cursor is older than the window.
        assert_eq!(between(&recent, 9, 15), None);
    }

    #[test]
    fn dropped_events_make_the_window_incomplete() {
        let recent = window_for(3);
        for id in 10..15 {
            recent.push(&point(id + 1), &[logged(ORG, id)]);
        }
        assert_eq!(between(&recent, 12, 15), Some(vec![12, 13, 14]));
        assert_eq!(between(&recent, 11, 15), None);
        assert!(lock(&recent.window).bytes <= recent.limits.bytes_max);
    }

    #[test]
    fn one_organisation_does_not_evict_the_events_of_others() {
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
        // After many more events everything is still bounded, even the entries of dropped events.
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
