//! Maps that give memory back: a map of the standard library keeps room for as many entries as it ever had, also when
//! the thousands that came together have left.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// Room for fewer is not worth the while.
const ENTRIES_MIN: usize = 64;

/// To be called after each removal: whenever half of the entries have gone, most of the room that is left free goes back.
///
/// The number of entries tells when, because a map's `capacity` does not count places that were emptied and can't be
/// reused yet: of a map that was full it may fall with every removal, without any memory being given back.
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
    fn room_follows_what_is_in_it_and_moves_seldom() {
        let mut map: HashMap<usize, usize> = HashMap::with_capacity(10_000);
        // Full to the last place.
        for n in 0..map.capacity() {
            map.insert(n, n);
        }
        let full = map.len();
        let place = |map: &HashMap<usize, usize>| &raw const map[&(full - 1)];
        let (mut moves, mut last) = (0, place(&map));
        for n in 0..full - ENTRIES_MIN {
            map.remove(&n);
            shrink(&mut map);
            if place(&map) != last {
                (moves, last) = (moves + 1, place(&map));
            }
        }
        assert!(map.capacity() <= 4 * ENTRIES_MIN, "room for {}", map.capacity());
        assert!((1..=8).contains(&moves), "moved {moves} times");
        // Who comes and goes at such a number moves nothing.
        for n in 0..100 {
            map.insert(n, n);
            map.remove(&n);
            shrink(&mut map);
        }
        assert_eq!(place(&map), last);
    }
}
