//! The bookkeeping of the queue: places, waiters, the order of organisations, and who holds how much memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ReplayQueueLimits;
use super::place::{PlaceId, Queued};
use crate::org::OrgId;

/// Everything behind the queue's lock.
#[derive(Debug)]
pub(super) struct State<W> {
    orgs: HashMap<OrgId, OrgQueue<W>>,
    /// Organisations that have waiters and no read, each once.
    order: VecDeque<OrgId>,
    places: usize,
    place_bytes: usize,
    /// Reserved bytes of all organisations.
    reserved: usize,
    /// The part of them that is being reclaimed.
    reclaiming: usize,
    last_id: u64,
}

#[derive(Debug)]
struct OrgQueue<W> {
    places: BTreeMap<PlaceId, Taken>,
    place_bytes: usize,
    /// Waiters that arrived while no read was under way, or during the current one. They share the next read.
    waiters: BTreeMap<PlaceId, W>,
    /// Groups of waiters from reads that were split. Each group has a read of its own.
    groups: VecDeque<BTreeMap<PlaceId, W>>,
    is_reading: bool,
    is_queued: bool,
    reserved: usize,
    /// Reservations whose events are being sent, oldest first.
    held: BTreeMap<u64, Held>,
}

/// A place that a resume has taken.
#[derive(Debug)]
struct Taken {
    bytes: usize,
    evicted: CancellationToken,
}

/// A reservation whose events are being sent.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: usize,
    pub(super) since: Instant,
    pub(super) reclaimed: CancellationToken,
}

/// Decision about the next read.
#[derive(Debug)]
pub(super) enum Turn<W> {
    /// This organisation reads. Its reservation has this number.
    Read { org: OrgId, waiters: Vec<W>, id: u64 },
    /// Nothing to read, or no memory. With a time: memory can be reclaimed then.
    Wait(Option<Instant>),
}

impl<W> Default for State<W> {
    fn default() -> Self {
        Self {
            orgs: HashMap::new(),
            order: VecDeque::new(),
            places: 0,
            place_bytes: 0,
            reserved: 0,
            reclaiming: 0,
            last_id: 0,
        }
    }
}

impl<W> Default for OrgQueue<W> {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            place_bytes: 0,
            waiters: BTreeMap::new(),
            groups: VecDeque::new(),
            is_reading: false,
            is_queued: false,
            reserved: 0,
            held: BTreeMap::new(),
        }
    }
}

impl<W: Queued> State<W> {
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// Takes a place, unless the organisation has used its share: half of all places, and half of their
    /// bytes. If none is free, the organisation that has most loses its newest place. So every organisation
    /// gets its part, however many others take all that they get.
    pub(super) fn enter(
        &mut self,
        org: OrgId,
        bytes: usize,
        limits: &ReplayQueueLimits,
    ) -> Option<(PlaceId, CancellationToken)> {
        let (own, own_bytes) = self.orgs.get(&org).map_or((0, 0), |o| (o.places.len(), o.place_bytes));
        if own >= limits.places_max / 2 || own_bytes + bytes > limits.place_bytes_max / 2 {
            return None;
        }
        while self.places >= limits.places_max {
            self.evict_newest(own + 1, |queue| queue.places.len())?;
        }
        while self.place_bytes + bytes > limits.place_bytes_max {
            self.evict_newest(own_bytes + bytes, |queue| queue.place_bytes)?;
        }
        let id = PlaceId(self.next_id());
        let evicted = CancellationToken::new();
        let queue = self.orgs.entry(org).or_default();
        queue.places.insert(id, Taken { bytes, evicted: evicted.clone() });
        queue.place_bytes += bytes;
        self.places += 1;
        self.place_bytes += bytes;
        Some((id, evicted))
    }

    /// Evicts the newest place of the organisation that uses most, if that is more than `than`.
    fn evict_newest(&mut self, than: usize, used: impl Fn(&OrgQueue<W>) -> usize) -> Option<()> {
        let (org, queue) = self.orgs.iter().max_by_key(|(_, queue)| used(queue))?;
        if used(queue) <= than {
            return None;
        }
        let (org, (id, taken)) = (*org, queue.places.last_key_value()?);
        taken.evicted.cancel();
        let id = *id;
        self.leave(org, id);
        Some(())
    }

    /// Frees a place. Returns its waiter, if the waiter is still queued.
    pub(super) fn leave(&mut self, org: OrgId, id: PlaceId) -> Option<W> {
        let queue = self.orgs.get_mut(&org)?;
        let bytes = queue.places.remove(&id)?.bytes;
        queue.place_bytes -= bytes;
        self.places -= 1;
        self.place_bytes -= bytes;
        let waiter = queue.remove(id);
        if queue.is_queued && !queue.has_waiters() {
            queue.is_queued = false;
            self.order.retain(|queued| *queued != org);
        }
        self.forget_if_idle(org);
        waiter
    }

    pub(super) fn push(&mut self, org: OrgId, waiter: W) {
        self.orgs.entry(org).or_default().waiters.insert(waiter.place(), waiter);
        self.enqueue(org);
    }

    /// Puts groups back, without the waiters whose place is free by now.
    pub(super) fn requeue(&mut self, org: OrgId, groups: Vec<Vec<W>>) {
        let queue = self.orgs.entry(org).or_default();
        for group in groups.into_iter().rev() {
            let group: BTreeMap<_, _> = group
                .into_iter()
                .map(|waiter| (waiter.place(), waiter))
                .filter(|(place, _)| queue.places.contains_key(place))
                .collect();
            if !group.is_empty() {
                queue.groups.push_front(group);
            }
        }
    }

    /// Reserves memory without a read, unless the organisation has used its share or only the memory of the
    /// next read is left.
    pub(super) fn reserve(&mut self, org: OrgId, held: Held, limits: &ReplayQueueLimits) -> Option<u64> {
        let own = self.orgs.get(&org).map_or(0, |queue| queue.reserved);
        if own + held.bytes > limits.org_bytes_max
            || self.reserved + held.bytes + limits.read_bytes > limits.bytes_max
        {
            return None;
        }
        let id = self.next_id();
        self.reserved += held.bytes;
        let queue = self.orgs.entry(org).or_default();
        queue.reserved += held.bytes;
        queue.held.insert(id, held);
        Some(id)
    }

    /// Chooses the organisation that reads next.
    pub(super) fn next_turn(&mut self, limits: &ReplayQueueLimits, now: Instant) -> Turn<W> {
        let read = limits.read_bytes;
        // An organisation whose clients still hold too much memory is skipped, and keeps its place in the
        // order.
        let mut within_share = self.order.iter().enumerate().filter_map(|(index, org)| {
            let reserved = self.orgs.get(org).map_or(0, |queue| queue.reserved);
            (reserved + read <= limits.org_bytes_max).then_some((index, reserved))
        });
        let is_scarce = self.reserved + 2 * read > limits.bytes_max;
        // The last free memory is a reserve for the organisations that hold least.
        let next =
            if is_scarce { within_share.min_by_key(|(_, reserved)| *reserved) } else { within_share.next() };
        let Some((index, reserved)) = next else { return Turn::Wait(None) };
        if self.reserved + read > limits.bytes_max {
            let excess = self.reserved + read - limits.bytes_max;
            return Turn::Wait(self.reclaim(excess, reserved, limits.hold_min, now));
        }
        let Some(org) = self.order.remove(index) else { return Turn::Wait(None) };
        let id = self.next_id();
        self.reserved += read;
        let queue = self.orgs.entry(org).or_default();
        queue.is_queued = false;
        queue.is_reading = true;
        queue.reserved += read;
        let waiters = queue.groups.pop_front().unwrap_or_else(|| std::mem::take(&mut queue.waiters));
        Turn::Read { org, waiters: waiters.into_values().collect(), id }
    }

    /// Reclaims memory from the organisations that hold most, and more than `than`: the oldest reservations
    /// first, and only those that are older than `hold_min`. Returns when the next one is old enough, if that
    /// is needed.
    fn reclaim(&mut self, excess: usize, than: usize, hold_min: Duration, now: Instant) -> Option<Instant> {
        while self.reclaiming < excess {
            let holders = self.orgs.values_mut().filter(|org| org.reserved > than && !org.held.is_empty());
            let oldest = holders.max_by_key(|org| org.reserved)?.held.first_entry()?;
            let reclaimable_at = oldest.get().since + hold_min;
            if reclaimable_at > now {
                return Some(reclaimable_at);
            }
            let held = oldest.remove();
            self.reclaiming += held.bytes;
            held.reclaimed.cancel();
        }
        None
    }

    pub(super) fn end_read(&mut self, org: OrgId) {
        if let Some(queue) = self.orgs.get_mut(&org) {
            queue.is_reading = false;
        }
        self.enqueue(org);
    }

    /// Releases bytes of a reservation, and keeps the rest as memory of events that are being sent.
    pub(super) fn shrink(
        &mut self,
        org: OrgId,
        id: u64,
        freed: usize,
        rest: Option<Held>,
        is_reclaimed: bool,
    ) {
        self.reserved -= freed;
        if is_reclaimed {
            self.reclaiming -= freed;
        }
        if let Some(queue) = self.orgs.get_mut(&org) {
            queue.reserved -= freed;
            match rest {
                Some(held) => queue.held.insert(id, held),
                None => queue.held.remove(&id),
            };
        }
        self.forget_if_idle(org);
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Puts the organisation at the back of the order if it has waiters, unless it is in the order or has a
    /// read.
    fn enqueue(&mut self, org: OrgId) {
        let Some(queue) = self.orgs.get_mut(&org) else { return };
        if queue.has_waiters() && !queue.is_reading && !queue.is_queued {
            queue.is_queued = true;
            self.order.push_back(org);
        }
    }

    fn forget_if_idle(&mut self, org: OrgId) {
        let is_idle = |queue: &OrgQueue<W>| {
            !queue.is_reading && queue.reserved == 0 && queue.places.is_empty() && !queue.has_waiters()
        };
        if self.orgs.get(&org).is_some_and(is_idle) {
            self.orgs.remove(&org);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let State { orgs, order, places, place_bytes, reserved, reclaiming, last_id: _ } = self;
        orgs.is_empty()
            && order.is_empty()
            && [places, place_bytes, reserved, reclaiming].iter().all(|n| **n == 0)
    }
}

impl<W> OrgQueue<W> {
    fn has_waiters(&self) -> bool {
        !self.waiters.is_empty() || !self.groups.is_empty()
    }

    /// Removes a waiter, and its group if that is empty then.
    fn remove(&mut self, place: PlaceId) -> Option<W> {
        let waiter = self.waiters.remove(&place);
        let waiter = waiter.or_else(|| self.groups.iter_mut().find_map(|group| group.remove(&place)));
        self.groups.retain(|group| !group.is_empty());
        waiter
    }
}
