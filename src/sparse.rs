//! Maps that give memory back: a map of the standard library keeps room for as many entries as it ever had, also when
//! the thousands that came together have left.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// Smaller maps are left alone.
const ENTRIES_MIN: usize = 64;

/// To be called after entries were removed. A map that is mostly room gives most of that back; seldom enough that a
/// removal stays cheap on average: next time half of what is left must have gone.
pub(crate) fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V, impl BuildHasher>) {
    if map.capacity() > ENTRIES_MIN && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_what_is_in_it_and_moves_seldom() {
        let mut map: HashMap<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let (mut moves, mut capacity) = (0, map.capacity());
        for n in 0..10_000 {
            map.remove(&n);
            shrink(&mut map);
            assert!(map.capacity() <= ENTRIES_MIN.max(8 * map.len()), "{} for {}", map.capacity(), map.len());
            if map.capacity() != capacity {
                (moves, capacity) = (moves + 1, map.capacity());
            }
        }
        assert!(moves < 20, "moved {moves} times");
    }
}
