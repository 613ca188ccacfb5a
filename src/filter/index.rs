//! Distinct filters of one topic. An event finds the filters that select it by the values of its row, so its
//! cost does not grow with the number of equality filters.

use std::collections::{HashMap, HashSet};

use super::evaluate::Filter;
use super::indexed::{FilterId, Indexed};
use super::keys::{Leaf, filter_keys, first_part};
use super::value::ExactType;
use super::verdict::{Change, Verdict};

/// Filters of one topic, all compiled for the same columns.
#[derive(Debug, Default)]
pub struct FilterIndex {
    /// Filters by id, with the number of their subscribers.
    filters: Vec<Option<(Filter, usize)>>,
    ids: HashMap<Filter, FilterId>,
    free: Vec<usize>,
    /// Filters that require values of columns: by column, then by value.
    by_value: Vec<Indexed>,
    /// All other filters.
    others: Vec<FilterId>,
    /// Number of their conditions.
    other_conditions: usize,
    /// Filters of several parts, by the columns of the first part: if a row lacks such a column, the result
    /// may be unknown, whatever the other parts require.
    by_first_part: HashMap<Leaf, HashSet<FilterId>>,
}

impl FilterIndex {
    /// Adds a subscriber of a filter. Equal filters have one id.
    pub fn add(&mut self, filter: &Filter) -> FilterId {
        if let Some(id) = self.ids.get(filter) {
            if let Some((_, subscribers)) = &mut self.filters[id.0] {
                *subscribers += 1;
            }
            return *id;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.filters.push(None);
            self.filters.len() - 1
        });
        let id = FilterId(at);
        self.filters[at] = Some((filter.clone(), 1));
        self.ids.insert(filter.clone(), id);
        for leaf in first_part(filter) {
            self.by_first_part.entry(leaf).or_default().insert(id);
        }
        let Some(keys) = filter_keys(filter) else {
            self.others.push(id);
            self.other_conditions += filter.conditions();
            return id;
        };
        for (column, kind, values) in keys {
            self.indexed(column, kind).add(id, values, filter.conditions());
        }
        id
    }

    /// Removes a subscriber of a filter.
    pub fn remove(&mut self, id: FilterId) {
        let Some(slot) = self.filters.get_mut(id.0) else { return };
        let Some((_, subscribers)) = slot else { return };
        *subscribers -= 1;
        if *subscribers > 0 {
            return;
        }
        let Some((filter, _)) = slot.take() else { return };
        self.ids.remove(&filter);
        self.free.push(id.0);
        for leaf in first_part(&filter) {
            let Some(filters) = self.by_first_part.get_mut(&leaf) else { continue };
            filters.remove(&id);
            if filters.is_empty() {
                self.by_first_part.remove(&leaf);
            }
        }
        let Some(keys) = filter_keys(&filter) else {
            self.others.retain(|other| *other != id);
            self.other_conditions -= filter.conditions();
            return;
        };
        for (column, kind, values) in keys {
            self.indexed(column, kind).remove(id, values, filter.conditions());
        }
        self.by_value.retain(|indexed| !indexed.all.is_empty());
    }

    /// The id of a filter that has a subscriber.
    #[must_use]
    pub fn id(&self, filter: &Filter) -> Option<FilterId> {
        self.ids.get(filter).copied()
    }

    /// Upper bound of the conditions that are evaluated for one event whose row has all columns.
    #[must_use]
    pub fn evaluations_max(&self) -> usize {
        // The row before an update finds filters too.
        self.other_conditions
            + self.by_value.iter().map(|indexed| 2 * indexed.conditions_max()).sum::<usize>()
    }

    /// Whether a filter that is not in the index would be evaluated for most events: no value finds it, or
    /// one that finds this many others already.
    #[must_use]
    pub fn is_costly(&self, filter: &Filter, found_max: usize) -> bool {
        let Some(keys) = filter_keys(filter) else { return true };
        keys.iter().any(|(column, _, values)| {
            let indexed = self.by_value.iter().find(|indexed| indexed.column == *column);
            let found = |value| indexed.map_or(0, |indexed| indexed.filters_of(value));
            values.iter().any(|value| found(value) >= found_max)
        })
    }

    /// Number of distinct filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The filters to which an event may mean something, in ascending order. To all others it means nothing.
    #[must_use]
    pub fn candidates(&self, change: &Change<'_>) -> Vec<FilterId> {
        let mut found = self.others.clone();
        for indexed in &self.by_value {
            indexed.find(&change.row, &mut found);
            if let Some(before) = &change.before {
                indexed.find(before, &mut found);
            }
        }
        for (leaf, filters) in &self.by_first_part {
            if leaf.is_missing(&change.row) || change.before.as_ref().is_some_and(|row| leaf.is_missing(row))
            {
                found.extend(filters);
            }
        }
        // An update finds some filters by both rows, and alternatives find one by several columns.
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The filters to which an event means something, in ascending order.
    #[must_use]
    pub fn verdicts(&self, change: &Change<'_>) -> Vec<(FilterId, Verdict)> {
        let verdict = |id: FilterId| {
            let (filter, _) = self.filters[id.0].as_ref()?;
            Some((id, filter.verdict(change)?))
        };
        self.candidates(change).into_iter().filter_map(verdict).collect()
    }

    fn indexed(&mut self, column: usize, kind: ExactType) -> &mut Indexed {
        let known = self.by_value.iter().position(|indexed| indexed.column == column);
        let at = known.unwrap_or_else(|| {
            self.by_value.push(Indexed::new(column, kind));
            self.by_value.len() - 1
        });
        &mut self.by_value[at]
    }
}

#[cfg(test)]
mod tests {
    use super::super::column::Columns;
    use super::super::row::Row;
    use super::super::syntax::FilterParser;
    use super::*;

    fn columns() -> Columns {
        Columns::for_tests(&[("id", "bigint"), ("a", "text"), ("n", "integer")])
    }

    fn filter(group: &str) -> Filter {
        let condition = FilterParser::default().group("and", group).expect("parses");
        Filter::compile(&[condition], &columns(), &[]).expect("compiles")
    }

    fn verdicts(index: &FilterIndex, data: &str, old: Option<&str>) -> Vec<(FilterId, Verdict)> {
        let columns = columns();
        let row = Row::new(&columns, data).expect("an object");
        let before = old.map(|old| row.before(&columns, old).expect("an object"));
        index.verdicts(&Change { row, before, entity: None })
    }

    #[test]
    fn an_event_finds_the_filters_of_both_its_rows() {
        use Verdict::{Entered, Left, Selected, Unknown};
        let mut index = FilterIndex::default();
        let groups = ["(a.eq.x)", "(a.eq.y)", "(a.in.(x,y),n.gt.1)", "(n.gt.1)", "(or(a.eq.x,n.eq.5))"];
        let ids = groups.map(|group| index.add(&filter(group)));
        // One condition that no value finds, and twice those that `x` finds, or `n` of 5.
        assert_eq!((index.others.len(), index.evaluations_max()), (1, 1 + 2 * 5 + 2 * 2));
        let of = |data: &str, old: Option<&str>| {
            {
                let found = verdicts(&index, data, old);
                found
                    .into_iter()
                    .map(|(id, verdict)| (ids.iter().position(|i| *i == id).expect("known"), verdict))
            }
            .collect::<Vec<_>>()
        };
        assert_eq!(of(r#"{"a": "x", "n": 1}"#, None), [(0, Selected), (4, Selected)]);
        assert_eq!(of(r#"{"a": "z", "n": 2}"#, None), [(3, Selected)]);
        assert_eq!(of(r#"{"a": null, "n": null}"#, None), []);
        let moved = of(r#"{"a": "y", "n": 2}"#, Some(r#"{"a": "x"}"#));
        assert_eq!(moved, [(0, Left), (1, Entered), (2, Selected), (3, Selected), (4, Left)]);
        let grown = of(r#"{"a": "y", "n": 2}"#, Some(r#"{"n": 1}"#));
        assert_eq!(grown, [(1, Selected), (2, Entered), (3, Entered)]);
        // Without `a` nobody knows.
        assert_eq!(of(r#"{"n": 1}"#, None), [(0, Unknown), (1, Unknown), (4, Unknown)]);
        assert_eq!(
            of(r#"{"n": 5}"#, None),
            [(0, Unknown), (1, Unknown), (2, Unknown), (3, Selected), (4, Selected)]
        );
    }

    /// A filter is found by its index exactly if it may select the row.
    #[test]
    fn null_decides_a_filter_whatever_a_missing_column_contains() {
        let mut index = FilterIndex::default();
        let groups = ["(a.eq.x,n.eq.1)", "(a.eq.x,n.gt.1)", "(a.like.x,n.gt.1)", "(or(a.eq.x,n.eq.1))"];
        let filters = groups.map(filter);
        let ids = filters.each_ref().map(|filter| index.add(filter));
        let columns = columns();
        let row = || Row::new(&columns, r#"{"a": null}"#).expect("an object");
        let change = Change { row: row(), before: None, entity: None };
        let alone = filters.each_ref().map(|filter| filter.verdict(&change));
        assert_eq!(alone, [None, None, None, Some(Verdict::Unknown)]);
        assert_eq!(index.verdicts(&change), [(ids[3], Verdict::Unknown)]);
        assert_eq!(filter("(not.and(a.eq.x,n.eq.1))").verdict(&change), Some(Verdict::Unknown));
    }

    /// Whether the result is unknown depends on the first part alone, and then the index finds the filter.
    #[test]
    fn the_second_part_of_a_filter_decides_nothing_until_the_first_one_is_true() {
        use Verdict::{Entered, Left, Selected, Unknown};
        let outcome = |signed: &str, asked: &str, data: &str, old: Option<&str>| {
            let both = filter(signed).and_then(&filter(asked));
            let mut index = FilterIndex::default();
            let id = index.add(&both);
            let found = verdicts(&index, data, old);
            index.remove(id);
            assert!(index.by_first_part.is_empty() && index.by_value.is_empty() && index.others.is_empty());
            let columns = columns();
            let row = Row::new(&columns, data).expect("an object");
            let before = old.map(|old| row.before(&columns, old).expect("an object"));
            let alone = both.verdict(&Change { row, before, entity: None });
            assert_eq!(found.first().map(|(_, verdict)| *verdict), alone, "{signed} {asked} {data}");
            alone
        };
        for signed in
            ["(a.eq.x)", "(a.like.x)", "(not.and(a.neq.x))", "(a.in.(x,z))", "(a.is.not_null,a.eq.x)"]
        {
            for (asked, data, old, expected) in [
                ("(n.eq.1)", r#"{"n": 1}"#, None, Some(Unknown)),
                ("(n.eq.1)", r#"{"n": 2}"#, None, Some(Unknown)),
                ("(n.gt.1)", r#"{"n": null}"#, None, Some(Unknown)),
                ("(n.eq.1)", "{}", None, Some(Unknown)),
                ("(n.eq.1)", r#"{"a": "x"}"#, None, Some(Unknown)),
                ("(n.gt.1)", r#"{"a": "x"}"#, None, Some(Unknown)),
                ("(n.eq.1)", r#"{"a": "y"}"#, None, None),
                ("(n.gt.1)", r#"{"a": "y"}"#, None, None),
                ("(n.eq.1)", r#"{"a": null}"#, None, None),
                ("(n.eq.1)", r#"{"a": "x", "n": 2}"#, None, None),
                ("(n.eq.1)", r#"{"a": "x", "n": 1}"#, None, Some(Selected)),
                ("(n.eq.1)", r#"{"a": "x", "n": 1}"#, Some(r#"{"n": 2}"#), Some(Entered)),
                ("(n.eq.1)", r#"{"a": "y"}"#, Some(r#"{"a": "x"}"#), Some(Unknown)),
                ("(n.eq.1)", r#"{"a": "y", "n": 1}"#, Some(r#"{"a": "x"}"#), Some(Left)),
                ("(n.eq.1)", r#"{"a": "y", "n": 2}"#, Some(r#"{"a": "x"}"#), None),
            ] {
                assert_eq!(outcome(signed, asked, data, old), expected, "{signed} {asked} {data}");
            }
        }
    }

    #[test]
    fn a_row_without_the_column_finds_each_filter_once() {
        let mut index = FilterIndex::default();
        let list = |first: usize| (first..first + 500).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        for first in 0..20 {
            index.add(&filter(&format!("(n.in.({}))", list(first))));
        }
        let columns = columns();
        let mut found = Vec::new();
        index.by_value[0].find(&Row::new(&columns, r#"{"a": "x"}"#).expect("an object"), &mut found);
        assert_eq!(found.len(), 20);
    }

    #[test]
    fn removed_filters_no_longer_count() {
        let mut index = FilterIndex::default();
        let of_x: Vec<_> = (0..50).map(|n| index.add(&filter(&format!("(a.eq.x,n.gt.{n})")))).collect();
        let other = index.add(&filter("(or(a.eq.y,a.in.(y,z)))"));
        assert_eq!(index.evaluations_max(), 2 * 2 * 50);
        of_x.into_iter().for_each(|id| index.remove(id));
        assert_eq!(index.evaluations_max(), 2 * 2);
        index.remove(other);
        assert_eq!((index.evaluations_max(), index.by_value.len()), (0, 0));
    }

    #[test]
    fn equal_filters_are_one_until_the_last_subscriber_leaves() {
        let mut index = FilterIndex::default();
        let first = index.add(&filter("(a.eq.x,n.eq.1)"));
        assert_eq!(index.add(&filter("(n.eq.1,a.eq.x)")), first);
        let other = index.add(&filter("(n.gt.1)"));
        assert_eq!(index.len(), 2);
        index.remove(first);
        assert_eq!(verdicts(&index, r#"{"a": "x", "n": 1}"#, None), [(first, Verdict::Selected)]);
        index.remove(first);
        assert_eq!(verdicts(&index, r#"{"a": "x", "n": 1}"#, None), []);
        index.remove(other);
        index.remove(other);
        assert!(index.is_empty() && index.by_value.is_empty() && index.others.is_empty());
        assert_eq!(index.add(&filter("(a.eq.y)")), other);
    }
}
