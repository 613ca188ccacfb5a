//! Addresses from which a valid token came lately, in bounded memory for any number of addresses.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::address::AddressKey;
use crate::sync::lock;

/// Shortest time for which an address is known after a valid token, unless there are too many.
pub(crate) const KNOWN_TIME: Duration = Duration::from_hours(1);

/// Known addresses in two generations. When the young generation is full or old, it becomes the old one, and
/// the former old one is forgotten.
#[derive(Debug)]
pub(super) struct KnownAddresses {
    /// Addresses in one generation.
    generation_max: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    young: HashSet<AddressKey>,
    old: HashSet<AddressKey>,
    /// Moment at which the young generation becomes the old one.
    end: Instant,
}

impl KnownAddresses {
    /// No addresses yet, and at most this many later.
    pub(super) fn new(addresses_max: usize, now: Instant) -> Self {
        let generations = Generations { young: HashSet::new(), old: HashSet::new(), end: now + KNOWN_TIME };
        Self { generation_max: (addresses_max / 2).max(1), generations: Mutex::new(generations) }
    }

    /// Notes that a valid token came from this address.
    pub(super) fn note(&self, address: AddressKey, now: Instant) {
        let mut generations = lock(&self.generations);
        generations.turn(now);
        if generations.young.contains(&address) {
            return;
        }
        if generations.young.len() >= self.generation_max {
            generations.old = std::mem::take(&mut generations.young);
            generations.end = now + KNOWN_TIME;
        }
        generations.young.insert(address);
    }

    /// Whether a valid token came from this address lately.
    pub(super) fn contains(&self, address: AddressKey, now: Instant) -> bool {
        let mut generations = lock(&self.generations);
        generations.turn(now);
        generations.young.contains(&address) || generations.old.contains(&address)
    }
}

impl Generations {
    fn turn(&mut self, now: Instant) {
        if now >= self.end {
            let is_recent = now < self.end + KNOWN_TIME;
            self.old = std::mem::take(&mut self.young);
            if !is_recent {
                self.old = HashSet::new();
            }
            self.end = now + KNOWN_TIME;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> AddressKey {
        AddressKey::new(std::net::Ipv4Addr::from(n).into(), 64)
    }

    #[test]
    fn an_address_is_known_for_an_hour_at_least_and_two_at_most() {
        let now = Instant::now();
        let known = KnownAddresses::new(10, now);
        known.note(address(1), now + KNOWN_TIME / 2);
        assert!(known.contains(address(1), now + KNOWN_TIME * 3 / 2));
        assert!(!known.contains(address(2), now + KNOWN_TIME * 3 / 2));
        assert!(!known.contains(address(1), now + KNOWN_TIME * 5 / 2));
        known.note(address(1), now + KNOWN_TIME * 5 / 2);
        assert!(!known.contains(address(1), now + KNOWN_TIME * 9), "after a long rest");
    }

    #[test]
    fn memory_is_bounded_and_an_active_address_stays_known() {
        let now = Instant::now();
        let known = KnownAddresses::new(100, now);
        for n in 1..10_000 {
            known.note(address(0), now);
            known.note(address(n), now);
            assert!(known.contains(address(0), now));
            let generations = lock(&known.generations);
            assert!(generations.young.len() + generations.old.len() <= 100);
        }
        assert!(!known.contains(address(1), now));
    }
}
