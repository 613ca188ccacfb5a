//! Distinct filters of one topic. An event finds the filters that select it by the values of its row, so its
//! cost does not grow with the number of equality filters.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::evaluate::{Filter, Node, Ordered};
use super::row::Row;
use super::value::{Cell, ExactType, Value};

/// Number of a filter in its index. It is used again after the filter was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(usize);

/// Meaning of an event for the subscribers of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The filter selects the row: the one before an update too.
    Selected,
    /// An update made the filter select the row.
    Entered,
    /// The filter no longer selects the row after an update.
    Left,
    /// The event lacks a column on which the result depends.
    Unknown,
}

/// The rows of one event.
#[derive(Debug)]
pub struct Change<'a> {
    /// The row after the change, or the row that was deleted.
    pub row: Row<'a>,
    /// The row before an update.
    pub before: Option<Row<'a>>,
}

impl Change<'_> {
    /// Steps of patterns on both rows so far.
    pub(crate) fn pattern_steps(&self) -> usize {
        let steps = |row: &Row<'_>| row.pattern_steps().get();
        steps(&self.row) + self.before.as_ref().map_or(0, steps)
    }
}

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
}

/// Filters that are found by the value of one column.
#[derive(Debug)]
struct Indexed {
    column: usize,
    kind: ExactType,
    by_value: HashMap<Value<'static>, Found>,
    /// All of them, for a row that lacks the column.
    all: HashSet<FilterId>,
    /// Number of values whose filters have this many conditions.
    sizes: BTreeMap<usize, usize>,
}

/// Filters that one value finds.
#[derive(Debug, Default)]
struct Found {
    filters: Vec<FilterId>,
    /// Number of their conditions.
    conditions: usize,
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
        let Some(keys) = keys(&filter.root) else {
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
        let Some(keys) = keys(&filter.root) else {
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
        self.other_conditions + self.by_value.iter().map(|indexed| 2 * indexed.largest()).sum::<usize>()
    }

    /// Whether a filter that is not in the index would be evaluated for most events: no value finds it, or
    /// one that finds this many others already.
    #[must_use]
    pub fn is_costly(&self, filter: &Filter, found_max: usize) -> bool {
        let Some(keys) = keys(&filter.root) else { return true };
        keys.iter().any(|(column, _, values)| {
            let indexed = self.by_value.iter().find(|indexed| indexed.column == *column);
            let found = |value| {
                indexed.and_then(|indexed| indexed.by_value.get(value)).map_or(0, |found| found.filters.len())
            };
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

impl Indexed {
    fn new(column: usize, kind: ExactType) -> Self {
        Self { column, kind, by_value: HashMap::new(), all: HashSet::new(), sizes: BTreeMap::new() }
    }

    fn add(&mut self, id: FilterId, values: &[Value<'static>], conditions: usize) {
        self.all.insert(id);
        for value in values {
            let found = self.by_value.entry(value.clone()).or_default();
            // Alternatives may name a value twice.
            if found.filters.last() != Some(&id) {
                let former = found.conditions;
                found.filters.push(id);
                found.conditions += conditions;
                let size = found.conditions;
                self.resize(former, size);
            }
        }
    }

    fn remove(&mut self, id: FilterId, values: &[Value<'static>], conditions: usize) {
        self.all.remove(&id);
        for value in values {
            let Some(found) = self.by_value.get_mut(value) else { continue };
            let Some(at) = found.filters.iter().position(|other| *other == id) else { continue };
            let former = found.conditions;
            found.filters.swap_remove(at);
            found.conditions -= conditions;
            let size = found.conditions;
            if found.filters.is_empty() {
                self.by_value.remove(value);
            }
            self.resize(former, size);
        }
    }

    /// Counts a value whose filters have another number of conditions now.
    fn resize(&mut self, former: usize, size: usize) {
        if let Some(count) = self.sizes.get_mut(&former) {
            *count -= 1;
            if *count == 0 {
                self.sizes.remove(&former);
            }
        }
        if size > 0 {
            *self.sizes.entry(size).or_default() += 1;
        }
    }

    /// The most conditions that one value finds.
    fn largest(&self) -> usize {
        self.sizes.last_key_value().map_or(0, |(size, _)| *size)
    }

    /// Adds the filters that may select this row.
    fn find<'a>(&'a self, row: &'a Row<'_>, found: &mut Vec<FilterId>) {
        match row.cell(self.column, self.kind) {
            // Nobody knows which of them select it.
            Cell::Missing => found.extend(&self.all),
            Cell::Null => {}
            Cell::Value(value) => {
                let by_value: &HashMap<Value<'a>, Found> = &self.by_value;
                let filters = by_value.get(self.kind.comparable(value).as_ref()).map(|found| &found.filters);
                found.extend(filters.into_iter().flatten());
            }
        }
    }
}

impl Filter {
    /// The meaning of an event for this filter. None if there is none.
    #[must_use]
    pub fn verdict(&self, change: &Change<'_>) -> Option<Verdict> {
        let now = self.selects(&change.row);
        let before = match &change.before {
            Some(before) if self.depends_on_changes(before) => self.selects(before),
            _ => now,
        };
        match (before, now) {
            (None, _) | (_, None) => Some(Verdict::Unknown),
            (Some(true), Some(true)) => Some(Verdict::Selected),
            (Some(true), Some(false)) => Some(Verdict::Left),
            (Some(false), Some(true)) => Some(Verdict::Entered),
            (Some(false), Some(false)) => None,
        }
    }
}

/// Values of a column, of which a row may have one.
type Key<'a> = (usize, ExactType, &'a [Value<'static>]);

/// Keys of which a row must have one, so that the filter can select it. None if it can select other rows too.
fn keys(node: &Node) -> Option<Vec<Key<'_>>> {
    match node {
        Node::Compare { column, kind, test: Ordered::Equal, value } => {
            Some(vec![(*column, *kind, std::slice::from_ref(value))])
        }
        Node::In { column, kind, values } => Some(vec![(*column, *kind, values)]),
        // The member with the fewest values.
        Node::All(members) => {
            let count = |keys: &Vec<Key<'_>>| keys.iter().map(|(_, _, values)| values.len()).sum::<usize>();
            members.iter().filter_map(keys).min_by_key(count)
        }
        Node::Any(members) => {
            let each: Option<Vec<_>> = members.iter().map(keys).collect();
            each.map(|each| each.into_iter().flatten().collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::column::Columns;
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
        index.verdicts(&Change { row, before })
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
        let change = Change { row: row(), before: None };
        let alone = filters.each_ref().map(|filter| filter.verdict(&change));
        assert_eq!(alone, [None, None, None, Some(Verdict::Unknown)]);
        assert_eq!(index.verdicts(&change), [(ids[3], Verdict::Unknown)]);
        assert_eq!(filter("(not.and(a.eq.x,n.eq.1))").verdict(&change), Some(Verdict::Unknown));
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
