//! A token bucket for each key, in bounded memory however many keys there are.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::rate::{Bucket, Rate};
use crate::sync::lock;

/// Two generations of buckets. When the young one is full it becomes the old one, and the former old one
/// is forgotten: who comes again and again stays, and a flood of keys displaces what rested for longest.
/// Forgetting gives a fresh bucket to whoever was forgotten; what many keys may do together is the business
/// of a bucket that they share.
#[derive(Debug)]
pub(super) struct KeyedRateLimiter<K> {
    rate: Rate,
    /// Keys in one generation.
    generation_max: usize,
    generations: Mutex<Generations<K>>,
}

#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

impl<K: Copy + Eq + Hash> KeyedRateLimiter<K> {
    /// At most `keys_max` keys are remembered.
    pub(super) fn new(rate: Rate, keys_max: usize) -> Self {
        let generations = Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() });
        Self { rate, generation_max: (keys_max / 2).max(1), generations }
    }

    /// Takes one token of this key's bucket.
    ///
    /// # Errors
    /// How long until there is one.
    pub(super) fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut generations = lock(&self.generations);
        let Generations { young, old } = &mut *generations;
        if let Some(bucket) = young.get_mut(&key) {
            return bucket.take(self.rate, 1, now);
        }
        let mut bucket = old.remove(&key).unwrap_or_else(|| Bucket::full(now));
        let taken = bucket.take(self.rate, 1, now);
        if young.len() >= self.generation_max {
            *old = std::mem::take(young);
        }
        young.insert(key, bucket);
        taken
    }

    /// Keys that are remembered now.
    pub(super) fn len(&self) -> usize {
        let generations = lock(&self.generations);
        generations.young.len() + generations.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_who_keeps_coming_is_not_forgotten() {
        let (now, rate) = (Instant::now(), Rate::new(1, 10));
        let buckets = KeyedRateLimiter::new(rate, 1000);
        for _ in 0..10 {
            assert_eq!(buckets.take(0, now), Ok(()));
        }
        for stranger in 1..100_000_u32 {
            assert_eq!(buckets.take(stranger, now), Ok(()));
            if stranger % 400 == 0 {
                assert!(buckets.take(0, now).is_err(), "the flood washed the bucket away");
            }
            assert!(buckets.len() <= 1000, "{} keys", buckets.len());
        }
    }
}
