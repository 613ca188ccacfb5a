//! The largest of numbers that come and go.

use std::collections::BTreeMap;

/// Numbers above zero, each as often as it was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Multiset(BTreeMap<usize, usize>);

impl Multiset {
    /// Replaces one number by another one. Zero stands for none.
    pub(crate) fn replace(&mut self, former: usize, number: usize) {
        if former == number {
            return;
        }
        if let Some(count) = self.0.get_mut(&former) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&former);
            }
        }
        if number > 0 {
            *self.0.entry(number).or_default() += 1;
        }
    }

    /// The largest number; zero if there is none.
    pub(crate) fn max(&self) -> usize {
        self.0.last_key_value().map_or(0, |(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_is_known_after_each_change() {
        let mut numbers = Multiset::default();
        let mut all = [0_usize; 6];
        for _ in 0..1000 {
            let (at, number) = (fastrand::usize(..all.len()), fastrand::usize(..4));
            numbers.replace(all[at], number);
            all[at] = number;
            assert_eq!(numbers.max(), all.iter().copied().max().unwrap_or_default());
        }
        all.iter().for_each(|number| numbers.replace(*number, 0));
        assert_eq!(numbers, Multiset::default());
    }
}
