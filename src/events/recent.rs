//! The recent events of each organisation, in memory: most of those who come back after a moment are
//! served from here, so that a storm of reconnects does not become a storm of queries.
//!
//! What is here is complete from a known point on; who stands before it is served from the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::cursor::{Cursor, Point};
use super::log::LoggedEvent;
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
pub struct Recent {
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

impl Recent {
    /// Nothing is kept yet, and nothing is complete.
    #[must_use]
    pub fn new(limits: RecentLimits) -> Self {
        Self { limits, window: Mutex::default() }
    }

    /// Begins anew at this point.
    pub(super) fn reset(&self, start: Arc<Point>) {
        *lock(&self.window) = Window { start, ..Window::default() };
    }

    /// Keeps what was read; `to` covers all of it.
    pub(super) fn push(&self, to: &Arc<Point>, events: &[LoggedEvent]) {
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
        until: &Point,
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
