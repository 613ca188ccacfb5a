//! Sets of columns that are compared for each filter and event, so they have a fixed size.

/// Columns of one table, by their position. Those beyond the 64th share a place with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ColumnSet(u64);

impl ColumnSet {
    pub(super) fn insert(&mut self, column: usize) {
        self.0 |= 1 << (column % 64);
    }

    /// False if no column is in both sets. If it is true, one may be.
    pub(super) fn may_share(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl FromIterator<usize> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = usize>>(columns: I) -> Self {
        let mut set = Self::default();
        columns.into_iter().for_each(|column| set.insert(column));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_with_a_common_column_may_share_one() {
        let set = |columns: &[usize]| columns.iter().copied().collect::<ColumnSet>();
        assert!(set(&[1, 63]).may_share(set(&[63])) && set(&[3, 100]).may_share(set(&[100, 7])));
        assert!(!set(&[1, 63]).may_share(set(&[2, 62])) && !set(&[]).may_share(set(&[0])));
    }
}
