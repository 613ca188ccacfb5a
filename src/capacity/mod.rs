//! A capacity that several holders share, such as the organisations whose requests need memory.
//!
//! A holder may take no more than what is still free after it. So one holder gets half, and however many
//! holders take all that they get, each of them leaves as much as it has. A holder without a portion may take
//! whatever is free, or a small portion only, and a reserve is for such holders alone. Requests of a holder
//! that wait form a queue (`queues`). This module must not know what is counted.

mod queues;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::sparse::shrink;
use crate::sync::lock;
pub(crate) use queues::{HolderQueues, QueuedRequest};

/// A number of units that holders share.
#[derive(Debug)]
pub(crate) struct Capacity<K> {
    units: usize,
    /// Units that a holder with a portion leaves free.
    reserve: usize,
    /// The largest first portion of a holder that need not leave as much as it takes.
    small_max: usize,
    used: Mutex<Used<K>>,
    freed: Notify,
}

#[derive(Debug)]
struct Used<K> {
    total: usize,
    holders: HashMap<K, usize>,
}

/// Units of one holder, which are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Portion<K: Copy + Eq + Hash> {
    capacity: Arc<Capacity<K>>,
    holder: K,
    units: usize,
}

impl<K: Copy + Eq + Hash> Capacity<K> {
    /// A capacity of which nothing is used.
    pub(crate) fn new(units: usize) -> Arc<Self> {
        Self::with(units, 0, units)
    }

    /// A capacity of which a holder that has a portion leaves this many units free.
    pub(crate) fn with_reserve(units: usize, reserve: usize) -> Arc<Self> {
        Self::with(units, reserve, units)
    }

    /// A capacity for portions of different sizes. The first portion of a holder leaves as much as it takes
    /// too, unless it has at most this many units. Otherwise a few holders with one large portion each would
    /// use up all.
    pub(crate) fn with_small_portions(units: usize, small_max: usize) -> Arc<Self> {
        Self::with(units, 0, small_max)
    }

    fn with(units: usize, reserve: usize, small_max: usize) -> Arc<Self> {
        let used = Mutex::new(Used { total: 0, holders: HashMap::new() });
        Arc::new(Self { units, reserve, small_max, used, freed: Notify::new() })
    }

    /// Takes units for a holder. Returns none if they are beyond its share, or not free.
    pub(crate) fn try_take(self: &Arc<Self>, holder: K, units: usize) -> Option<Portion<K>> {
        self.add(holder, units).then(|| Portion { capacity: Arc::clone(self), holder, units })
    }

    /// Waits until the holder may take these units. The caller limits the time.
    pub(crate) async fn take(self: &Arc<Self>, holder: K, units: usize) -> Portion<K> {
        let mut freed = std::pin::pin!(self.freed.notified());
        loop {
            // Units that are freed from here on are noticed.
            freed.as_mut().enable();
            if let Some(portion) = self.try_take(holder, units) {
                return portion;
            }
            freed.as_mut().await;
            freed.set(self.freed.notified());
        }
    }

    /// Whether the holder has a portion.
    pub(crate) fn is_holder(&self, holder: K) -> bool {
        lock(&self.used).holders.contains_key(&holder)
    }

    fn add(&self, holder: K, units: usize) -> bool {
        if units == 0 {
            return true;
        }
        let mut used = lock(&self.used);
        let own = used.holders.get(&holder).copied().unwrap_or_default();
        let Some(free) = self.units.checked_sub(used.total + units) else { return false };
        let to_leave = match own {
            0 if units <= self.small_max => 0,
            0 => units,
            _ => self.reserve.max(own + units),
        };
        if free < to_leave {
            return false;
        }
        used.total += units;
        used.holders.insert(holder, own + units);
        true
    }

    fn free(&self, holder: K, units: usize) {
        if units == 0 {
            return;
        }
        let mut used = lock(&self.used);
        used.total -= units;
        if let Some(own) = used.holders.get_mut(&holder) {
            *own -= units;
            if *own == 0 {
                used.holders.remove(&holder);
                shrink(&mut used.holders);
            }
        }
        drop(used);
        self.freed.notify_waiters();
    }
}

impl<K: Copy + Eq + Hash> Portion<K> {
    /// Takes more units for the same holder. Returns false if they are beyond its share, or not free.
    #[must_use]
    pub(crate) fn grow(&mut self, units: usize) -> bool {
        let is_free = self.capacity.add(self.holder, units);
        self.units += if is_free { units } else { 0 };
        is_free
    }

    /// Frees all but these units.
    pub(crate) fn shrink_to(&mut self, units: usize) {
        let surplus = self.units.saturating_sub(units);
        self.units -= surplus;
        self.capacity.free(self.holder, surplus);
    }

    /// Number of units.
    pub(crate) fn units(&self) -> usize {
        self.units
    }
}

impl<K: Copy + Eq + Hash> Drop for Portion<K> {
    fn drop(&mut self) {
        self.capacity.free(self.holder, self.units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units that a holder gets if it takes all that it can, one by one.
    fn take_all(capacity: &Arc<Capacity<u32>>, holder: u32) -> Vec<Portion<u32>> {
        std::iter::from_fn(|| capacity.try_take(holder, 1)).collect()
    }

    #[test]
    fn however_many_holders_take_all_that_they_get_something_remains() {
        let capacity = Capacity::new(64);
        let held: Vec<_> = (1..=6).map(|holder| take_all(&capacity, holder)).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [32, 16, 8, 4, 2, 1]);
        let last = take_all(&capacity, 7);
        assert_eq!(last.len(), 1, "a holder without a portion gets what is free");
        assert!(capacity.try_take(8, 1).is_none());
        drop((held, last));
        assert!(!capacity.is_holder(7) && lock(&capacity.used).holders.is_empty());
        assert_eq!(lock(&capacity.used).total, 0);
    }

    #[test]
    fn the_reserve_is_for_holders_without_a_portion() {
        let capacity = Capacity::with_reserve(64, 32);
        let mut held = vec![take_all(&capacity, 1)];
        held.extend((2..=33).map(|holder| take_all(&capacity, holder)));
        let counts = held.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!((counts[0], &counts[1..]), (32, &[1; 32][..]));
        assert!(capacity.try_take(34, 1).is_none());
    }

    #[test]
    fn large_first_portions_leave_as_much_as_they_take() {
        let capacity = Capacity::with_small_portions(64, 2);
        let largest = |holder| (1..=64).rev().find_map(|units| capacity.try_take(holder, units));
        let held: Vec<_> = (1..=6).filter_map(largest).collect();
        assert_eq!(held.iter().map(Portion::units).collect::<Vec<_>>(), [32, 16, 8, 4, 2, 2]);
        assert!(capacity.try_take(7, 1).is_none());
    }

    #[test]
    fn holders_that_take_in_turns_get_equal_shares() {
        let capacity = Capacity::new(60);
        let mut held: Vec<Vec<_>> = vec![Vec::new(), Vec::new()];
        for _ in 0..60 {
            for (holder, portions) in (1..).zip(&mut held) {
                portions.extend(capacity.try_take(holder, 1));
            }
        }
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [20, 20]);
    }

    #[test]
    fn a_portion_grows_within_the_share_and_shrinks() {
        let capacity = Capacity::new(8);
        let mut portion = capacity.try_take(1, 1).expect("is free");
        assert!(portion.grow(3) && !portion.grow(1));
        assert_eq!(portion.units(), 4);
        portion.shrink_to(2);
        assert!(portion.grow(2));
        portion.shrink_to(9);
        assert_eq!(portion.units(), 4);
    }

    #[tokio::test]
    async fn a_waiting_holder_gets_units_as_soon_as_they_are_free() {
        let capacity = Capacity::new(2);
        let (first, second) = (capacity.take(1, 1).await, capacity.take(2, 1).await);
        let waiting = tokio::spawn({
            let capacity = Arc::clone(&capacity);
            async move { capacity.take(3, 1).await.units() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.await.expect("ends"), 1);
        drop(second);
    }
}
