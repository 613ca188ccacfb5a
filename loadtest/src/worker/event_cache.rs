//! Recently parsed events. All sockets of an organisation receive the same bytes, so an event is parsed once,
//! strictly, and afterwards recognised by its bytes. All bytes are compared, so one event is never mistaken
//! for another.

use std::rc::Rc;

use crate::wire::Event;

/// Approximate number of events over all organisations; each has some hundred bytes.
const EVENTS: usize = 4096;
const EVENTS_PER_ORG: std::ops::RangeInclusive<usize> = 4..=64;

/// Recent events of every organisation.
pub(super) struct EventCache {
    orgs: Vec<OrgEvents>,
    capacity: usize,
}

/// The recent events of one organisation. New ones overwrite the oldest.
#[derive(Default)]
struct OrgEvents {
    events: Vec<(Box<[u8]>, Rc<Event>)>,
    next: usize,
}

impl EventCache {
    pub(super) fn new(orgs: usize) -> Self {
        let capacity = (EVENTS / orgs.max(1)).clamp(*EVENTS_PER_ORG.start(), *EVENTS_PER_ORG.end());
        Self { orgs: (0..orgs).map(|_| OrgEvents::default()).collect(), capacity }
    }

    /// Finds an event by its bytes. `hint` belongs to the socket: the index of the last event that it found.
    /// The search begins behind it, because sockets receive the same events in the same order.
    pub(super) fn find(&self, org: usize, hint: &mut usize, bytes: &[u8]) -> Option<Rc<Event>> {
        let events = &self.orgs[org].events;
        for distance in 1..=events.len() {
            let at = (*hint + distance) % events.len();
            if *events[at].0 == *bytes {
                *hint = at;
                return Some(Rc::clone(&events[at].1));
            }
        }
        None
    }

    /// Adds a parsed event.
    pub(super) fn insert(&mut self, org: usize, hint: &mut usize, bytes: &[u8], event: Event) -> Rc<Event> {
        let event = Rc::new(event);
        let org = &mut self.orgs[org];
        let entry = (Box::from(bytes), Rc::clone(&event));
        *hint = org.next;
        match org.events.get_mut(org.next) {
            Some(oldest) => *oldest = entry,
            None => org.events.push(entry),
        }
        org.next = (org.next + 1) % self.capacity;
        event
    }
}
