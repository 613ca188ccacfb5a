//! Distinct filters of one topic. An event finds the filters that select it by the values of its row, so its
//! cost does not grow with the number of equality filters.

use std::collections::HashMap;

use super::evaluate::{Filter, Node, Ordered, Outcome};
use super::row::Row;
use super::value::{Cell, ExactType, Value};

/// Number of a filter in its index. It is used again after the filter was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(usize);

/// Meaning of an event for the subscribers of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// Filters that are found by the value of one column.
#[derive(Debug)]
struct Indexed {
    column: usize,
    kind: ExactType,
    filters: HashMap<Value<'static>, Vec<FilterId>>,
    /// The most filters that one value has found so far.
    largest: usize,
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
            return id;
        };
        for (column, kind, values) in keys {
            let indexed = self.indexed(column, kind);
            for value in values {
                let found = indexed.filters.entry(value.clone()).or_default();
                found.push(id);
                indexed.largest = indexed.largest.max(found.len());
            }
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
            return;
        };
        for (column, kind, values) in keys {
            let indexed = self.indexed(column, kind);
            for value in values {
                if let Some(ids) = indexed.filters.get_mut(value) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        indexed.filters.remove(value);
                    }
                }
            }
        }
        self.by_value.retain(|indexed| !indexed.filters.is_empty());
    }

    /// The id of a filter that has a subscriber.
    #[must_use]
    pub fn id(&self, filter: &Filter) -> Option<FilterId> {
        self.ids.get(filter).copied()
    }

    /// Upper bound of the filters that are evaluated for one event whose row has all columns.
    #[must_use]
    pub fn evaluations_max(&self) -> usize {
        // The row before an update finds filters too.
        self.others.len() + self.by_value.iter().map(|indexed| 2 * indexed.largest).sum::<usize>()
    }

    /// Whether a filter that is not in the index would be evaluated for most events: no value finds it, or
    /// one that finds this many others already.
    #[must_use]
    pub fn is_costly(&self, filter: &Filter, found_max: usize) -> bool {
        let Some(keys) = keys(&filter.root) else { return true };
        keys.iter().any(|(column, _, values)| {
            let indexed = self.by_value.iter().find(|indexed| indexed.column == *column);
            let found = |value| indexed.and_then(|indexed| indexed.filters.get(value)).map_or(0, Vec::len);
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

    /// The filters to which an event means something, in ascending order.
    #[must_use]
    pub fn verdicts(&self, change: &Change<'_>) -> Vec<(FilterId, Verdict)> {
        let mut found = Vec::new();
        for indexed in &self.by_value {
            indexed.find(&change.row, &mut found);
            if let Some(before) = &change.before {
                indexed.find(before, &mut found);
            }
        }
        // An update finds some filters by both rows, and alternatives find one by several columns.
        found.sort_unstable();
        found.dedup();
        let candidates = found.iter().chain(&self.others);
        let mut verdicts: Vec<_> = candidates
            .filter_map(|id| {
                let (filter, _) = self.filters[id.0].as_ref()?;
                Some((*id, filter.verdict(change)?))
            })
            .collect();
        verdicts.sort_unstable_by_key(|(id, _)| *id);
        verdicts
    }

    fn indexed(&mut self, column: usize, kind: ExactType) -> &mut Indexed {
        let known = self.by_value.iter().position(|indexed| indexed.column == column);
        let at = known.unwrap_or_else(|| {
            self.by_value.push(Indexed { column, kind, filters: HashMap::new(), largest: 0 });
            self.by_value.len() - 1
        });
        &mut self.by_value[at]
    }
}

impl Indexed {
    /// Adds the filters that may select this row.
    fn find<'a>(&'a self, row: &'a Row<'_>, found: &mut Vec<FilterId>) {
        match row.cell(self.column, self.kind) {
            // Nobody knows which of them select it.
            Cell::Missing => found.extend(self.filters.values().flatten()),
            Cell::Null => {}
            Cell::Value(value) => {
                let filters: &HashMap<Value<'a>, Vec<FilterId>> = &self.filters;
                found.extend(filters.get(self.kind.comparable(value).as_ref()).into_iter().flatten());
            }
        }
    }
}

impl Filter {
    /// The meaning of an event for this filter. None if there is none.
    #[must_use]
    pub fn verdict(&self, change: &Change<'_>) -> Option<Verdict> {
        let now = self.evaluate(&change.row);
        let before = match &change.before {
            Some(before) if self.depends_on_changes(before) => self.evaluate(before),
            _ => now,
        };
        match (before, now) {
            (Outcome::Unknown, _) | (_, Outcome::Unknown) => Some(Verdict::Unknown),
            (Outcome::True, Outcome::True) => Some(Verdict::Selected),
            (Outcome::True, _) => Some(Verdict::Left),
            (_, Outcome::True) => Some(Verdict::Entered),
            _ => None,
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
        assert_eq!((index.others.len(), index.evaluations_max()), (1, 9));
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
