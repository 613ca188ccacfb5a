//! Results of conditions in the three-valued logic of PostgreSQL, on both rows of an update at once.

/// Results that a condition may have: several if the event lacks a column on which it depends. The lower half
/// is for the row after a change, the upper half for the row before it. If there is one row, both are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Results(u8);

const TRUE: u8 = 0x11;
const FALSE: u8 = 0x22;
const NULL: u8 = 0x44;
const AFTER: u8 = 0x07;
const BEFORE: u8 = 0x70;

impl Results {
    pub(super) const TRUE: Self = Self(TRUE);
    pub(super) const FALSE: Self = Self(FALSE);
    pub(super) const NULL: Self = Self(NULL);
    pub(super) const NOT_NULL: Self = Self(TRUE | FALSE);
    pub(super) const ANY: Self = Self(TRUE | FALSE | NULL);

    /// One result on both rows.
    pub(super) fn of(holds: bool) -> Self {
        if holds { Self::TRUE } else { Self::FALSE }
    }

    /// Results on the two rows.
    pub(super) fn of_both(before: Self, after: Self) -> Self {
        Self(before.0 & BEFORE | after.0 & AFTER)
    }

    /// The results on the row before the change, as those of one row.
    pub(super) fn before(self) -> Self {
        Self(self.0 & BEFORE | self.0 >> 4)
    }

    /// The results on the row after the change, as those of one row.
    pub(super) fn after(self) -> Self {
        Self(self.0 & AFTER | self.0 << 4)
    }

    /// Whether one of these results is possible.
    pub(super) fn may_be(self, results: Self) -> bool {
        self.0 & results.0 != 0
    }

    pub(super) fn not(self) -> Self {
        Self(self.0 & NULL | (self.0 & TRUE) << 1 | (self.0 & FALSE) >> 1)
    }

    /// True if both are, false if one is, null otherwise.
    pub(super) fn and(self, other: Self) -> Self {
        let (a, b) = (self.0, other.0);
        // Null with null or true: the shift moves true to the place of null.
        let null = a & b | a & b << 2 | a << 2 & b;
        Self(a & b & TRUE | (a | b) & FALSE | null & NULL)
    }

    /// True if one is, false if both are, null otherwise.
    pub(super) fn or(self, other: Self) -> Self {
        let (a, b) = (self.0, other.0);
        // Null with null or false: the shift moves false to the place of null.
        let null = a & b | a & b << 1 | a << 1 & b;
        Self((a | b) & TRUE | a & b & FALSE | null & NULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [u8; 3] = [1, 2, 4];

    fn of_one_row(results: u8) -> Results {
        Results(results | results << 4)
    }

    /// The results of each combination of members.
    fn expected(a: u8, b: u8, combine: impl Fn(u8, u8) -> u8) -> u8 {
        let of = |set: u8| ALL.into_iter().filter(move |result| set & result != 0);
        of(a).flat_map(|a| of(b).map(move |b| (a, b))).fold(0, |set, (a, b)| set | combine(a, b))
    }

    #[test]
    fn groups_have_every_possible_result_and_no_other() {
        let and = |a: u8, b: u8| match (a, b) {
            (2, _) | (_, 2) => 2,
            (1, 1) => 1,
            _ => 4,
        };
        let or = |a: u8, b: u8| match (a, b) {
            (1, _) | (_, 1) => 1,
            (2, 2) => 2,
            _ => 4,
        };
        for (a, b) in (1..=7).flat_map(|a| (1..=7).map(move |b| (a, b))) {
            let (first, second) = (of_one_row(a), of_one_row(b));
            assert_eq!(first.and(second), of_one_row(expected(a, b, and)), "{a} and {b}");
            assert_eq!(first.or(second), of_one_row(expected(a, b, or)), "{a} or {b}");
            assert_eq!(first.not().not(), first);
        }
        assert_eq!((Results::TRUE.not(), Results::NULL.not()), (Results::FALSE, Results::NULL));
    }

    #[test]
    fn the_results_on_one_row_do_not_affect_those_on_the_other() {
        let sets = || (1..=7).map(of_one_row);
        let both = || sets().flat_map(|before| sets().map(move |after| Results::of_both(before, after)));
        for (a, b) in both().flat_map(|a| both().map(move |b| (a, b))) {
            for (result, of) in [(a.and(b), Results::and as fn(_, _) -> _), (a.or(b), Results::or)] {
                assert_eq!(result.before(), of(a.before(), b.before()), "{a:?} {b:?}");
                assert_eq!(result.after(), of(a.after(), b.after()), "{a:?} {b:?}");
            }
            assert_eq!(a.not(), Results::of_both(a.before().not(), a.after().not()));
        }
    }
}
