//! Whose turn it is to have the log read: organisations in a ring, each with one read at a time, and a
//! bound on the bytes that replays hold.
//!
//! Pure bookkeeping: no I/O, and no idea of what a waiter is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::sync::lock;

/// How much may wait, and how much may be held.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnLimits {
    /// Waiters of all organisations together.
    pub(super) waiting_max: usize,
    /// Bytes set aside for a read when it begins.
    pub(super) read_bytes: usize,
    /// Bytes of all organisations together.
    pub(super) bytes_max: usize,
    /// Bytes of one organisation.
    pub(super) org_bytes_max: usize,
}

/// Who waits, who reads, and what is held.
#[derive(Debug)]
pub(super) struct ReplayQueue<W> {
    limits: TurnLimits,
    metrics: Arc<Metrics>,
    state: Mutex<State<W>>,
    /// There may be a turn to take. Whoever takes one passes the word on.
    changed: Notify,
}

#[derive(Debug)]
struct State<W> {
    orgs: HashMap<OrgId, Org<W>>,
    /// Those who wait and don't read, each once.
    ring: VecDeque<OrgId>,
    waiting: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Org<W> {
    /// They came while nobody read, or during the read, and share the next one.
    fresh: Vec<W>,
    /// A read that was too large, in parts.
    parts: VecDeque<Vec<W>>,
    is_reading: bool,
    is_in_ring: bool,
    bytes: usize,
}

/// An organisation's turn: the waiters who share one read. Ends when dropped.
#[derive(Debug)]
pub(super) struct Turn<W> {
    pub(super) org: OrgId,
    pub(super) waiters: Vec<W>,
    /// What is set aside for the read.
    pub(super) held: MemoryReservation<W>,
}

/// Bytes that a replay holds, until it is dropped.
#[derive(Debug)]
pub(super) struct MemoryReservation<W> {
    turns: Arc<ReplayQueue<W>>,
    org: OrgId,
    bytes: usize,
    /// Until then its organisation has no other turn.
    is_reading: bool,
}

impl<W> ReplayQueue<W> {
    pub(super) fn new(limits: TurnLimits, metrics: Arc<Metrics>) -> Self {
        let state = State { orgs: HashMap::new(), ring: VecDeque::new(), waiting: 0, bytes: 0 };
        Self { limits, metrics, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits for a turn of this organisation. False where too many wait.
    pub(super) fn push(&self, org: OrgId, waiter: W) -> bool {
        {
            let mut state = lock(&self.state);
            if state.waiting >= self.limits.waiting_max {
                return false;
            }
            state.waiting += 1;
            state.org(org).fresh.push(waiter);
            state.enlist(org);
        }
        self.changed.notify_one();
        true
    }

    /// The next turn, when there is one and room for it.
    pub(super) async fn next(self: &Arc<Self>) -> Turn<W> {
        loop {
            if let Some(turn) = self.try_next() {
                self.changed.notify_one();
                return turn;
            }
            self.changed.notified().await;
        }
    }

    fn try_next(self: &Arc<Self>) -> Option<Turn<W>> {
        let mut state = lock(&self.state);
        let bytes = self.limits.read_bytes;
        if state.bytes + bytes > self.limits.bytes_max {
            return None;
        }
        // An organisation whose clients still hold much keeps its place and is passed over.
        let may = |org: &OrgId| {
            state.orgs.get(org).is_some_and(|of_org| of_org.bytes + bytes <= self.limits.org_bytes_max)
        };
        let at = state.ring.iter().position(may)?;
        let org = state.ring.remove(at)?;
        let of_org = state.org(org);
        of_org.is_in_ring = false;
        of_org.is_reading = true;
        of_org.bytes += bytes;
        let waiters = of_org.parts.pop_front().unwrap_or_else(|| std::mem::take(&mut of_org.fresh));
        state.waiting -= waiters.len();
        state.bytes += bytes;
        self.metrics.replay_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        let held = MemoryReservation { turns: Arc::clone(self), org, bytes, is_reading: true };
        Some(Turn { org, waiters, held })
    }

    /// Puts back parts of a read that was too large: they come one by one, each in a turn of its own, before
    /// those who came meanwhile.
    pub(super) fn put_back(&self, org: OrgId, parts: [Vec<W>; 2]) {
        let mut state = lock(&self.state);
        for part in parts.into_iter().rev().filter(|part| !part.is_empty()) {
            state.waiting += part.len();
            state.org(org).parts.push_front(part);
        }
    }
}

impl<W> State<W> {
    fn org(&mut self, org: OrgId) -> &mut Org<W> {
        self.orgs.entry(org).or_insert_with(|| Org {
            fresh: Vec::new(),
            parts: VecDeque::new(),
            is_reading: false,
            is_in_ring: false,
            bytes: 0,
        })
    }

    /// At the end of the ring, unless it is there or reads.
    fn enlist(&mut self, org: OrgId) {
        let of_org = self.org(org);
        let waits = !of_org.fresh.is_empty() || !of_org.parts.is_empty();
        if waits && !of_org.is_reading && !of_org.is_in_ring {
            of_org.is_in_ring = true;
            self.ring.push_back(org);
        }
    }
}

impl<W> MemoryReservation<W> {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The read has ended, and brought so much. The organisation goes to the end of the ring.
    pub(super) fn keep(&mut self, bytes: usize) {
        {
            let mut state = lock(&self.turns.state);
            let freed = self.bytes.saturating_sub(bytes);
            self.bytes -= freed;
            let was_reading = std::mem::replace(&mut self.is_reading, false);
            state.bytes -= freed;
            let of_org = state.org(self.org);
            of_org.bytes -= freed;
            of_org.is_reading &= !was_reading;
            state.enlist(self.org);
            let is_idle = state
                .orgs
                .get(&self.org)
                .is_some_and(|o| !o.is_reading && o.bytes == 0 && o.fresh.is_empty() && o.parts.is_empty());
            if is_idle {
                state.orgs.remove(&self.org);
            }
            self.turns.metrics.replay_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        }
        self.turns.changed.notify_one();
    }
}

impl<W> Drop for MemoryReservation<W> {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const LIMITS: TurnLimits =
        TurnLimits { waiting_max: 1000, read_bytes: 10, bytes_max: 40, org_bytes_max: 20 };

    fn turns() -> Arc<ReplayQueue<u32>> {
        Arc::new(ReplayQueue::new(LIMITS, Arc::default()))
    }

    fn org(n: u128) -> OrgId {
        OrgId::for_tests(n)
    }

    #[test]
    fn who_waits_alone_waits_for_one_turn_of_each_other_at_most() {
        let turns = turns();
        for n in 0..500 {
            assert!(turns.push(org(1), n));
        }
        let first = turns.try_next().expect("a turn");
        assert_eq!((first.org, first.waiters.len()), (org(1), 500));
        for n in 0..200 {
            assert!(turns.push(org(1), n));
        }
        assert!(turns.push(org(2), 0));
        // While one read of an organisation is under way it has no other.
        let second = turns.try_next().expect("a turn");
        assert_eq!(second.org, org(2));
        assert!(turns.try_next().is_none());
        // Whoever came during the read shares the next.
        drop(first);
        assert!(turns.push(org(3), 0));
        let third = turns.try_next().expect("a turn");
        assert_eq!((third.org, third.waiters.len()), (org(1), 200));
        assert_eq!(turns.try_next().expect("a turn").org, org(3));
    }

    #[test]
    fn a_split_read_gives_way_to_others_between_its_parts() {
        let turns = turns();
        for n in 0..4 {
            turns.push(org(1), n);
        }
        let mut turn = turns.try_next().expect("a turn");
        turns.push(org(1), 4);
        turns.push(org(2), 0);
        let older = turn.waiters.split_off(2);
        turns.put_back(org(1), [std::mem::take(&mut turn.waiters), older]);
        drop(turn);
        let orders: Vec<_> =
            std::iter::from_fn(|| turns.try_next().map(|t| (t.org, t.waiters.clone()))).collect();
        assert_eq!(
            orders,
            [(org(2), vec![0]), (org(1), vec![0, 1]), (org(1), vec![2, 3]), (org(1), vec![4])]
        );
    }

    #[test]
    fn what_is_held_is_bounded_for_all_and_for_each() {
        let turns = turns();
        let mut held = Vec::new();
        for n in 0..2 {
            turns.push(org(1), n);
            let mut turn = turns.try_next().expect("a turn");
            turn.held.keep(10);
            held.push(turn);
        }
        // The first has its share, and is passed over; the others are not.
        turns.push(org(1), 2);
        for n in 2..5 {
            turns.push(org(n), 0);
        }
        held.push(turns.try_next().expect("a turn"));
        held.push(turns.try_next().expect("a turn"));
        assert_eq!((held[2].org, held[3].org), (org(2), org(3)));
        assert!(turns.try_next().is_none());
        assert_eq!(lock(&turns.state).bytes, LIMITS.bytes_max);
        // What is given back is there for the one that has kept its place.
        held.swap_remove(0);
        assert_eq!(turns.try_next().expect("a turn").org, org(1));
        held.clear();
        while turns.try_next().is_some() {}
        let state = lock(&turns.state);
        assert_eq!((state.bytes, state.waiting, state.orgs.len()), (0, 0, 0));
    }

    #[test]
    fn too_many_are_refused() {
        let turns = turns();
        for n in 0..1000 {
            assert!(turns.push(org(1 + u128::from(n % 7)), n));
        }
        assert!(!turns.push(org(9), 0));
    }

    #[tokio::test]
    async fn those_who_take_turns_are_woken() {
        let turns = turns();
        let taken = Arc::new(AtomicUsize::new(0));
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let (turns, taken) = (Arc::clone(&turns), Arc::clone(&taken));
                tokio::spawn(async move {
                    loop {
                        let turn = turns.next().await;
                        tokio::task::yield_now().await;
                        taken.fetch_add(turn.waiters.len(), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let all = async {
            while taken.load(Ordering::Relaxed) < 200 {
                tokio::task::yield_now().await;
            }
        };
        for n in 0..200 {
            turns.push(org(u128::from(n % 3)), n);
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("every turn was taken");
        for taker in takers {
            taker.abort();
        }
    }
}
