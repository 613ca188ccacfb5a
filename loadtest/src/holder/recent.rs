//! Events that were read lately. All sockets of an organisation get the same bytes, so an event is
//! parsed once, strictly, and recognised by its bytes afterwards. It never takes one for another: all
//! bytes are compared.

use std::rc::Rc;

use crate::wire::Event;

/// Events that are kept over all organisations, roughly; each is some hundred bytes.
const KEPT: usize = 4096;
const KEPT_PER_ORG: std::ops::RangeInclusive<usize> = 4..=64;

pub(crate) struct Recent {
    rings: Vec<Ring>,
    size: usize,
}

#[derive(Default)]
struct Ring {
    kept: Vec<(Box<[u8]>, Rc<Event>)>,
    next: usize,
}

impl Recent {
    pub(crate) fn new(orgs: usize) -> Self {
        let size = (KEPT / orgs.max(1)).clamp(*KEPT_PER_ORG.start(), *KEPT_PER_ORG.end());
        Self { rings: (0..orgs).map(|_| Ring::default()).collect(), size }
    }

    /// Finds an event by its bytes. `hint` is the reader's own: where it found the last one.
    pub(crate) fn find(&self, org: usize, hint: &mut usize, bytes: &[u8]) -> Option<Rc<Event>> {
        let kept = &self.rings[org].kept;
        for step in 1..=kept.len() {
            let at = (*hint + step) % kept.len();
            if *kept[at].0 == *bytes {
                *hint = at;
                return Some(Rc::clone(&kept[at].1));
            }
        }
        None
    }

    pub(crate) fn keep(&mut self, org: usize, hint: &mut usize, bytes: &[u8], event: Event) -> Rc<Event> {
        let event = Rc::new(event);
        let ring = &mut self.rings[org];
        let entry = (Box::from(bytes), Rc::clone(&event));
        *hint = ring.next;
        match ring.kept.get_mut(ring.next) {
            Some(old) => *old = entry,
            None => ring.kept.push(entry),
        }
        ring.next = (ring.next + 1) % self.size;
        event
    }
}
