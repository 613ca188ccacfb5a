//! Filters that are found by the value of one column.

use std::collections::{HashMap, HashSet};

use super::multiset::Multiset;
use super::row::Row;
use super::value::{Cell, ExactType, Value};

/// Number of a filter in its index. It is used again after the filter was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub(super) usize);

impl FilterId {
    /// Position of the filter in its index, below the greatest number of filters so far.
    pub(crate) fn position(self) -> usize {
        self.0
    }
}

/// Filters that are found by the value of one column.
#[derive(Debug)]
pub(super) struct Indexed {
    pub(super) column: usize,
    kind: ExactType,
    by_value: HashMap<Value<'static>, Found>,
    /// All of them, for a row that lacks the column.
    pub(super) all: HashSet<FilterId>,
    /// Number of values whose filters have this many conditions.
    sizes: Multiset,
}

/// Filters that one value finds.
#[derive(Debug, Default)]
struct Found {
    filters: Vec<FilterId>,
    /// Number of their conditions.
    conditions: usize,
}

impl Indexed {
    pub(super) fn new(column: usize, kind: ExactType) -> Self {
        Self { column, kind, by_value: HashMap::new(), all: HashSet::new(), sizes: Multiset::default() }
    }

    pub(super) fn add(&mut self, id: FilterId, values: &[Value<'static>], conditions: usize) {
        self.all.insert(id);
        for value in values {
            let found = self.by_value.entry(value.clone()).or_default();
            // Alternatives may name a value twice.
            if found.filters.last() != Some(&id) {
                let former = found.conditions;
                found.filters.push(id);
                found.conditions += conditions;
                let size = found.conditions;
                self.sizes.replace(former, size);
            }
        }
    }

    pub(super) fn remove(&mut self, id: FilterId, values: &[Value<'static>], conditions: usize) {
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
            self.sizes.replace(former, size);
        }
    }

    /// The most conditions that one value finds.
    pub(super) fn conditions_max(&self) -> usize {
        self.sizes.max()
    }

    /// Number of filters that a value finds.
    pub(super) fn filters_of(&self, value: &Value<'static>) -> usize {
        self.by_value.get(value).map_or(0, |found| found.filters.len())
    }

    /// Adds the filters that may select this row.
    pub(super) fn find<'a>(&'a self, row: &'a Row<'_>, found: &mut Vec<FilterId>) {
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
