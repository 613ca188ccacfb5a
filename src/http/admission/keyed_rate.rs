//! A rate limiter by key, in bounded memory for any number of keys.
//!
//! A store of our own, because the usual choice (`governor`) grows with the number of keys until somebody
//! sweeps it. A flood of addresses is exactly the case that this limiter is for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::rate::{Bucket, Rate};
use crate::sync::lock;

/// Token buckets by key, in two generations.
///
/// When the young generation is full it becomes the old one, and the former old one is evicted. So an active
/// key stays, and a flood of keys evicts the keys that have been idle for longest. An evicted key starts with
/// a full bucket again; a bucket that all keys share limits them together.
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
    /// A limiter that remembers at most `keys_max` keys.
    pub(super) fn new(rate: Rate, keys_max: usize) -> Self {
        let generations = Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() });
        Self { rate, generation_max: (keys_max / 2).max(1), generations }
    }

    /// Takes one token from the bucket of this key.
    ///
    /// # Errors
    /// The time until there is a token.
    pub(super) fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        self.take_many(key, 1, now)
    }

    /// Takes this many tokens from the bucket of this key, or none. More than its size counts as its size.
    ///
    /// # Errors
    /// The time until there are enough tokens.
    pub(super) fn take_many(&self, key: K, count: u32, now: Instant) -> Result<(), Duration> {
        let count = count.min(self.rate.burst.get());
        let mut generations = lock(&self.generations);
        let Generations { young, old } = &mut *generations;
        if let Some(bucket) = young.get_mut(&key) {
            return bucket.take(self.rate, count, now);
        }
        let mut bucket = old.remove(&key).unwrap_or_else(|| Bucket::full(now));
        let taken = bucket.take(self.rate, count, now);
        if young.len() >= self.generation_max {
            *old = std::mem::take(young);
        }
        young.insert(key, bucket);
        taken
    }

    /// Whether the bucket of this key has a token. Takes none.
    ///
    /// # Errors
    /// The time until there is a token.
    pub(super) fn peek(&self, key: K, now: Instant) -> Result<(), Duration> {
        let generations = lock(&self.generations);
        let bucket = generations.young.get(&key).or_else(|| generations.old.get(&key)).copied();
        bucket.map_or(Ok(()), |mut copy| copy.take(self.rate, 1, now))
    }

    /// Number of remembered keys.
    pub(super) fn len(&self) -> usize {
        let generations = lock(&self.generations);
        generations.young.len() + generations.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peek_takes_nothing_and_many_tokens_are_taken_at_once() {
        let now = Instant::now();
        let limiter = KeyedRateLimiter::new(Rate::new(1, 3), 10);
        assert_eq!((limiter.peek(7, now), limiter.len()), (Ok(()), 0));
        assert_eq!(limiter.take_many(7, 2, now), Ok(()));
        assert_eq!((limiter.peek(7, now), limiter.peek(7, now)), (Ok(()), Ok(())));
        assert_eq!(limiter.take_many(7, 2, now), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take_many(7, 1, now), Ok(()));
        assert_eq!(limiter.peek(7, now), Err(Duration::from_secs(1)));
        assert_eq!(
            limiter.take_many(8, 100, now),
            Ok(()),
            "more than the size is possible once the bucket is full"
        );
    }

    #[test]
    fn memory_is_bounded_and_an_active_key_is_not_evicted() {
        let (now, rate) = (Instant::now(), Rate::new(1, 10));
        let limiter = KeyedRateLimiter::new(rate, 1000);
        for _ in 0..10 {
            assert_eq!(limiter.take(0, now), Ok(()));
        }
        for stranger in 1..100_000_u32 {
            assert_eq!(limiter.take(stranger, now), Ok(()));
            if stranger % 400 == 0 {
                assert!(limiter.take(0, now).is_err(), "the flood evicted the bucket");
            }
            assert!(limiter.len() <= 1000, "{} keys", limiter.len());
        }
    }
}
