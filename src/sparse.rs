//! Shrinking of hash maps after their entries were removed.
//!
//! A map of the standard library keeps the capacity for its largest number of entries, even after thousands
//! of sessions that connected together have left.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// Number of entries below which a map is not shrunk, because it would save too little memory.
const ENTRIES_MIN: usize = 64;

/// Shrinks a map whenever half of its entries have been removed. Call it after each removal.
///
/// The number of entries decides, and not `capacity()`: a map's capacity does not count deleted places that
/// cannot be reused yet. In a map that was full the capacity may therefore fall with every removal, although
/// no memory is freed.
pub(crate) fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V, impl BuildHasher>) {
    let entries = map.len();
    if entries >= ENTRIES_MIN && entries.is_power_of_two() {
        map.shrink_to(2 * entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_follows_the_number_of_entries_with_few_reallocations() {
        let mut map: HashMap<usize, usize> = HashMap::with_capacity(10_000);
        // Filled up to its capacity.
        for n in 0..map.capacity() {
            map.insert(n, n);
        }
        let full = map.len();
        let address = |map: &HashMap<usize, usize>| &raw const map[&(full - 1)];
        let (mut moves, mut last) = (0, address(&map));
        for n in 0..full - ENTRIES_MIN {
            map.remove(&n);
            shrink(&mut map);
            if address(&map) != last {
                (moves, last) = (moves + 1, address(&map));
            }
        }
        assert!(map.capacity() <= 4 * ENTRIES_MIN, "capacity {}", map.capacity());
        assert!((1..=8).contains(&moves), "{moves} reallocations");
        // An entry that is added and removed at such a number causes no reallocation.
        for n in 0..100 {
            map.insert(n, n);
            map.remove(&n);
            shrink(&mut map);
        }
        assert_eq!(address(&map), last);
    }
}
