//! Concurrency limits: how many permits exist, in total and by key.
//!
//! A permit is counted until it is dropped. There are never more keys than permits, so the total bounds the
//! memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::sparse::shrink;
use crate::sync::lock;

/// Counters of permits, with their maxima.
#[derive(Debug)]
pub(super) struct Counts<K> {
    total_max: usize,
    each_max: usize,
    counted: Mutex<Counted<K>>,
}

#[derive(Debug)]
struct Counted<K> {
    total: usize,
    each: HashMap<K, usize>,
}

/// Maximum that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Permits of all keys together.
    Total,
    /// Permits of this key.
    Each,
}

/// One counted permit.
#[derive(Debug)]
pub(super) struct Permit<K: Eq + Hash> {
    counts: Arc<Counts<K>>,
    key: Option<K>,
}

impl<K: Clone + Eq + Hash> Counts<K> {
    pub(super) fn new(total_max: usize, each_max: usize) -> Arc<Self> {
        let counted = Mutex::new(Counted { total: 0, each: HashMap::new() });
        Arc::new(Self { total_max, each_max, counted })
    }

    /// Takes a permit. Without a key it counts in the total only.
    ///
    /// # Errors
    /// When a maximum is reached.
    pub(super) fn take(self: &Arc<Self>, key: Option<K>) -> Result<Permit<K>, Full> {
        let mut counted = lock(&self.counted);
        if counted.total >= self.total_max {
            return Err(Full::Total);
        }
        if let Some(key) = &key {
            let each = counted.each.entry(key.clone()).or_default();
            if *each >= self.each_max {
                // With a maximum of 0 the entry was created just now, and must not stay behind.
                if *each == 0 {
                    counted.each.remove(key);
                }
                return Err(Full::Each);
            }
            *each += 1;
        }
        counted.total += 1;
        Ok(Permit { counts: Arc::clone(self), key })
    }

    pub(super) fn total(&self) -> usize {
        lock(&self.counted).total
    }

    pub(super) fn is_full(&self) -> bool {
        self.total() >= self.total_max
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut counted = lock(&self.counts.counted);
        counted.total -= 1;
        if let Some(key) = &self.key
            && let Some(each) = counted.each.get_mut(key)
        {
            *each -= 1;
            if *each == 0 {
                counted.each.remove(key);
                shrink(&mut counted.each);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_frees_its_place_and_its_entry() {
        let counts = Counts::new(3, 2);
        let first = counts.take(Some("a")).expect("room");
        let second = counts.take(Some("a")).expect("room");
        assert_eq!(counts.take(Some("a")).err(), Some(Full::Each));
        let other = counts.take(None).expect("room");
        assert_eq!(counts.take(Some("b")).err(), Some(Full::Total));
        assert!(counts.is_full());
        drop(first);
        let third = counts.take(Some("a")).expect("room again");
        drop((second, third, other));
        let counted = lock(&counts.counted);
        assert_eq!((counted.total, counted.each.len()), (0, 0));
    }
}
